"""Downloads an archive from the first mirror that delivers it: complete and checked, or not at all.

What has arrived is kept in a file with the ending .part, and the next attempt continues there, on any mirror and in any
process. A mirror slower than 100 kB/s (half an hour for CIFAR-10) is left while another is untried, and used again if
the others fail. torch is not imported here.
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

from lit_cifar.data.files import unwritable
from lit_cifar.data.progress_bar import progress_bar
from lit_cifar.errors import UsageError, UserError

ADDRESS = re.compile(r"https?://([^/?#\s]+)\S*", re.IGNORECASE)  # its group is the host
CHUNK = 1 << 20  # bytes
WEAK_BYTES = 1_000_000  # a connection that delivers fewer before it breaks is weak,
WEAK_CONNECTIONS = 5  # and a mirror is left after this many weak ones


class Archive(NamedTuple):
    """A file to download, and how to recognise it: by its size in bytes and its MD5 in hexadecimal."""

    name: str
    size: int
    md5: str
    title: str
    """What is in it, in messages."""


class DownloadError(UserError):
    """No mirror delivered the archive."""


class _MirrorError(Exception):
    """Why a mirror didn't deliver, in a few words."""


class _SlowError(_MirrorError):
    """The mirror delivers, but slowly."""


def md5_of(path: Path) -> str:
    """Returns the MD5 of a file, in hexadecimal."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def download(
    root: Path,
    mirrors: Sequence[str],
    archive: Archive,
    *,
    stall_rate: float = 100_000,
    stall_seconds: float = 20,
    connect_seconds: float = 10,
) -> Path:
    """Downloads the archive into `root` and returns its path. The caller holds the lock on `root`.

    Args:
        root: The folder, made if missing.
        mirrors: The http or https addresses of the archive, tried in this order.
        archive: What they have to deliver.
        stall_rate: Bytes/s that a mirror has to reach while another is untried.
        stall_seconds: How long a mirror may stay below that, in seconds.
        connect_seconds: How long a mirror may be silent, when connecting and later, in seconds.

    Raises UsageError if a mirror is not an http or https address, DownloadError if none delivered the archive, and
    UserError if `root` has no room for it or can't be written to.
    """
    for url in mirrors:
        if not ADDRESS.fullmatch(url):
            raise UsageError("value-wrong-type", f"--data.mirrors {url} must be an address with http:// or https://")
    path, part = root / archive.name, root / f"{archive.name}.part"
    columns = "{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    bar = progress_bar(Console(stderr=True), *columns, transient=False)
    task = bar.add_task(archive.title, total=archive.size)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file, bar:
            if shutil.disk_usage(root).free < archive.size - file.tell():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if file.tell() >= archive.size and _fault(file, archive):
                file.truncate(file.seek(0))
            reasons: dict[str, str] = {}
            queue = deque(mirrors)
            while file.tell() < archive.size:
                if not queue:
                    causes = "; ".join(reasons.values()) or "no mirror was given"
                    remedy = f"put {archive.name} into {root}, or set --data.mirrors URL or --data.dataset drawn"
                    raise DownloadError(
                        "download-failed", f"{archive.title} could not be downloaded ({causes}); {remedy}"
                    )
                url, begun = queue.popleft(), file.tell()
                rate = stall_rate if set(queue) - reasons.keys() else 0  # be patient if no mirror is untried
                host = ADDRESS.sub(r"\1", url)
                bar.reset(task, description=f"{archive.title} from {host}", completed=begun)
                if bar.disable:
                    print(f"Downloading {archive.title} ({archive.size / 1e6:.0f} MB) from {host}", file=sys.stderr)
                try:
                    _fetch(url, file, archive, bar, rate, stall_seconds, connect_seconds)
                    if fault := _fault(file, archive):
                        file.truncate(file.seek(0))
                        if begun:  # the wrong bytes may be those of another mirror or run: once more, from zero
                            queue.appendleft(url)
                        raise _MirrorError(fault)
                except _MirrorError as error:
                    reasons[url] = f"{host}: {error}"
                    if isinstance(error, _SlowError):
                        queue.append(url)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:  # of the disk: an error of the network has become a _MirrorError
        raise unwritable(path, error, archive.size, "--data.root") from error
    finally:
        with suppress(OSError):
            if part.stat().st_size == 0:
                part.unlink()
    return path


def _fetch(
    url: str, file: BufferedWriter, archive: Archive, bar: Progress, rate: float, seconds: float, timeout: float
) -> None:
    """Appends the missing bytes from one mirror, reconnecting as long as connections deliver bytes."""
    [task] = bar.task_ids
    since, received, weak = time.monotonic(), 0, 0
    while True:
        before = file.tell()
        response, start = _open(url, before, archive, timeout)
        if start < before:
            file.truncate(file.seek(start))
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
    """Returns a mirror's response and its first byte: `start`, or 0 if the mirror can't start there."""
    headers = {"User-Agent": "lit_cifar"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return _open(url, 0, archive, timeout)
        raise _MirrorError(f"HTTP {error.code}") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: http.client can't send this address
        raise _MirrorError(_why(error, timeout)) from error
    first, total = 0, response.length  # None if the mirror doesn't say
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
    """Yields the body as it arrives, until it ends or the connection breaks."""
    with suppress(OSError, HTTPException):
        while chunk := response.read1(CHUNK):  # read() would wait for a whole chunk, 20 s at 50 kB/s
            yield chunk


def _fault(file: BufferedWriter, archive: Archive) -> str:
    """Returns what is wrong with a file of the full size, or an empty string."""
    file.flush()
    if file.tell() > archive.size:
        return f"sends more than {archive.size:,} bytes"
    md5 = md5_of(Path(file.name))
    return "" if md5 == archive.md5 else f"MD5 is {md5} instead of {archive.md5}"


def _why(error: Exception, timeout: float) -> str:
    """Returns why a connection failed, in a few words."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, gaierror):
        return "no such host"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, TimeoutError):
        return f"no answer within {timeout:g} s"
    return " ".join(str(getattr(cause, "strerror", None) or cause).split())  # a server may send several lines
