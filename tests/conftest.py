"""A small folder of pictures, and the command line called as a user calls it, in this process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from lit_cifar.__main__ import main

CLASSES = ("airplane", "automobile", "bird")


class Result(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """`cli("fit", "--config", ...)` gives exit code, standard output and standard error."""

    def call(*argv: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["lit_cifar", *map(str, argv)])
        monkeypatch.delenv("LIT_CIFAR_DRAWN_INSTEAD", raising=False)  # left for child processes by an earlier run
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of pictures; `paint_pictures` tells which."""
    return paint_pictures(tmp_path / "pictures")


def paint_pictures(root: Path) -> Path:
    """`train/<class>/*.png` and `test/<class>/*.png`: three classes of 20 and 8 noisy images, told by their colour."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels[..., label] += 120
                Image.fromarray(pixels).save(root / split / name / f"{i:03d}.png")
    return root
