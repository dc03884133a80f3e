"""The page's server under load, and under what is sent to break it."""

import contextlib
import io
import json
import os
import re
import signal
import socket
import statistics
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import uvicorn
from conftest import Cli
from PIL import Image
from running import start
from test_demo import bomb, picture, save_checkpoint

from lit_cifar.demo import connections, server

NO_PICTURE = "This is no picture that can be read, or a damaged one; send PNG, JPEG, WEBP, GIF or BMP."
NOTHING = "There is nothing at this address; the page is at /."
NO_IMAGE = "The gallery has no such image; reload the page."
TOO_LARGE = "The file is larger than 20 MB; send a smaller picture."


class Demo(NamedTuple):
    port: int
    pid: int

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=300)

    def send(self, head: bytes, body: bytes = b"") -> tuple[int, str]:
        """Status and sentence that are answered to raw bytes; `head` without its Host, and without its end."""
        with self.connect() as connection:
            connection.sendall(head + b"\r\nHost: 127.0.0.1\r\n\r\n" + body)
            return answer(connection)

    def predict(self, content: bytes, more: str = "") -> tuple[int, str]:
        return self.send(f"POST /predict HTTP/1.1\r\nContent-Length: {len(content)}{more}".encode(), content)

    def peak(self) -> int:
        """MiB of memory at most so far."""
        (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        return int(kib) >> 10


def answer(connection: socket.socket) -> tuple[int, str]:
    """Status, and the sentence or the first class of a picture."""
    received = b""
    while more := connection.recv(2**16):
        received += more
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length and len(body) >= int(length[1]):
            break
    head, _, body = received.partition(b"\r\n\r\n")
    told = json.loads(body)
    return int(head.split()[1]), told["error"] if "error" in told else told["classes"][0]["name"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A running demo, which must say nothing until it is ended by Ctrl-C, at once."""
    process = start("demo", "--port=0", "--ckpt_path", save_checkpoint(tmp_path_factory.mktemp("demo") / "best.ckpt"))
    assert process.stdout is not None
    (port,) = re.findall(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
    yield Demo(int(port), process.pid)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "lit_cifar: stopped by Ctrl-C\n")


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")


def frames(kind: str) -> bytes:
    """An animation of 300 frames of 1 Mpx."""
    file = io.BytesIO()
    first, *others = (Image.new("P", (1000, 1000), i % 250) for i in range(300))
    first.save(
        file, kind, save_all=True, append_images=others, duration=10, **({"method": 0} if kind == "WEBP" else {})
    )
    return file.getvalue()


def webp_canvas() -> bytes:
    """A WEBP animation that says it has 16,383 × 16,383 pixels, of which one is drawn."""
    file = io.BytesIO()
    one = Image.new("RGB", (2, 2))
    one.save(file, "WEBP", save_all=True, append_images=[Image.new("RGB", (2, 2), "red")])
    content = bytearray(file.getvalue())
    place = content.index(b"VP8X") + 12
    content[place : place + 6] = (16_382).to_bytes(3, "little") * 2
    return bytes(content)


def gif_canvas() -> bytes:
    """A GIF whose only frame is 60,000 × 60,000 pixels large, on a screen of one."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\x02\x4c\x01\x00;"


def passes() -> bytes:
    """A progressive JPEG of 6,000 × 6,000 pixels, whose last pass is repeated a thousand times."""
    file = io.BytesIO()
    Image.new("L", (6000, 6000)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 1000 + content[-2:]


def long_text() -> bytes:
    """A PNG of one pixel, with 200 MB of text in 200 kB."""
    content = picture(side=8)
    data = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(200 * 2**20), 9)
    chunk = (len(data) - 4).to_bytes(4, "big") + data + zlib.crc32(data).to_bytes(4, "big")
    return content[:33] + chunk + content[33:]


BOMBS = {
    "no bytes": (b"", 400, NO_PICTURE),
    "no picture": (os.urandom(5000), 400, NO_PICTURE),
    "cut short": (picture(kind="JPEG")[:900], 400, NO_PICTURE),
    "2.5 gigapixels": (bomb(50_000, 50_000), 400, "The picture has more than the 50 million pixels that are opened"),
    "a GIF's frame": (gif_canvas(), 400, "The picture has more than the 50 million pixels that are opened"),
    "a WEBP's canvas": (webp_canvas(), 400, "The picture has more than the 50 million pixels that are opened"),
    "a GIF of 300 frames": (frames("GIF"), 200, ""),
    "a WEBP of 300 frames": (frames("WEBP"), 200, ""),
    "a JPEG of 1,000 passes": (passes(), 400, "The picture is stored in more than 100 passes; save it anew"),
    "200 MB of text": (long_text(), 400, NO_PICTURE),
}


@pytest.mark.slow
@linux
def test_no_picture_blows_up(demo: Demo) -> None:
    assert demo.predict(picture())[0] == 200
    for name, (content, status, sentence) in BOMBS.items():
        before = demo.peak()
        answered = demo.predict(content)
        assert answered[0] == status, (name, answered)
        assert answered[1].startswith(sentence), (name, answered)
        assert demo.peak() - before < 300, name  # MiB


PATHS = [
    "/../../etc/passwd",
    "/..%2f..%2fetc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/%252e%252e/etc/passwd",
    "/..%5c..%5cserver.py",
    "//etc/passwd",
    "/etc/passwd",
    "/page.js%00.png",
    "/%00",
    "/index.html/../../server.py",
    "/images/-1.png",
    "/images/1e3.png",
    "/images/../about.png",
    "/%ff%fe",
]
GARBLED = "This is no HTTP request, or one whose headers are longer than 64 kB."
FORM = b"--x\r\nContent-Disposition: form-data; name=a; filename=a.png\r\n\r\n" + picture() + b"\r\n--x--"
KIND = "What was sent is said to be no picture (Content-Type); send PNG, JPEG, WEBP, GIF or BMP as image/…."
METHOD = "This address does not take that method; the header Allow names those it takes."
FOREIGN = "Pages of other sites may not ask this server."


@pytest.mark.slow
def test_whatever_is_asked_wrongly_is_refused_in_a_sentence(demo: Demo) -> None:
    for path in PATHS:
        assert demo.send(f"GET {path} HTTP/1.1".encode()) == (404, NOTHING), path
    assert demo.send(b"GET /images/99999999999999999999999999.png HTTP/1.1") == (404, NO_IMAGE)
    for line in (
        b"GET /\0 HTTP/1.1",
        b"GET / /x HTTP/1.1",
        b"\x16\x03\x01\x02\0",
        b"GET / HTTP/1.1\r\nA: " + b"a" * 2**17,
    ):
        assert demo.send(line) == (400, GARBLED), line[:20]
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE", "NONSENSE"):
        assert demo.send(f"{method} /predict HTTP/1.1".encode()) == (405, METHOD), method
    for path in ("/", "/about", "/page.js", "/images/1.png"):
        assert demo.send(f"POST {path} HTTP/1.1\r\nContent-Length: 0".encode()) == (405, METHOD), path
    for kind in (
        "multipart/form-data; boundary=x",
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
    ):
        assert demo.predict(FORM, f"\r\nContent-Type: {kind}") == (415, KIND), kind
    for kind in ("image/png", "IMAGE/JPEG", "application/octet-stream", "image/nonsense"):
        assert demo.predict(picture(), f"\r\nContent-Type: {kind}")[0] == 200, kind  # its bytes tell


@pytest.mark.slow
def test_no_other_site_reaches_the_server_through_a_browser(demo: Demo) -> None:
    own, image = f"127.0.0.1:{demo.port}", picture()
    for host in (
        "elsewhere.example",
        f"elsewhere.example:{demo.port}",
        "127.0.0.1.elsewhere.example",
        "",
        "[::1",
        "0.0.0.0",
    ):
        with demo.connect() as connection:
            connection.sendall(f"GET /about HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert answer(connection) == (
                421,
                "This server is not to be called by that name; open the address that it printed.",
            ), host
    for origin in (
        "http://elsewhere.example",
        "null",
        "",
        "http://127.0.0.1:1",
        "http://localhost",
        f"http://{own}.x.example",
    ):
        with demo.connect() as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: {own}\r\nOrigin: {origin}\r\n"
            connection.sendall(f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image)
            assert answer(connection) == (403, FOREIGN), origin
    for host in (own, f"localhost:{demo.port}", f"LOCALHOST:{demo.port}", f"[::1]:{demo.port}"):
        with demo.connect() as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
            connection.sendall(f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image)
            assert answer(connection)[0] == 200, host


@pytest.mark.slow
@linux
def test_a_hundred_megabytes_are_refused_and_not_kept(demo: Demo) -> None:
    assert demo.predict(picture())[0] == 200
    before = demo.peak()
    assert demo.predict(bytes(100 * 2**20)) == (413, TOO_LARGE)
    chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
    with demo.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            connection.sendall(chunk)
        connection.sendall(b"0\r\n\r\n")
        assert answer(connection) == (413, TOO_LARGE)
        connection.sendall(b"no HTTP at all\r\n\r\n")  # after which the same connection is of no use
        connection.settimeout(30)
        assert b"HTTP/1.1 400" in connection.recv(2**16)
    with demo.connect() as connection:  # one that breaks in the midst of its chunks
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"zz\r\n"
        )
        assert answer(connection) == (400, GARBLED)
    assert demo.peak() - before < 60  # MiB
    assert demo.predict(picture())[0] == 200


@pytest.mark.slow
def test_slow_clients_block_nobody_and_are_given_up(demo: Demo) -> None:
    heads = [demo.connect() for _ in range(40)]
    bodies = [demo.connect() for _ in range(40)]
    for connection in bodies:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n")
    answered, ended, begun = 0, 0, time.monotonic()
    waiting = set(heads + bodies)
    said: list[tuple[int, str]] = []
    while waiting and time.monotonic() - begun < server.SECONDS + 3 * connections.PATIENCE:
        for connection in list(waiting):
            connection.settimeout(0.002)
            with contextlib.suppress(OSError):  # closed: what was answered before has arrived all the same
                connection.sendall(b"G")
            try:
                answered_at_all = bool(connection.recv(1, socket.MSG_PEEK))
            except TimeoutError:
                continue
            except OSError:
                answered_at_all = False
            if answered_at_all:
                connection.settimeout(60)  # its head may arrive before its body
                said.append(answer(connection))
            waiting.remove(connection)
            ended += 1
        assert demo.predict(picture())[0] == 200
        answered += 1
        time.sleep(0.8)
    assert ended == 80  # none is held for ever
    assert answered >= 10
    assert said == [(408, "The picture did not arrive within 30 seconds; send it again.")] * 40


def load(demo: Demo, clients: int, seconds: float) -> list[float]:
    """Latencies of the requests that so many clients send, each as soon as its last is answered; all must be right."""
    pictures = [picture(side, kind) for side in (32, 300, 2000) for kind in ("PNG", "JPEG", "WEBP")]
    expected = [demo.predict(content) for content in pictures]
    assert {status for status, _ in expected} == {200}
    end = time.monotonic() + seconds

    def client(turn: int) -> list[float]:
        took = []
        while (begun := time.monotonic()) < end:
            turn += 1
            assert demo.predict(pictures[turn % 9]) == expected[turn % 9]
            took.append(time.monotonic() - begun)
        return took

    with ThreadPoolExecutor(clients) as pool:
        return [seconds for took in pool.map(client, range(clients)) for seconds in took]


@pytest.mark.slow
@linux
def test_sixty_four_clients_at_once_are_all_answered(demo: Demo) -> None:
    took = load(demo, 64, float(os.environ.get("LIT_CIFAR_LOAD_SECONDS", "20")))
    print(f"{len(took)} requests, median {statistics.median(took):.2f} s, worst {max(took):.2f} s, {demo.peak()} MiB")
    assert len(took) >= 64
    assert demo.peak() < 2000


@pytest.mark.slow
@linux
def test_memory_stays_under_two_gigabytes_when_all_send_large_files(demo: Demo) -> None:
    content = picture() + bytes(server.LIMIT - len(picture()))  # 20 MB, most of it after the picture's end
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: demo.predict(content), range(64)))
    assert {status for status, _ in answers} <= {200, 503}
    assert {sentence for status, sentence in answers if status == 503} <= {server.BUSY}
    assert sum(status == 200 for status, _ in answers) >= server.HELD // server.LIMIT // 2
    assert demo.peak() < 2000
    assert demo.predict(picture())[0] == 200


@pytest.mark.slow
def test_ctrl_c_waits_for_no_upload_and_leaves_no_traceback(tmp_path: Path) -> None:
    process = start("demo", "--port=0", "--ckpt_path", save_checkpoint(tmp_path / "best.ckpt"))
    assert process.stdout is not None
    (port,) = re.findall(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
    demo = Demo(int(port), process.pid)
    assert demo.predict(picture())[0] == 200
    content = picture(1500)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    uploads = [demo.connect() for _ in range(20)]
    for i, connection in enumerate(uploads):
        connection.sendall(head + content[: None if i % 2 else 1000])  # half are never finished
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "lit_cifar: stopped by Ctrl-C\n")


def test_one_who_names_no_host_is_reached_from_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    listeners: list[socket.socket] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: listeners.extend(sockets))
    result = cli("demo", "--port=0", "--ckpt_path", save_checkpoint(tmp_path / "best.ckpt"))
    assert result.code == 0, result.err
    (listener,) = listeners
    assert listener.getsockname()[0] == "127.0.0.1"
    assert "Anyone" not in result.out
    listener.close()
