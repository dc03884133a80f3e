"""The page's server under what is sent to break it."""

import io
import os
import re
import signal
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
import uvicorn
from conftest import Cli
from demo_process import Demo, answer, demo, linux
from PIL import Image
from running import start
from serving import bomb, picture, save_checkpoint

__all__ = ["demo"]  # a fixture

NO_PICTURE, TOO_LARGE = (400, "picture-unreadable"), (400, "picture-too-large")


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


def passes_of_two() -> bytes:
    """The same, with a segment that says that a second picture follows: Pillow then calls it MPO."""
    content = passes()
    entry = struct.pack("<IIIHH", 0x030000, len(content), 0, 0, 0)
    entries = entry + struct.pack("<IIIHH", 0, len(content), 0, 0, 0)
    fields = struct.pack("<HHI4s", 0xB000, 7, 4, b"0100") + struct.pack("<HHII", 0xB001, 4, 1, 2)
    fields += struct.pack("<HHII", 0xB002, 7, len(entries), 50)
    body = b"MPF\0II*\0" + struct.pack("<IH", 8, 3) + fields + struct.pack("<I", 0) + entries
    return content[:2] + b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body + content[2:]


def long_text() -> bytes:
    """A PNG of one pixel, with 200 MB of text in 200 kB."""
    content = picture(side=8)
    data = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(200 * 2**20), 9)
    chunk = (len(data) - 4).to_bytes(4, "big") + data + zlib.crc32(data).to_bytes(4, "big")
    return content[:33] + chunk + content[33:]


BOMBS: dict[str, tuple[bytes, tuple[int, str]]] = {
    "no bytes": (b"", NO_PICTURE),
    "no picture": (os.urandom(5000), NO_PICTURE),
    "cut short": (picture(kind="JPEG")[:900], NO_PICTURE),
    "2.5 gigapixels": (bomb(50_000, 50_000), TOO_LARGE),
    "a GIF's frame": (gif_canvas(), TOO_LARGE),
    "a WEBP's canvas": (webp_canvas(), TOO_LARGE),
    "a GIF of 300 frames": (frames("GIF"), (200, "")),
    "a WEBP of 300 frames": (frames("WEBP"), (200, "")),
    "a JPEG of 1,000 passes": (passes(), TOO_LARGE),
    "an MPO of 1,000 passes": (passes_of_two(), TOO_LARGE),
    "200 MB of text": (long_text(), NO_PICTURE),
}


@pytest.mark.slow
@linux
def test_no_picture_blows_up(demo: Demo) -> None:
    assert demo.predict(picture())[0] == 200
    for name, (content, (status, code)) in BOMBS.items():
        before = demo.peak()
        answered = demo.predict(content)
        assert answered[0] == status, (name, answered)
        assert status == 200 or answered[1] == code, (name, answered)
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
FORM = b"--x\r\nContent-Disposition: form-data; name=a; filename=a.png\r\n\r\n" + picture() + b"\r\n--x--"


@pytest.mark.slow
def test_whatever_is_asked_wrongly_is_refused(demo: Demo) -> None:
    for path in PATHS:
        assert demo.send(f"GET {path} HTTP/1.1".encode())[0] == 404, path
    assert demo.send(b"GET /images/99999999999999999999999999.png HTTP/1.1")[0] == 404
    for line in (b"GET /\0 HTTP/1.1", b"GET / /x HTTP/1.1", b"\x16\x03\x01\x02\0"):
        assert demo.send(line)[0] == 400, line
    with suppress(ConnectionResetError):  # uvicorn closes without reading the rest
        assert demo.send(b"GET / HTTP/1.1\r\nA: " + b"a" * 2**17)[0] == 400
    assert demo.send(b"GET / HTTP/1.1\r\nA: " + b"a" * 2**15 + b"\r\nB:")[0] == 200
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE", "NONSENSE"):
        assert demo.send(f"{method} /predict HTTP/1.1".encode())[0] == 405, method
    for path in ("/", "/about", "/page.js", "/images/1.png"):
        assert demo.send(f"POST {path} HTTP/1.1\r\nContent-Length: 0".encode())[0] == 405, path
    for kind in (
        "multipart/form-data; boundary=x",
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
    ):
        assert demo.predict(FORM, f"\r\nContent-Type: {kind}")[0] == 415, kind
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
            assert answer(connection)[0] == 421, host
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
            assert answer(connection)[0] == 403, origin
    for host in (own, f"localhost:{demo.port}", f"LOCALHOST:{demo.port}", f"[::1]:{demo.port}"):
        with demo.connect() as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
            connection.sendall(f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image)
            assert answer(connection)[0] == 200, host


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
    assert (process.returncode, out, err) == (130, "", "lit_cifar: stopped by Ctrl-C [interrupted]\n")


def test_one_who_names_no_host_is_reached_from_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    addresses: list[str] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: addresses.append(sockets[0].getsockname()[0]))
    result = cli("demo", "--port=0", "--ckpt_path", save_checkpoint(tmp_path / "best.ckpt"))
    assert result.code == 0, result.err
    assert addresses == ["127.0.0.1"]
    assert "Anyone" not in result.out
