"""Many files are decoded in processes, with the same results and errors as a few."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import Cli, checkpoint, refused
from PIL import Image
from running import start

from lit_cifar.data.pictures import MANY
from lit_cifar.data.sources import open_images
from lit_cifar.errors import UserError

pytest.importorskip("fcntl", reason="needs a POSIX system: signals that kill")

READING = "lit_cifar.data.image_files"


def paint_many(folder: Path, count: int = MANY) -> None:
    """Pictures of one colour each, all of them different."""
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (32, 32), (i % 256, i // 256, 100)).save(folder / f"{i:04}.png")


def decoders(parent: int) -> list[int]:
    """The processes that decode for `parent`."""
    found = subprocess.run(["pgrep", "-P", str(parent), "-f", READING], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def is_running(pid: int) -> bool:
    """Whether it is there, and not only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_many_pictures_of_a_folder_keep_their_order_and_a_damaged_one_is_named(pictures: Path) -> None:
    paint_many(pictures / "train" / "many")
    paint_many(pictures / "test" / "many", 1)
    train = open_images(pictures).train
    colours = train.images[train.labels == train.classes.index("many")][:, :, 0, 0]
    expected = torch.tensor([[i % 256, i // 256, 100] for i in range(MANY)])
    assert torch.equal(colours.long(), expected)
    damaged = pictures / "train" / "many" / "0500.png"
    damaged.write_bytes(b"no picture")
    with refused(UserError, "picture-unreadable", str(damaged)):
        open_images(pictures)


def test_many_pictures_are_predicted_as_each_alone_is(cli: Cli, runs: Path, tmp_path: Path) -> None:
    paint_many(tmp_path / "many")
    (tmp_path / "many" / "0300.png").write_bytes(b"no picture")
    lines = {}
    for name, paths in (("all", [tmp_path / "many"]), ("one", [tmp_path / "many" / "0999.png"])):
        result = cli("predict", *paths, "--ckpt_path", checkpoint(runs), "--output", tmp_path / name)
        assert result.code == (1 if name == "all" else 0)
        lines[name] = (tmp_path / name / "predictions.csv").read_text().splitlines()
        if name == "all":
            assert f"{tmp_path}/many/0300.png can't be read" in result.err
    assert len(lines["all"]) == MANY  # a header, and one picture less
    assert lines["all"][-1] == lines["one"][-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "signum", "code", "says"),
    [
        ("decoder", signal.SIGKILL, 1, "process-lost"),
        ("program", signal.SIGINT, 130, "stopped by Ctrl-C"),
        ("program", signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
def test_a_signal_ends_all_of_them_with_one_sentence(
    runs: Path, tmp_path: Path, victim: str, signum: signal.Signals, code: int, says: str
) -> None:
    paint_many(tmp_path / "many")
    Image.new("RGB", (8000, 8000)).save(tmp_path / "many" / "0000.png")  # a second to decode
    (tmp_path / "many" / "0001.png").unlink()
    (tmp_path / "many" / "0001.png").hardlink_to(tmp_path / "many" / "0000.png")
    words = ("--ckpt_path", checkpoint(runs), "--output", tmp_path)
    process = start("predict", tmp_path / "many", *words)
    children: list[int] = []
    while len(children) < (os.cpu_count() or 1) and process.poll() is None:
        children = decoders(process.pid)
    for pid in children if victim == "decoder" else [process.pid]:
        os.killpg(pid, signum)  # each leads a group of its own
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert says in err
    assert err.count("\n") == (1 if says else 0), err
    if victim == "decoder":
        assert str(tmp_path / "many") in err
    until = time.monotonic() + 30
    while any(is_running(pid) for pid in children):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert not (tmp_path / "predictions.csv").exists()
