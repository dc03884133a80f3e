"""Training that is killed at random moments ends, bit for bit, like training that nobody disturbed."""

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Result
from running import DRAWN, RUN, differences, last_checkpoint, run, start, tensorboard_curves

CHECKPOINTS = str(RUN.with_name("version_*") / "checkpoints" / "last.ckpt")
RECIPE = (
    *DRAWN,
    "--data.flip=true",
    "--data.crop=4",
    "--trainer.val_check_interval=0.4",
    "--trainer.log_every_n_steps=7",
    "--checkpoint_seconds=0.3",
)


def train_and_kill(root: Path, kills: int, words: tuple[str, ...], training: float) -> int:
    """Kills a run and begins it again, then lets it end; the number of kills that met it alive.

    One kill in four comes while it starts, the others after a checkpoint, and all of them before `training` seconds of
    training: a run that is done before its kill comes is no proof.
    """
    met = 0
    for kill in range(kills):
        process = start(*words, "--trainer.default_root_dir", root, "--resume=auto")
        if kill % 4:
            wait_for_checkpoint(process, root)
        try:
            process.wait(random.uniform(0, training / kills if kill % 4 else 3))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            met += 1
        out, err = process.communicate()
        if process.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(out + err)
        assert "Warning" not in err
    out = run(*words, "--trainer.default_root_dir", root, "--resume=auto")
    assert "Finished training" in out
    return met


def wait_for_checkpoint(process: "subprocess.Popen[str]", root: Path) -> None:
    """Until a last.ckpt is written that was not there before."""

    def written() -> set[int]:
        return {path.stat().st_mtime_ns for path in root.glob(CHECKPOINTS)}

    before = written()
    while written() <= before and process.poll() is None:
        time.sleep(0.01)


def assert_same(undisturbed: Path, killed: Path) -> None:
    assert differences(last_checkpoint(undisturbed), last_checkpoint(killed)) == []
    assert differences(tensorboard_curves(undisturbed), tensorboard_curves(killed)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "kills"), [(1, 20), (2, 12)])
def test_kills_change_no_bit(tmp_path: Path, devices: int, kills: int) -> None:
    words = (*RECIPE, "--trainer.max_epochs=12", f"--trainer.devices={devices}", f"--data.batch_size={8 * devices}")
    run(*words, "--trainer.default_root_dir", tmp_path / "undisturbed")
    report = json.loads((tmp_path / "undisturbed" / RUN / "report.json").read_text())
    met = train_and_kill(tmp_path / "killed", kills, words, report["train_seconds"])
    assert met >= kills * 3 // 4
    assert_same(tmp_path / "undisturbed", tmp_path / "killed")


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_run_after_last_is_written_and_a_line_says_how_to_resume(
    tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    process = start(*DRAWN, "--trainer.max_epochs=100", "--trainer.default_root_dir", tmp_path)
    wait_for_training(process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    last = tmp_path / RUN / "checkpoints" / "last.ckpt"
    name = "Ctrl-C" if signum == signal.SIGINT else signum.name
    assert Result(process.returncode, "", err).failed(code, "interrupted", name, f"--ckpt_path {last}")
    assert last_checkpoint(tmp_path)["global_step"] > 0


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_when_a_process_dies_the_other_names_its_rank_and_ends(tmp_path: Path, victim: int) -> None:
    words = ("--trainer.max_epochs=100", "--trainer.devices=2", "--checkpoint_seconds=0.5")
    process = start(*DRAWN, *words, "--trainer.default_root_dir", tmp_path)
    wait_for_training(process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    child = int(children.split()[0])
    while not list(tmp_path.glob(CHECKPOINTS)):
        time.sleep(0.1)
    os.kill(process.pid if victim == 0 else child, signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if victim == 0 else 1), err
    assert f"rank {victim}" in err
    assert err.endswith(" [process-lost]\n")
    assert "Traceback" not in err
    assert last_checkpoint(tmp_path)["global_step"] > 0
    until = time.monotonic() + 10  # it has written its last line, but may still be ending
    while is_running(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(process: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    return False


def wait_for_training(process: "subprocess.Popen[str]") -> None:
    """Until the first epoch's line is printed."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch "):
            return
    raise AssertionError(process.communicate()[1])


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "epoch"), [(1, 0), (2, 1)])
def test_a_signal_at_the_last_batch_of_an_epoch_loses_neither_validation_nor_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int, epoch: int
) -> None:
    (tmp_path / "stops.py").write_text(
        "import os, signal\nfrom pytorch_lightning import Callback\n\n\nclass Stops(Callback):\n"
        "    def __init__(self, epoch: int):\n        self.epoch = epoch\n\n"
        "    def on_train_batch_end(self, trainer, module, outputs, batch, index):\n"
        "        if (trainer.current_epoch, index + 1) == (self.epoch, trainer.num_training_batches):\n"
        "            if trainer.global_rank == trainer.world_size - 1:\n"
        "                os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    words = (
        *DRAWN,
        "--data.flip=true",
        "--data.batch_size=64",
        "--trainer.max_epochs=2",
        "--trainer.devices",
        str(devices),
    )
    stops = ("--trainer.callbacks=stops.Stops", "--trainer.callbacks.epoch")
    run(*words, *stops, "9", "--trainer.default_root_dir", tmp_path / "undisturbed")
    process = start(*words, *stops, str(epoch), "--trainer.default_root_dir", tmp_path / "stopped")
    _, err = process.communicate(timeout=300)
    assert Result(process.returncode, "", err).failed(143, "interrupted", "SIGTERM", "--ckpt_path")
    run(*words, *stops, "9", "--trainer.default_root_dir", tmp_path / "stopped", "--ckpt_path=last")
    assert_same(tmp_path / "undisturbed", tmp_path / "stopped")
