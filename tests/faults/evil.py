"""Makes checkpoints that try to run code, and asks whether a command refuses them."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli, checkpoint

COMMANDS = ("fit", "validate", "test", "predict", "predict PATH", "export", "demo")


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.command = f"touch {proof}"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


class Evil:
    """Makes checkpoints of a good one, and tells whether any of them has run its code."""

    def __init__(self, good: Path, folder: Path) -> None:
        self.good, self.path, self.proof = good, folder / "evil.ckpt", folder / "executed"
        self.payload = Payload(self.proof)

    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = torch.load(self.good, weights_only=True)
        return content

    def save(self, content: Any, **options: Any) -> Path:
        torch.save(content, self.path, **options)
        return self.path

    def in_place(self, place: str) -> Path:
        content = self.content()
        if isinstance(content.get(place), dict):
            content[place]["payload"] = self.payload
        else:
            content[place] = [self.payload]
        return self.save(content)

    def in_card(self, key: str) -> Path:
        content = self.content()
        content["lit_cifar"]["card"][key] = self.payload
        return self.save(content)

    def net(self, class_path: str, **init_args: Any) -> Path:
        content = self.content()
        content["lit_cifar"]["card"]["net"] = {"class_path": class_path, "init_args": init_args}
        return self.save(content)


@pytest.fixture
def evil(runs: Path, tmp_path: Path) -> Evil:
    return Evil(checkpoint(runs), tmp_path)


def refused(cli: Cli, command: str, path: Path, runs: Path, *more: str) -> str:
    """What a command says of a checkpoint that it must refuse."""
    own_flags = {
        "predict PATH": (str(runs / "pictures" / "test" / "bird"), f"--output={path.parent / 'predictions'}"),
        "export": (f"--output={path.parent / 'model.pt2'}", "--format=torch"),
        "demo": ("--port=0",),
    }
    words = own_flags.get(command, (f"--data.root={runs / 'pictures'}", f"--trainer.default_root_dir={path.parent}"))
    result = cli(command.split()[0], *words, "--ckpt_path", path, *more)
    assert result.code in (1, 2), result.out
    assert result.err.startswith("lit_cifar: ")
    assert result.err.count("\n") == 1
    assert "\x1b" not in result.err
    return result.err
