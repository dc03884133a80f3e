"""Bits that flip in checkpoints, caches and batches, and damage in a run folder: noticed, or without any effect."""

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli, checkpoint
from published import NAMES, batch, pickled, publish, tar, write_batches
from running import differences

from lit_cifar.data.image_folder import CACHE
from lit_cifar.data.sources import Images, open_images
from lit_cifar.errors import UserError
from lit_cifar.runs.checkpoint import read_checkpoint

FLIPS = 200


def flipped(content: bytes, count: int = FLIPS) -> Iterator[bytes]:
    """The content with one bit flipped, each time at another place."""
    generator = random.Random(0)
    for _ in range(count):
        damaged = bytearray(content)
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        yield bytes(damaged)


def noticed(file: Path, read: Callable[[], object], same: Callable[[object], bool]) -> int:
    """How many flips were refused; of the others, each read the same as before."""
    content, refused = file.read_bytes(), 0
    for damaged in flipped(content):
        file.write_bytes(damaged)
        try:
            found = read()
        except UserError as error:
            assert str(file) in str(error)
            refused += 1
        else:
            assert same(found)
    file.write_bytes(content)
    return refused


@pytest.mark.slow
@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_a_flipped_bit_anywhere_in_a_checkpoint_is_noticed_or_changes_nothing(
    runs: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(checkpoint(runs).with_name(name).read_bytes())
    right = read_checkpoint(path).content
    assert (
        noticed(path, lambda: read_checkpoint(path).content, lambda found: differences(found, right) == []) > FLIPS // 2
    )


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "export"])
def test_a_flipped_bit_in_a_weight_is_told_by_every_command(cli: Cli, runs: Path, tmp_path: Path, command: str) -> None:
    weight = torch.load(checkpoint(runs), weights_only=True)["state_dict"]["net.fc1.weight"].numpy().tobytes()
    content = bytearray(checkpoint(runs).read_bytes())
    content[content.index(weight) + 4] ^= 1
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    more = (f"--output={tmp_path / 'model.pt2'}", "--format=torch") if command == "export" else ()
    root = (f"--data.root={runs / 'pictures'}", f"--trainer.default_root_dir={tmp_path}")
    result = cli(command, *root, "--ckpt_path", path, *more)
    assert result.failed(1, "checkpoint-damaged", f"--ckpt_path {path}")


@pytest.mark.slow
def test_a_flipped_bit_anywhere_in_the_cache_never_changes_an_image(pictures: Path) -> None:
    right = open_images(pictures)
    assert noticed(pictures / CACHE, lambda: open_images(pictures), lambda found: differences(found, right) == []) == 0


def test_a_flipped_bit_anywhere_in_a_batch_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: pickled(batch(number)) for number, name in enumerate(NAMES)}
    publish(monkeypatch, files, tar(files))
    folder = write_batches(tmp_path, files)

    def read() -> Images:
        return open_images(tmp_path)

    assert read().kind == "cifar10"
    for name in NAMES:
        assert noticed(folder / name, read, lambda found: False) == FLIPS


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"", b"\xff\x00 nonsense", "half"], ids=["empty", "nonsense", "half"])
def test_damage_to_what_a_run_left_beside_its_checkpoints_does_not_stop_it(
    cli: Cli, pictures: Path, tmp_path: Path, damage: bytes | str
) -> None:
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}")
    words = ("fit", *root, "--data.val_size=6", "--model.net.init_args.num_classes=3")
    assert cli(*words, "--trainer.max_epochs=1").code == 0
    folder = tmp_path / "lightning_logs" / "tutorial" / "version_0"
    files = [path for path in folder.iterdir() if path.is_file()]
    assert {"config.yaml", "report.json", "report.html"} < {path.name for path in files}
    assert any(path.name.startswith("events.") for path in files)
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if isinstance(damage, str) else damage)
    result = cli(*words, "--trainer.max_epochs=2", "--ckpt_path=last")
    assert result.code == 0, result.err
    assert result.err == ""
    assert "2 epochs, 28 steps" in result.out
    again = cli("test", *root, "--ckpt_path", folder / "checkpoints" / "best.ckpt")
    assert again.code == 0, again.err


def test_a_checkpoint_that_may_not_be_read_is_called_nothing_else(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "best.ckpt"
    checkpoint.touch()

    def refuse(path: Path, *arguments: Any, before: Any = Path.open) -> Any:
        if path == checkpoint:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return before(path, *arguments)

    monkeypatch.setattr(Path, "open", refuse)  # root may read anything
    result = cli("test", "--ckpt_path", checkpoint, "--data.root", pictures)
    assert result.failed(1, "checkpoint-unreadable", f"--ckpt_path {checkpoint}", "Permission denied")
