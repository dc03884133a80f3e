"""Every block of Python in the README runs as it stands there, in its order, and so do the commands of one section.

A block that prints something worth a check, or needs more than the folder `data` and what the blocks before it left,
says so in `BLOCKS`, under a phrase that stands in it and in no other.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import Cli, paint_pictures
from PIL import Image

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
HERE = re.sub(r"^## Export\n.*?^## ", "## ", README, flags=re.MULTILINE | re.DOTALL)  # test_export.py runs that section
CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Block(NamedTuple):
    """What a block needs beforehand, given the folder that it runs in, and what it must print."""

    prepare: Callable[[Path], object] = lambda folder: None
    prints: str = ""


def a_picture(folder: Path) -> None:
    """`picture.jpg`."""
    Image.fromarray(np.full((48, 64, 3), 120, np.uint8)).save(folder / "picture.jpg")


BLOCKS = {
    "trainer = Trainer(": Block(prints=r"test/accuracy"),
    'Image.open("picture.jpg")': Block(a_picture, rf"^({'|'.join(CLASSES)}) \d+%$"),
    "the hardest 60 %": Block(prints=r"^all images: \d+\.\d %\nthe hardest 60 %: \d+\.\d %\na random 60 %: \d+\.\d %$"),
}


def blocks(language: str, text: str = HERE) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return found


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    paint_pictures(tmp_path / "data", CLASSES)
    for phrase in BLOCKS:
        assert sum(phrase in block for block in blocks("python")) == 1, f"one block must hold {phrase!r}"
    for script in blocks("python"):
        block = next((block for phrase, block in BLOCKS.items() if phrase in script), Block())
        block.prepare(tmp_path)
        script = script.replace('CIFAR10DataModule("data")', 'CIFAR10DataModule("data", val_size=20)')
        finished = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert finished.returncode == 0, finished.stderr
        assert re.search(block.prints, finished.stdout, re.MULTILINE), finished.stdout
        assert "Warning" not in finished.stderr


@pytest.mark.slow
def test_the_commands_with_the_rest_of_lightning_run(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint_pictures(tmp_path / "data", CLASSES)
    monkeypatch.chdir(tmp_path)
    (section,) = re.findall(r"^## With the rest of Lightning\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for block in blocks("bash", section) for line in block.splitlines()]
    assert len(commands) >= 5
    for python, dash_m, name, *words in commands:
        assert (python, dash_m, name) == ("python", "-m", "lit_cifar")
        result = cli(*words, "--data.val_size=20", "--trainer.max_epochs=2")
        assert result.code == 0, result.err
        assert "Finished training: 2 epochs" in result.out
    assert list(tmp_path.glob("csv/**/metrics.csv"))
