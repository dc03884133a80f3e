"""A disk that is full or read-only: one sentence with folder and bytes, and nothing already written is lost."""

import json
import random
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import Cli, Result, paint_pictures
from running import DRAWN, RUN, last_checkpoint, run

FULL = re.compile(r"lit_cifar: (\S.*) is full \(No space left on device\): .*[\d,]+ kB.* \[disk-full\]\n")
FIT = ("fit", "--config=configs/tutorial.yaml", "--data.val_size=6", "--data.batch_size=4", "--model.net.num_classes=3")


def train(cli: Cli, disk: Path, epochs: int) -> Result:
    """Of the pictures that lie on the disk, which takes up the run folder too."""
    words = (f"--trainer.max_epochs={epochs}", f"--data.root={disk / 'pictures'}", "--trainer.log_every_n_steps=1")
    return cli(*FIT, *words, "--checkpoint_seconds=0.02", f"--trainer.default_root_dir={disk}", "--resume=auto")


def fill(disk: Path, free: int) -> None:
    """Leaves so many kB free."""
    with (disk / "filler").open("wb", buffering=0) as file:
        room = subprocess.run(["df", "--output=avail", "-k", disk], capture_output=True, text=True, check=True).stdout
        file.write(bytes(max(0, int(room.split()[1]) - free) * 1024))


@contextmanager
def filled_after(disk: Path, seconds: float, free: int) -> Iterator[None]:
    """Another program fills the disk meanwhile."""
    timer = threading.Timer(seconds, fill, (disk, free))
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Root may write anywhere but here."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def assert_told(result: Result, disk: Path) -> None:
    assert result.code == 1, result.out + result.err
    told = [line for line in result.err.splitlines(keepends=True) if not line.startswith("Could not write the cache")]
    assert len(told) == 1, result.err
    match = FULL.fullmatch(told[0])
    assert match, result.err
    assert match[1].startswith(str(disk))


def assert_intact(disk: Path) -> None:
    """Everything that has its final name is whole, and no part of another is left."""
    for path in disk.glob("lightning_logs/*/*/**/*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        assert all(weight.isfinite().all() for weight in checkpoint["state_dict"].values())
    for path in disk.glob("lightning_logs/*/*/report.json"):
        assert json.loads(path.read_text())["test_accuracy"] is not None
    for path in disk.glob("lightning_logs/*/*/report.html"):
        assert path.read_text().rstrip().endswith("</html>")
    for path in disk.glob("lightning_logs/*/*/*.png"):
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    assert not list(disk.rglob("*.part"))


@pytest.mark.parametrize("free", [8, 100, 700])
def test_a_full_disk_ends_the_run_with_a_sentence_that_names_folder_and_bytes(
    cli: Cli, small_disk: Path, free: int
) -> None:
    fill(small_disk, free)
    result = cli(*DRAWN, "--trainer.max_steps=20", "--trainer.default_root_dir", small_disk)
    assert_told(result, small_disk)
    assert_intact(small_disk)


@pytest.mark.slow
def test_the_checkpoint_before_the_disk_was_full_is_intact_and_used(cli: Cli, small_disk: Path) -> None:
    words = (*DRAWN, "--data.batch_size=200", "--trainer.default_root_dir", small_disk)
    run(*words, "--trainer.max_epochs=1")
    before = last_checkpoint(small_disk)
    fill(small_disk, 0)
    failed = cli(*words, "--trainer.max_epochs=2", "--ckpt_path=last")
    assert_told(failed, small_disk)
    assert last_checkpoint(small_disk)["global_step"] == before["global_step"]
    (small_disk / "filler").unlink()
    assert cli(*words, "--trainer.max_epochs=2", "--ckpt_path=last").code == 0
    assert last_checkpoint(small_disk)["global_step"] == 2 * before["global_step"]
    assert [path.name for path in (small_disk / RUN).parent.iterdir()] == ["version_0"]


@pytest.mark.slow
def test_wherever_the_disk_fills_up_the_run_goes_on_when_there_is_room_again(cli: Cli, small_disk: Path) -> None:
    paint_pictures(small_disk / "pictures")
    chance = random.Random()  # of its own: a training seeds Python's
    assert train(cli, small_disk, 1).code == 0
    told = 0
    for epochs in range(2, 8):
        with filled_after(small_disk, chance.uniform(0, 2.5), chance.choice((0, 1, 4, 30, 200, 600, 1000))):
            result = train(cli, small_disk, epochs)
        if result.code:
            assert_told(result, small_disk)
            told += 1
        assert_intact(small_disk)
        for path in (small_disk / "filler", *small_disk.glob("lightning_logs/*/*/events.*")):
            path.unlink()  # of events each run leaves a megabyte: too much for so small a disk
        again = train(cli, small_disk, epochs)
        assert again.code == 0, again.err
        (folder,) = small_disk.glob("lightning_logs/tutorial/version_*/report.json")
        assert json.loads(folder.read_text())["steps"] == 14 * epochs
        for events in folder.parent.glob("events.*"):
            events.unlink()
    assert told >= 2  # a run that is done before the disk is full is no proof


def test_a_read_only_folder_is_named_and_what_lies_in_it_stays(cli: Cli, small_disk: Path) -> None:
    (small_disk / "show.png").write_bytes(b"of yesterday")
    with read_only(small_disk):
        trained = cli(*DRAWN, "--trainer.max_steps=20", "--trainer.default_root_dir", small_disk)
        shown = cli("show", "--data.dataset=drawn", "--count=8", "--output", small_disk / "show.png")
    for result, place in ((trained, f"{small_disk}/lightning_logs"), (shown, f"{small_disk}/show.png")):
        assert result.failed(1, "not-writable", place, "Read-only file system", "--")
    assert (small_disk / "show.png").read_bytes() == b"of yesterday"
