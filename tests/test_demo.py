"""The page to try a network: what it answers, what it refuses, and how it looks in a browser."""

import http.client
import io
import json
import re
import signal
import socket
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from conftest import Cli, damaged_exif
from PIL import Image
from running import start
from torch import nn

from lit_cifar import LitClassifier
from lit_cifar.data.image_set import CIFAR10_CLASSES
from lit_cifar.deploy.demo.server import HEADERS, LIMIT, Gallery, make_app
from lit_cifar.nets.tutorial import Net


def classifier_of(net: nn.Module) -> LitClassifier:
    classifier = LitClassifier(net).eval()
    classifier.classes, classifier.mean, classifier.std = CIFAR10_CLASSES, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return classifier


def picture(side: int = 200, kind: str = "PNG") -> bytes:
    """A photograph's stand-in: a disc on a gradient."""
    y, x = np.mgrid[:side, :side] / side
    pixels = np.stack([x, y, (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1], 2)
    file = io.BytesIO()
    Image.fromarray((pixels * 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, in 100 bytes."""
    ihdr = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    idat = b"IDAT" + zlib.compress(bytes(100))
    chunks = [(len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in (ihdr, idat, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """The port at which a thread of this process serves `app`."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, headers=HEADERS, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of a server in this process, of an untrained network and three test images."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    gallery = Gallery("Test images", images, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]))
    with serving(make_app(classifier_of(Net()), gallery, "", ["127.0.0.1"])) as port:
        yield port


def ask(port: int, path: str, content: bytes | None = None, host: str = "127.0.0.1") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET" if content is None else "POST", path, content, {"Host": host})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_the_answer_is_what_predict_says(server: int) -> None:
    torch.manual_seed(0)
    torch.randint(0, 256, (3, 3, 32, 32))
    classifier = classifier_of(Net())
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        status, body = ask(server, "/predict", picture(kind=kind))
        assert status == 200
        answered = [entry["probability"] for entry in json.loads(body)["classes"]]
        expected = classifier.predict(Image.open(io.BytesIO(picture(kind=kind))))[0]
        assert torch.allclose(torch.tensor(answered), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "This is no picture that can be read, or a damaged one; send PNG, JPEG, WEBP, GIF or BMP."),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "This is no picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "This is no picture that can be read"),
        (picture()[:600], "This is no picture that can be read, or a damaged one"),
        (damaged_exif(), "This is no picture that can be read, or a damaged one"),
        (bomb(9_000, 9_000), "The picture has 9,000 × 9,000 pixels, and more than 50 million are not opened"),
        (bomb(60_000, 60_000), "The picture has more than the 50 million pixels that are opened; make it smaller"),
    ],
)
def test_what_is_no_picture_is_answered_in_a_sentence(
    server: int, content: bytes, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    status, body = ask(server, "/predict", content)
    assert status == 400
    assert json.loads(body)["error"].startswith(sentence)
    assert capfd.readouterr().err == ""


def test_a_network_that_diverged_is_told() -> None:
    net = Net()
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    with serving(make_app(classifier_of(net), None, "", ["127.0.0.1"])) as port:
        status, body = ask(port, "/predict", picture())
    assert status == 400
    assert json.loads(body)["error"].startswith("This network computes values that are not numbers")


def test_a_file_over_the_limit_is_refused_and_the_server_goes_on(server: int) -> None:
    status, body = ask(server, "/predict", bytes(LIMIT + 1))
    assert (status, json.loads(body)["error"]) == (413, "The file is larger than 20 MB; send a smaller picture.")
    assert ask(server, "/predict", picture())[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "//etc/passwd", "/images/", "/images/3.png", "/page/"],
)
def test_nothing_but_the_page_and_its_images_is_served(server: int, path: str) -> None:
    assert ask(server, path)[0] == 404


def test_another_site_cannot_reach_the_server_under_its_own_name(server: int) -> None:
    assert ask(server, "/about", host="elsewhere.example")[0] == 421
    assert ask(server, "/about")[0] == 200


def test_a_picture_that_is_never_finished_does_not_stop_the_others(server: int) -> None:
    sockets = [socket.create_connection(("127.0.0.1", server)) for _ in range(3)]
    for connection in sockets:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nhalf")
    assert ask(server, "/predict", picture())[0] == 200
    for connection in sockets:
        connection.close()


def save_checkpoint(path: Path, dataset: str = "drawn", **card: Any) -> Path:
    """What `fit` would have left of an untrained network."""
    torch.manual_seed(0)
    classifier = classifier_of(Net())
    net = {"class_path": "lit_cifar.nets.tutorial.Net", "init_args": {}}
    kept: dict[str, Any] = {"net": net, "recipe": "tutorial", "dataset": dataset, "classes": list(CIFAR10_CLASSES)}
    kept |= {"mean": [0.5] * 3, "std": [0.5] * 3, "images": 0, "val_size": 0, "batch_size": 4, "seed": 0, "record": {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": classifier.state_dict(), "lit_cifar": kept | card}, path)
    return path


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--port=65536"], 2, "--port 65536 must be between 0 and 65535"),
        (["--port=-1"], 2, "--port -1 must be between 0 and 65535"),
        (["--host=a..b"], 2, "--host a..b is no address of this machine"),
        (["--host=no.such.host.invalid"], 2, "--host no.such.host.invalid is no address of this machine"),
        (["--ckpt_path=missing.ckpt"], 2, "--ckpt_path missing.ckpt does not exist"),
        (
            [],
            2,
            "there is no intact best.ckpt in lightning_logs/*/version_*/checkpoints; train with",
        ),
        (["--prot=1"], 2, "there is no flag --prot; did you mean --port?"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("demo", *([] if any("port" in word for word in words) else ["--port=0"]), *words)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(f"lit_cifar: {sentence}")
    assert len(result.err.splitlines()) == 1


def test_a_port_in_use_is_told(cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = cli("demo", f"--port={port}", "--ckpt_path", save_checkpoint(tmp_path / "best.ckpt"))
    assert result.code == 2
    assert f"--port {port} can't be listened at (Address already in use)" in result.err


def test_a_network_that_this_version_lacks_is_told(cli: Cli, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "best.ckpt", net={"class_path": "lit_cifar.nets.later.Net", "init_args": {}})
    result = cli("demo", "--port=0", "--ckpt_path", path)
    assert result.code == 2
    assert "needs the network lit_cifar.nets.later.Net, which this version does not have" in result.err


def test_a_network_of_your_own_is_served_from_runs_that_lie_elsewhere(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "lightning_logs" / "mine" / "version_0" / "checkpoints" / "best.ckpt"
    save_checkpoint(run, net={"class_path": "mine_demo.Net", "init_args": {}})
    words = ("demo", "--port=0", f"--trainer.default_root_dir={tmp_path}")
    assert "if you trust it, name it yourself with --model.net mine_demo.Net" in cli(*words).err
    assert (
        "--model.net mine_demo.Net can't be imported (No module named 'mine_demo')"
        in cli(*words, "--model.net=mine_demo.Net").err
    )
    (tmp_path / "mine_demo.py").write_text("from lit_cifar.nets.tutorial import Net")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: sockets[0].close())
    result = cli(*words, "--model.net=mine_demo.Net")
    assert result.code == 0, result.err
    assert f"to try {run};" in result.out


@pytest.mark.parametrize("package", ["captum.attr", "uvicorn"])
def test_a_missing_package_is_told_with_how_to_install_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = cli("demo", "--port=0")
    assert result.code == 2
    assert result.err == f"lit_cifar: demo needs the package {package}: pip install -e '.[demo]'\n"


def test_a_host_that_others_reach_is_told_and_images_of_other_classes_are_not_shown(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apps: list[Any] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: apps.append((self.config.app, *sockets)))
    path = save_checkpoint(tmp_path / "best.ckpt", "folder")
    result = cli("demo", "--host=0.0.0.0", "--port=0", "--data.root", pictures, "--ckpt_path", path)
    monkeypatch.undo()
    assert result.code == 0, result.err
    assert "Anyone who reaches this machine can send it pictures and see the test images" in result.out
    ((app, listener),) = apps
    listener.close()
    with serving(app) as port:
        about = json.loads(ask(port, "/about", host="some.name.of.mine")[1])
        assert ask(port, "/images/0.png")[0] == 404
    assert about["gallery"] is None
    assert about["note"] == f"No gallery: the test images in {pictures} are of other classes than the network's."


@pytest.mark.slow
def test_the_newest_best_checkpoint_of_all_recipes_is_served_until_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(Path("lightning_logs/first/version_3/checkpoints/best.ckpt"))
    newest = save_checkpoint(Path("lightning_logs/second/version_0/checkpoints/best.ckpt"), "folder")
    process = start("demo", "--port=0", "--data.root", tmp_path / "none")
    assert process.stdout is not None
    line = process.stdout.readline()
    (port,) = re.findall(rf"^Open http://127\.0\.0\.1:(\d+) to try {newest}; Ctrl-C ends it$", line)
    status, body = ask(int(port), "/about")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    assert "Traceback" not in out + err
    about = json.loads(body)
    assert (status, len(about["gallery"]["labels"])) == (200, 1000)
    assert about["note"].startswith(f"There are no test images in {tmp_path / 'none'}, so the gallery shows drawn")
    assert not (tmp_path / "none").exists()


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
