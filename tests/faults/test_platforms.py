"""Other platforms and shells: spawned processes, odd paths and encodings, no home, no terminal, a narrow one."""

import errno
import os
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import paint_pictures
from rich.cells import cell_len

fcntl = pytest.importorskip("fcntl", reason="needs a POSIX system: terminals and their sizes")
pty = pytest.importorskip("pty", reason="needs a POSIX system: terminals and their sizes")

CHECKOUT = Path(__file__).parents[2]
PYTHON = [sys.executable, "-m", "lit_cifar"]
pytestmark = pytest.mark.slow


def words(root: Path | str = "pictures") -> list[str]:
    """A training of two steps."""
    data = (f"--data.root={root}", "--data.val_size=6", "--data.batch_size=27", "--model.net.num_classes=3")
    return [*PYTHON, "fit", *data, "--trainer.max_epochs=1"]


def environment(**changes: str) -> dict[str, str]:
    """Ours, in which the checkout's package is found from any folder."""
    return os.environ | {"PYTHONPATH": str(CHECKOUT)} | changes


def run(
    command: list[str], folder: Path, env: dict[str, str] | None = None, **streams: int
) -> "subprocess.CompletedProcess[bytes]":
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run(command, cwd=folder, env=env or environment(), timeout=300, check=False, **streams)  # type: ignore[call-overload]


SPAWN = """
import multiprocessing
import sys

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.data.synthetic import draw
from lit_cifar.nets.tutorial import Net


class Pictures(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data.images.train.labels)

    def __getitem__(self, i):
        return self.data.images.train.images[i], self.data.images.train.labels[i]


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    data = CIFAR10DataModule("pictures", batch_size=27, val_size=6)
    loader = DataLoader(Pictures(data), 20, num_workers=2)
    images = torch.cat([images for images, _ in loader])
    assert torch.equal(images, data.images.train.images)
    pl.seed_everything(0, verbose=False)
    trainer = Trainer(
        max_epochs=1, devices=2, strategy="ddp_spawn", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, accelerator="cpu",
    )
    model = LitClassifier(Net(3), torch.optim.SGD)  # pickle knows no lambda, such as the default
    before = model.net.fc3.weight.clone()
    trainer.fit(model, datamodule=data)
    assert not torch.equal(before, model.net.fc3.weight)
    print("trained")
"""


def test_data_and_training_work_where_processes_are_spawned(tmp_path: Path) -> None:
    paint_pictures(tmp_path / "pictures")
    (tmp_path / "spawn.py").write_text(SPAWN, encoding="utf-8")
    result = run([sys.executable, "spawn.py"], tmp_path)
    assert result.returncode == 0, result.stderr.decode()
    assert b"trained" in result.stdout  # after its weights were seen to have changed


ODD = "ä ünï 図 'ø' $x"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_paths_with_spaces_and_letters_of_any_script_work_whatever_can_be_printed(
    tmp_path: Path, encoding: str
) -> None:
    root = paint_pictures(tmp_path / ODD / "pictures")
    first = next((root / "train" / "bird").iterdir())
    first.rename(first.with_name(f"{ODD}.png"))
    recipe = tmp_path / ODD / "tutorial.yaml"
    shutil.copy(CHECKOUT / "configs" / "tutorial.yaml", recipe)
    out = tmp_path / ODD / "runs"
    env = environment(PYTHONIOENCODING=encoding)
    command = [*PYTHON, "fit", "--config", str(recipe), *words(root)[4:], f"--trainer.default_root_dir={out}"]
    result = run(command, tmp_path, env)
    assert result.returncode == 0, result.stderr.decode(encoding)
    assert result.stderr == b""
    printed = result.stdout.decode(encoding)
    assert "Accuracy per class on the folder" in printed
    assert ("█" if encoding == "utf-8" else "#") in printed
    best = out / "lightning_logs" / "tutorial" / "version_0" / "checkpoints" / "best.ckpt"
    result = run([*PYTHON, "predict", str(root / "train"), f"--ckpt_path={best}"], tmp_path, env)
    assert result.returncode == 0, result.stderr.decode(encoding)
    assert f"{ODD}.png" in (tmp_path / "predictions" / "predictions.csv").read_text(encoding="utf-8")


def test_a_locale_that_knows_ascii_alone_is_told_what_to_do(tmp_path: Path) -> None:
    paint_pictures(tmp_path / "pictures")
    env = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    result = run([*words(), "--trainer.default_root_dir=rüns"], tmp_path, env)
    assert (result.returncode, result.stderr.count(b"\n")) in ((0, 0), (1, 1)), result.stderr
    if result.returncode:
        assert b"start again with PYTHONUTF8=1" in result.stderr
    result = run([*words(), "--trainer.default_root_dir=rüns"], tmp_path, environment(LC_ALL="C", PYTHONUTF8="1"))
    assert (result.returncode, result.stderr) == (0, b"")


def test_an_environment_with_nothing_but_a_path_is_enough(tmp_path: Path) -> None:
    paint_pictures(tmp_path / "pictures")
    result = run(words(), tmp_path, {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT)})
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"Run folder: lightning_logs/tutorial/version_0/" in result.stdout


def test_a_checkout_that_cannot_be_written_is_used_from_another_folder(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "elsewhere"
    shutil.copytree(CHECKOUT / "lit_cifar", source / "lit_cifar", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CHECKOUT / "configs", source / "configs")
    paint_pictures(folder / "pictures")
    bind = [["mount", "--bind", str(source), str(source)], ["mount", "-o", "remount,ro,bind", str(source)]]
    if subprocess.run(bind[0], capture_output=True, check=False).returncode:
        pytest.skip("needs root: mounts a file system")
    try:
        subprocess.run(bind[1], check=True)
        with pytest.raises(OSError) as refusal:
            (source / "x").touch()
        assert refusal.value.errno == errno.EROFS
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        result = run(words(), folder, env | {"PYTHONPATH": str(source)})
    finally:
        subprocess.run(["umount", str(source)], check=True)
    assert (result.returncode, result.stderr) == (0, b"")
    assert (folder / "lightning_logs" / "tutorial" / "version_0" / "report.json").exists()
    assert sorted(path.name for path in source.iterdir()) == ["configs", "lit_cifar"]


def test_a_wheel_holds_the_recipes_and_trains_without_the_checkout(tmp_path: Path) -> None:
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(CHECKOUT)]
    built = run(wheel, tmp_path)
    if built.returncode:
        pytest.skip("needs a package index: pip installs hatchling from it")
    (file,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    shutil.unpack_archive(file, site, "zip")
    paint_pictures(tmp_path / "pictures")
    result = run(words(), tmp_path, environment(PYTHONPATH=str(site)))
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"Finished training: 1 epoch, 2 steps" in result.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-", "2>&-"])
def test_closed_streams_stop_nothing_and_damage_no_file(tmp_path: Path, closed: str) -> None:
    paint_pictures(tmp_path / "pictures")
    result = run(["sh", "-c", f'exec "$@" {closed}', "sh", *words()], tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    folder = tmp_path / "lightning_logs" / "tutorial" / "version_0"
    check = [*PYTHON, "test", f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}", "--data.root=pictures"]
    assert run(check, tmp_path).returncode == 0


def test_a_reader_that_goes_away_gets_no_traceback(tmp_path: Path) -> None:
    paint_pictures(tmp_path / "pictures")
    process = subprocess.Popen(
        words(), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("Data ")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) != 0


def in_terminal(command: list[str], folder: Path, columns: int = 80, term: str = "xterm") -> str:
    """What a command that must end well writes on a terminal."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {name: value for name, value in environment(TERM=term).items() if name not in ("COLUMNS", "LINES")}
    if not term:
        del env["TERM"]
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    written = b""
    try:
        while part := os.read(terminal, 65536):
            written += part
    except OSError:
        pass  # Linux's way to say that the other end is closed
    os.close(terminal)
    assert process.wait(60) == 0, written.decode()
    return written.decode()


def test_an_epoch_that_goes_on_has_its_bar_and_so_has_all_that_may_take_long(tmp_path: Path) -> None:
    paint_pictures(tmp_path / "pictures")
    fit = [*words(), "--data.batch_size=4", "--resume=auto"]
    begun = in_terminal([*fit, "--trainer.max_steps=5"], tmp_path)
    gone_on = in_terminal(fit, tmp_path)
    for text in (begun, gone_on):
        assert {"Epoch 1", "Testing"} <= set(re.findall("Epoch 1|Testing", text))
    assert "5/5" in begun
    assert "14/14" in gone_on
    for command, name in (("validate", "Validating"), ("predict", "Predicting")):
        assert name in in_terminal([*PYTHON, command, "--ckpt_path=last", "--data.root=pictures"], tmp_path)


@pytest.mark.parametrize(("columns", "term"), [(40, "xterm"), (20, "xterm"), (0, "xterm"), (80, "dumb"), (80, "")])
def test_a_terminal_of_any_width_and_kind_is_written_on(tmp_path: Path, columns: int, term: str) -> None:
    paint_pictures(tmp_path / "pictures")
    text = in_terminal(words(), tmp_path, columns, term)
    assert "Traceback" not in text
    assert "Finished training: 1 epoch, 2 steps" in text
    if columns == 40:
        lines = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
        rows = [line.rstrip() for line in lines if line.startswith(("bird", "car", "class", "plane"))]
        assert [row.split()[:2] for row in rows[:2]] == [["class", "accuracy"], ["plane", rows[1].split()[1]]]
        assert [row.split()[0] for row in rows] == ["class", "plane", "car", "bird"]
        assert all(cell_len(row) <= 40 for row in rows)
        bars = [line for line in text.replace("\r", "\n").splitlines() if "Epoch 1/1" in line]
        assert bars
        assert all("/2" in bar for bar in bars)  # how many of how many steps is not cut off
