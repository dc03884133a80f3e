"""run.json: what `fit` leaves about how a training ended, and its note."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, checkpoint
from filelock import FileLock
from pytorch_lightning import Callback

from lit_cifar.runs.checkpoint import read_checkpoint
from lit_cifar.runs.state import RunState, read_state, write_state

NASTY = '<script>alert("x")</script>\x1b[31m'


def test_a_run_folder_says_how_its_training_ended(runs: Path) -> None:
    state = read_state(checkpoint(runs).parents[1])
    assert state is not None
    assert (state.state, state.step, state.epochs, state.note) == ("finished", 162, 3, None)
    best = read_checkpoint(checkpoint(runs))
    assert state.card == best.card.as_dict()
    assert [step for step, _ in state.val_accuracy] == [54, 108, 162]
    assert max(accuracy for _, accuracy in state.val_accuracy) == dict(state.val_accuracy)[best.content["global_step"]]


def test_a_run_that_was_killed_is_read_as_interrupted(tmp_path: Path) -> None:
    def state(hours_ago: int) -> str:
        then = (datetime.now(timezone.utc) - timedelta(hours=hours_ago)).isoformat()
        write_state(tmp_path, RunState("running", 1, 0.5, 2.0, then, then, None, [], None))
        found = read_state(tmp_path)
        assert found
        return found.state

    assert (state(hours_ago=0), state(hours_ago=2)) == ("running", "interrupted")  # it writes no checkpoints
    (tmp_path / "checkpoints").mkdir()
    lock = tmp_path / "checkpoints" / ".lock"
    with FileLock(lock):  # as the process that trains holds it
        assert state(hours_ago=2) == "running"
    lock.touch()
    assert state(hours_ago=0) == "interrupted"


class Failing(Callback):
    """Raises an error in a step."""

    def on_before_optimizer_step(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 5:
            raise ValueError("as asked")


@pytest.mark.slow
def test_a_note_stays_with_a_resumed_run_and_every_end_is_told(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    words = (f"--data.root={pictures}", "--data.val_size=6", "--model.net.num_classes=3")
    fit = ("fit", *words, f"--trainer.default_root_dir={tmp_path}")
    assert cli(*fit, "--trainer.max_epochs=1", f"--note={NASTY}\nmore").code == 0
    folder = tmp_path / "lightning_logs" / "tutorial" / "version_0"
    before = read_state(folder)
    assert cli(*fit, "--trainer.max_epochs=2", "--resume=auto").code == 0
    after = read_state(folder)
    assert before and after and after.started == before.started
    assert (before.note, after.note) == (f"{NASTY} more",) * 2
    assert after.step == 2 * before.step and after.val_accuracy[:1] == before.val_accuracy
    assert after.seconds > before.seconds
    assert json.loads((folder / "report.json").read_text())["note"] == after.note
    assert "&lt;script&gt;alert" in (folder / "report.html").read_text(encoding="utf-8")
    diverged = cli(*fit, "--model.optimizer.lr=1e30", "--trainer.max_epochs=1")
    assert diverged.code == 1
    assert cli(*fit, "--trainer.callbacks=test_run_state.Failing", "--trainer.max_epochs=1").code == 1
    assert cli(*fit, "--trainer.fast_dev_run=true").code == 0
    assert cli(*fit, "--trainer.logger=false", "--trainer.max_steps=1").code == 0
    states = [read_state(folder.with_name(f"version_{i}")) for i in (1, 2)]
    assert [(each.state, each.step) for each in states if each] == [("diverged", 10), ("failed", 5)]
    assert "at step 10 " in diverged.err
    assert len([*tmp_path.rglob("run.json")]) == 3


def test_a_note_is_a_line_that_says_something(cli: Cli) -> None:
    assert cli("fit", "--note", " \n").failed(2, "value-missing", "--note")
    assert cli("fit", "--note", "x" * 501).failed(2, "value-out-of-range", "--note", "501")
