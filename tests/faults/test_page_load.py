"""The page's server under load: many clients, slow ones, large files."""

import contextlib
import os
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from demo_process import Demo, answer, demo, linux
from serving import picture

from lit_cifar.deploy.demo import server

__all__ = ["demo"]  # a fixture


@pytest.mark.slow
@linux
def test_a_hundred_megabytes_are_refused_and_not_kept(demo: Demo) -> None:
    assert demo.predict(picture())[0] == 200
    before = demo.peak()
    assert demo.predict(bytes(100 * 2**20))[0] == 413
    chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
    with demo.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            connection.sendall(chunk)
        connection.sendall(b"0\r\n\r\n")
        assert answer(connection)[0] == 413
        connection.sendall(b"no HTTP at all\r\n\r\n")  # after which the same connection is of no use
        connection.settimeout(30)
        assert b"HTTP/1.1 400" in connection.recv(2**16)
    with demo.connect() as connection:  # one that breaks in the midst of its chunks
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"zz\r\n"
        )
        assert answer(connection)[0] == 400
    assert demo.peak() - before < 60  # MiB
    assert demo.predict(picture())[0] == 200


@pytest.mark.slow
def test_slow_uploads_block_nobody_and_are_given_up(demo: Demo) -> None:
    waiting = {demo.connect() for _ in range(40)}
    for connection in waiting:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n")
    statuses: list[int] = []
    answered, begun = 0, time.monotonic()
    while waiting and time.monotonic() - begun < server.SECONDS + 30:
        for connection in list(waiting):
            connection.settimeout(0.002)
            with contextlib.suppress(OSError):  # closed: what was answered before has arrived all the same
                connection.sendall(b"G")
            try:
                connection.recv(1, socket.MSG_PEEK)
            except TimeoutError:
                continue
            connection.settimeout(60)  # its head may arrive before its body
            statuses.append(answer(connection)[0])
            waiting.remove(connection)
        assert demo.predict(picture())[0] == 200
        answered += 1
        time.sleep(0.8)
    assert statuses == [408] * 40
    assert answered >= 10


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
    assert sum(status == 200 for status, _ in answers) >= server.HELD // server.LIMIT // 2
    assert demo.peak() < 2000
    assert demo.predict(picture())[0] == 200
