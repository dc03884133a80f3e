"""Mirrors that send an archive well, slowly, in parts or not at all."""

import hashlib
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lit_cifar.data.download import Archive, DownloadError, download

BODY = random.Random(0).randbytes(3_000_000)
WRONG = random.Random(1).randbytes(len(BODY))
ARCHIVE = Archive("some.tar.gz", len(BODY), hashlib.md5(BODY).hexdigest(), "CIFAR-10")
WRONG_MD5 = hashlib.md5(WRONG).hexdigest()
SLOW = {"stall_rate": 100e6, "stall_seconds": 0.2}  # what dribble() can't reach

CHILD = """
import signal, sys
from pathlib import Path
from lit_cifar.data.download import Archive, download
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
root, url, name, size, md5, title = sys.argv[1:]
download(Path(root), [url], Archive(name, int(size), md5, title), connect_seconds=60)
"""


class Mirror(ThreadingHTTPServer):
    """A server that answers every request in its own way, and remembers what ranges it was asked for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Callable[["Request"], None]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answer = answer
        self.ranges: list[str | None] = []
        self.paths: list[str] = []
        self.closing = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/{ARCHIVE.name}"


class Request(BaseHTTPRequestHandler):
    """One request. Without `protocol_version`, a connection carries one answer and closes."""

    server: Mirror

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers["Range"])
        self.server.paths.append(self.path)
        with suppress(OSError):  # the client may hang up
            self.server.answer(self)

    def start(self) -> int:
        """The byte from which the client wants the body."""
        return int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])

    def head(self, status: int, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def head_from(self, start: int, size: int = ARCHIVE.size) -> None:
        headers: dict[str, Any] = {"Content-Length": size - start}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self.head(206 if start else 200, headers)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[Callable[[Callable[[Request], None]], Mirror]]:
    servers: list[Mirror] = []

    def start(answer: Callable[[Request], None]) -> Mirror:
        servers.append(Mirror(answer))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.closing.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("urllib.request._opener", None)  # urlopen keeps the proxies of its first call


Start = Callable[[Callable[[Request], None]], Mirror]


def whole(request: Request) -> None:
    request.head_from(request.start())
    request.wfile.write(BODY[request.start() :])


def without_ranges(request: Request) -> None:
    request.head_from(0)
    request.wfile.write(BODY)


def dribble(request: Request) -> None:
    """At most 4 MB/s: 20 kB, 5 ms or more apart."""
    request.head_from(request.start())
    for i in range(request.start(), len(BODY), 20_000):
        request.wfile.write(BODY[i : i + 20_000])
        if request.server.closing.wait(0.005):
            return


def wrong(request: Request) -> None:
    request.head_from(request.start())
    request.wfile.write(WRONG[request.start() :])


def too_many(request: Request) -> None:
    request.head(200, {})  # no Content-Length: the body ends with the connection
    request.wfile.write(BODY + b"more")


def missing(request: Request) -> None:
    request.send_error(404)


def page(request: Request) -> None:
    request.head(200, {"Content-Type": "text/html; charset=utf-8"})
    request.wfile.write(b"<html>Please log in</html>")


def short(request: Request) -> None:
    request.head(200, {"Content-Length": 1234})
    request.wfile.write(BODY[:1234])


def cut_after(size: int) -> Callable[[Request], None]:
    """Sends so many bytes and hangs up, however many it announced."""

    def answer(request: Request) -> None:
        request.head_from(request.start())
        request.wfile.write(BODY[request.start() :][:size])

    return answer


def half_then_silence(request: Request) -> None:
    request.head_from(0)
    request.wfile.write(BODY[:1_500_000])
    request.server.closing.wait()


@pytest.fixture
def closed() -> Iterator[str]:
    """Host of a port that is ours, and on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """Host of a port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def part_of(root: Path) -> Path:
    return root / f"{ARCHIVE.name}.part"


def check(root: Path, path: Path) -> None:
    """The archive is there, whole, and nothing beside it."""
    assert path == root / ARCHIVE.name
    assert path.read_bytes() == BODY
    assert list(root.iterdir()) == [path]


def why_not(root: Path, *urls: str, **limits: float) -> str:
    """Why a download failed: what its message says in brackets."""
    with pytest.raises(DownloadError) as caught:
        download(root, urls, ARCHIVE, **limits)
    assert caught.value.code == "download-failed"
    found = re.search(r"\((.*)\)", str(caught.value))
    assert found
    assert not (root / ARCHIVE.name).exists()
    return found[1]
