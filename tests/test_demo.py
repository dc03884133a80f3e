"""The server of the demo page: what it answers, and what it refuses."""

import base64
import http.client
import io
import json
import re
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from conftest import damaged_exif
from PIL import Image
from running import start
from serving import ask, bomb, classifier_of, page_of, picture, save_checkpoint, serving
from torch import Tensor, nn

from lit_cifar.data.image_set import CIFAR10_CLASSES
from lit_cifar.deploy.demo.gallery import Gallery
from lit_cifar.deploy.demo.server import CONNECTIONS, LIMIT
from lit_cifar.evaluation.wording import isolated
from lit_cifar.nets.tutorial import Net


def tiff(changed: dict[int, int]) -> bytes:
    """A TIFF of 1 × 1 pixels with some of these values, each a LONG; tags from 50,000 on hold so many bytes."""
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: 1} | changed
    entries = [struct.pack("<HHII", tag, *((7, n, 8) if tag >= 50_000 else (4, 1, n))) for tag, n in tags.items()]
    return struct.pack("<4sIH", b"II*\0", 8, len(tags)) + b"".join(entries) + bytes(2000)


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of a server in this process, of an untrained network and three test images."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    sure = torch.tensor([0.5, 0.25, 0.75])
    gallery = Gallery("Test images", images, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]), sure)
    with serving(page_of(Net(), gallery)) as port:
        yield port


def test_the_answer_is_what_predict_says(server: int) -> None:
    torch.manual_seed(0)
    torch.randint(0, 256, (3, 3, 32, 32))
    classifier = classifier_of(Net())
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        status, body = ask(server, "/predict", picture(kind=kind))
        assert status == 200
        answered = [entry["probability"] for entry in json.loads(body)["classes"]]
        expected = classifier.predict(Image.open(io.BytesIO(picture(kind=kind))))[0]
        assert torch.allclose(torch.tensor(answered), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "picture-unreadable"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "picture-unreadable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "picture-unreadable"),
        (picture()[:600], "picture-unreadable"),
        (picture(kind="JPEG2000"), "picture-unreadable"),  # a format that is not offered
        (damaged_exif(), "picture-unreadable"),
        (bomb(7_100, 7_100), "picture-too-large"),
        (bomb(60_000, 60_000), "picture-too-large"),
        (tiff({256: 7_100, 257: 7_100}), "picture-too-large"),
        (tiff({322: 40_000, 323: 40_000}), "picture-too-large"),  # a tile, which would be decoded whole
        (tiff({259: 34_925}), "picture-unreadable"),  # compressed by LZMA
        (tiff(dict.fromkeys(range(50_000, 60_000), 1000)), "picture-unreadable"),  # tags of 1000 bytes, all the same
        (tiff({})[:60], "picture-unreadable"),
        (b"II+\0" + tiff({})[4:], "picture-unreadable"),  # BigTIFF
    ],
)
def test_what_is_no_picture_is_refused_by_its_name_with_a_code(
    server: int, content: bytes, error: str, capfd: pytest.CaptureFixture[str]
) -> None:
    status, body = ask(server, "/predict?name=my+file%0A.x", content)
    answer = json.loads(body)
    assert (status, answer["code"]) == (400, error)
    assert answer["error"].startswith("my file?.x ") and answer["error"].endswith(".")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp42 hei", "not an image"),  # a film
        (b"<?xml version='1.0'?>\n<svg/>", "SVG"),
        (b"hello", "Use PNG, JPEG, WEBP, GIF, BMP or TIFF"),
        (b"", "empty"),
        *((picture(kind=kind)[:20], "is damaged or was cut short") for kind in ("PNG", "JPEG", "WEBP", "GIF")),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not an image"),
        (picture(kind="TIFF")[:20], "damaged"),
        (tiff({277: 7}), "damaged, or a rare kind of TIFF"),  # seven colours
        (b"II+\0" + bytes(60), "a BigTIFF"),
        (b"MM\0+" + bytes(60), "a BigTIFF"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(server: int, content: bytes, named: str) -> None:
    assert named in json.loads(ask(server, f"/predict?name={'long' * 100}.png", content)[1])["error"]


def test_the_answer_says_whether_the_prediction_is_right_and_shows_the_picture_as_it_is(server: int) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1000, 250), "red").save(file, "PNG")
    answers = [json.loads(ask(server, f"/predict?truth={i}", file.getvalue())[1]) for i in range(10)]
    top = max(range(10), key=lambda i: answers[0]["classes"][i]["probability"])
    guess, sure = isolated(CIFAR10_CLASSES[top]), answers[0]["classes"][top]["percent"].replace(" ", "\u00a0")
    for i, answer in enumerate(answers):
        sign, worth = ("✓", "right") if i == top else ("✗", "wrong")
        truth = f"actually {isolated(CIFAR10_CLASSES[i])}: {worth}"
        assert answer["verdict"] == [f"{sign} predicted {guess} ({sure})", truth]
        assert answer["size"] == [1000, 250]
    shown = [Image.open(io.BytesIO(base64.b64decode(answers[0][key].split(",")[1]))) for key in ("preview", "pixels")]
    assert [image.size for image in shown] == [(480, 120), (32, 32)]
    assert json.loads(ask(server, "/predict", file.getvalue())[1])["verdict"] == [f"predicted {guess} ({sure})", ""]


def test_the_map_is_that_of_the_class_asked_for(server: int) -> None:
    answers = [json.loads(ask(server, f"/predict?class={i}", picture())[1]) for i in range(10)]
    assert len({answer["map"] for answer in answers}) > 5
    for i, answer in enumerate(answers):
        assert answer["label"] == i and f" {CIFAR10_CLASSES[i]}" in answer["caption"]
    for wrong in ("10", "-1", "x", "1" * 5000, "²"):
        assert ask(server, f"/predict?class={quote(wrong)}", picture())[0] == 400


def test_a_network_that_diverged_is_refused() -> None:
    net = Net()
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    with serving(page_of(net)) as port:
        status, body = ask(port, "/predict", picture())
    assert (status, json.loads(body)["code"]) == (400, "diverged")


class Broken(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise ZeroDivisionError(f"of {len(images)} images")


def test_a_fault_of_the_server_is_answered_and_shown_in_its_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with serving(page_of(Broken())) as port:
        status, body = ask(port, "/predict", picture())
        assert ask(port, "/about")[0] == 200
    assert (status, "terminal" in json.loads(body)["error"]) == (500, True)
    assert capfd.readouterr().err.count("ZeroDivisionError: of 1 images") == 1


def test_a_file_at_the_limit_is_read_and_one_over_it_refused(server: int) -> None:
    content = picture() + bytes(LIMIT - len(picture()))
    assert (len(content), LIMIT) == (20 * 2**20, 20 * 2**20)
    assert ask(server, "/predict", content)[0] == 200
    assert ask(server, "/predict", content + b"\0")[0] == 413
    assert ask(server, "/predict", picture())[0] == 200


def test_a_file_that_grows_over_the_limit_as_it_arrives_is_refused(server: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server, timeout=60)
    connection.request("POST", "/predict", iter([bytes(2**20)] * 21), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_pictures_give_back_the_memory_they_held(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = picture(300)
    monkeypatch.setattr("lit_cifar.deploy.demo.server.HELD", len(content))
    assert [ask(server, "/predict", content)[0] for _ in range(3)] == [200] * 3
    assert ask(server, "/predict", content + b"\0")[0] == 503
    assert ask(server, "/predict", content)[0] == 200


def test_a_picture_that_does_not_arrive_in_time_is_given_up(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_cifar.deploy.demo.server.SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", server), timeout=60) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nhalf")
        assert connection.recv(2**16).startswith(b"HTTP/1.1 408 ")


def test_more_connections_than_the_limit_are_refused_until_some_close(server: int) -> None:
    held = [socket.create_connection(("127.0.0.1", server)) for _ in range(CONNECTIONS - 1)]
    deadline = time.monotonic() + 60
    while ask(server, "/about")[0] != 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ask(server, "/about")[0] == 503
    for connection in held:
        connection.close()
    while ask(server, "/about")[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ask(server, "/about")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "//etc/passwd", "/images/", "/images/3.png", "/page/"],
)
def test_nothing_but_the_page_and_its_images_is_served(server: int, path: str) -> None:
    assert ask(server, path)[0] == 404


def test_another_site_cannot_reach_the_server(server: int) -> None:
    assert ask(server, "/about", host="elsewhere.example")[0] == 421
    assert ask(server, "/about", origin="http://elsewhere.example")[0] == 403
    assert ask(server, "/about", origin="http://127.0.0.1")[0] == 200


def test_every_answer_forbids_the_browser_to_load_from_elsewhere(server: int) -> None:
    for path in ("/", "/about", "/nothing"):
        connection = http.client.HTTPConnection("127.0.0.1", server, timeout=60)
        connection.request("GET", path)
        headers = connection.getresponse().headers
        connection.close()
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")


def test_the_page_is_told_what_the_gallery_shows(server: int) -> None:
    about = json.loads(ask(server, "/about")[1])
    assert about["gallery"] == {
        "title": "Test images",
        "labels": [0, 1, 2],
        "predicted": [0, 1, 1],
        "probability": [0.5, 0.25, 0.75],
        "captions": [
            [f"✓ predicted {isolated('plane')} (50.0\u00a0%)", ""],
            [f"✓ predicted {isolated('car')} (25.0\u00a0%)", ""],
            [f"✗ predicted {isolated('car')} (75.0\u00a0%)", f"actually {isolated('bird')}"],
        ],
    }
    assert (about["classes"], about["limit"]) == (list(CIFAR10_CLASSES), LIMIT)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    for i, image in enumerate(images):
        shown = Image.open(io.BytesIO(ask(server, f"/images/{i}.png")[1]))
        assert np.array_equal(np.asarray(shown), image.permute(1, 2, 0).numpy())


def test_a_picture_that_is_never_finished_does_not_stop_the_others(server: int) -> None:
    sockets = [socket.create_connection(("127.0.0.1", server)) for _ in range(3)]
    for connection in sockets:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nhalf")
    assert ask(server, "/predict", picture())[0] == 200
    for connection in sockets:
        connection.close()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: reads /proc")
def test_memory_stays_bounded_under_many_large_pictures_at_once(tmp_path: Path) -> None:
    process = start("demo", "--port=0", "--ckpt_path", save_checkpoint(tmp_path / "best.ckpt"))
    assert process.stdout is not None
    (port,) = re.findall(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
    file = io.BytesIO()
    Image.new("RGB", (6000, 6000), "green").save(file, "PNG")  # 103 MiB decoded

    def peak() -> int:
        (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        return int(kib) >> 10

    ask(int(port), "/predict", picture())
    before = peak()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(int(port), "/predict", file.getvalue())[0], range(8)))
    after = peak()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert answers == [200] * 8
    assert after - before < 450  # MiB: one picture, copied twice; 8 at once would take 824 without the copies
