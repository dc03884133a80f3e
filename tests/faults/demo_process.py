"""The demo as a process of its own, asked as a browser or an attacker asks it."""

import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from running import start
from serving import save_checkpoint

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs Linux: reads the peak of memory from /proc"
)


class Demo(NamedTuple):
    port: int
    pid: int

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=300)

    def send(self, head: bytes, body: bytes = b"") -> tuple[int, str]:
        """The answer to raw bytes; `head` without its Host, and without its end."""
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
    """Status, and the code or sentence of an error, or the first class of a picture."""
    received = b""
    while more := connection.recv(2**16):
        received += more
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length and len(body) >= int(length[1]):
            break
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    if b"application/json" not in head:
        return status, body.decode()
    answered = json.loads(body)
    return status, answered["code"] or answered["error"] if "error" in answered else answered["classes"][0]["name"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A running demo, which must say nothing until it is ended by Ctrl-C, at once."""
    process = start("demo", "--port=0", "--ckpt_path", save_checkpoint(tmp_path_factory.mktemp("demo") / "best.ckpt"))
    assert process.stdout is not None
    (port,) = re.findall(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
    yield Demo(int(port), process.pid)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "lit_cifar: stopped by Ctrl-C [interrupted]\n")
