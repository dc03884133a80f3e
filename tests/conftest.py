"""A small folder of pictures, and the command line called as a user calls it, in this process."""

import io
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

# Before torch: tests run beside each other, and threads that spin while they wait would take each other's time
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from lit_cifar.__main__ import main
from lit_cifar.errors import UserError

CLASSES = ("airplane", "automobile", "bird")


class Result(NamedTuple):
    code: int  # the exit code
    out: str
    err: str

    def failed(self, exit_code: int, error: str, *names: str) -> bool:
        """Whether it ended with this exit code and one sentence with this error's code and these names."""
        assert self.code == exit_code, self
        assert self.err.startswith("lit_cifar: "), self.err
        assert self.err.endswith(f" [{error}]\n"), self.err
        assert self.err.count("\n") == 1, self.err
        for name in names:
            assert name in self.err, (name, self.err)
        return True


Cli = Callable[..., Result]


@contextmanager
def refused(kind: type[UserError], error: str, *names: str) -> Iterator[None]:
    """Expects an error of this kind and code, whose sentence has these names."""
    with pytest.raises(kind) as caught:
        yield
    assert caught.value.code == error, (caught.value.code, str(caught.value))
    for name in names:
        assert name in str(caught.value), (name, str(caught.value))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """`cli("fit", "--config", ...)` gives exit code, standard output and standard error."""

    def call(*argv: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["lit_cifar", *map(str, argv)])
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB; a run takes 4."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs root: mounts a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def damaged_exif() -> bytes:
    """A JPEG in whose EXIF data a byte is wrong, for which Pillow raises struct.error."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x010E], exif[0x0112], exif[0x011A] = "a description", 6, 72.0
    Image.new("RGB", (64, 48), "red").save(file, "JPEG", exif=exif)
    content = bytearray(file.getvalue())
    content[content.index(b"Exif\0\0") + 17] = 0
    return bytes(content)


def paint_pictures(root: Path, classes: Sequence[str] = CLASSES) -> Path:
    """`train/<class>/*.png` and `test/<class>/*.png`: of each class 20 and 8 noisy images of its colour."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels[..., label % 3] += 120
                Image.fromarray(pixels).save(root / split / name / f"{i:03d}.png")
    return root


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run of three classes, told by their colour."""
    root = tmp_path_factory.mktemp("runs")
    data = (f"--data.root={paint_pictures(root / 'pictures')}", "--data.val_size=6", "--data.batch_size=1")
    train = ("--trainer.max_epochs=3", "--model.optimizer.lr=0.01", "--model.net.num_classes=3")
    words = ("fit", "--config=configs/tutorial.yaml", *data, *train, f"--trainer.default_root_dir={root}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lit_cifar", *words])
        main()
    return root


def checkpoint(runs: Path) -> Path:
    """That of the run in `runs`."""
    return runs / "lightning_logs" / "tutorial" / "version_0" / "checkpoints" / "best.ckpt"


SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}


class Exported(NamedTuple):
    folder: Path  # with lightning_logs, pictures, picture.jpg, and model.* in all formats
    checkpoint: Path
    out: dict[str, str]  # what each format's export printed
    err: str


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One trained network, exported in all formats."""
    folder = tmp_path_factory.mktemp("exported")
    pictures = paint_pictures(folder / "pictures")
    Image.open(pictures / "test" / "bird" / "000.png").resize((150, 100)).save(folder / "picture.jpg")
    out = {}
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(io.StringIO()) as err:
        patch.chdir(folder)
        fit = ("--trainer.max_epochs=1", "--data.val_size=6", "--model.net.init_args.num_classes=3")
        patch.setattr(sys, "argv", ["lit_cifar", "fit", "--data.root=pictures", *fit])
        main()
        for name, suffix in SUFFIXES.items():
            words = ["export", "--data.root=pictures", f"--format={name}", f"--output=model{suffix}"]
            patch.setattr(sys, "argv", ["lit_cifar", *words])
            with redirect_stdout(io.StringIO()) as printed:
                main()
            out[name] = printed.getvalue()
    checkpoint = folder / "lightning_logs" / "tutorial" / "version_0" / "checkpoints" / "best.ckpt"
    return Exported(folder, checkpoint, out, err.getvalue())


def not_run(reasons: Sequence[str]) -> str:
    """One line about skipped tests. Each reason begins with `needs `, and may go on after a colon or a comma."""
    counts = Counter(re.split("[:,]", reason.removeprefix("needs "), maxsplit=1)[0].strip() for reason in reasons)
    parts = [f"{count} {'needs' if count == 1 else 'need'} {what}" for what, count in counts.most_common()]
    if parts:
        number, rest = parts[0].split(" ", 1)
        parts[0] = f"{number} {'test' if number == '1' else 'tests'} {rest}"
    return f"not run here: {', '.join(parts)}" if parts else ""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says at the end which tests were skipped for want of what."""
    skipped = (report.longrepr for report in terminalreporter.stats.get("skipped", []))
    if line := not_run([str(longrepr[2]).removeprefix("Skipped: ") for longrepr in skipped]):
        terminalreporter.write_line(line)
