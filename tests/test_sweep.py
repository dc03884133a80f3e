"""`sweep` on the command line: what it refuses, and that it goes on after a kill and tests only the best recipe."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Cli, checkpoint

LR = "--search=model.optimizer.lr=log:1e-3..1e-1"


@pytest.mark.parametrize(
    ("words", "error", "names"),
    [
        ([], "value-missing", ["--search"]),
        (["--search=model.optimizer.lrr=0..1"], "value-invalid", ["lrr", "lr"]),
        (["--search=data.bach_size=1,2"], "flag-unknown", ["--data.batch_size"]),
        (["--search=data.batch_size=1,two"], "value-invalid", ["--data.batch_size", "two"]),
        (["--search=data.batch_size=0..8"], "value-out-of-range", ["--data.batch_size 0"]),
        (["--search=data.mixup=-1..1"], "value-out-of-range", ["--data.mixup -1"]),
        (["--search=model.optimizer.lr=log:0..1"], "value-out-of-range", ["log:"]),
        ([LR, "--model.optimizer.lr=1"], "value-invalid", ["model.optimizer.lr"]),
        ([LR, "--data.val_size=0"], "validation-empty", ["--data.val_size"]),
        ([LR, "--trails=3"], "flag-unknown", ["--trails", "--trials"]),
        ([LR, "--trials=0"], "value-out-of-range", ["--trials 0"]),
        ([LR, "--hours=0"], "value-out-of-range", ["--hours 0"]),
        ([LR, "--name=../x"], "value-out-of-range", ["--name ../x"]),
        ([LR, "--sampler=TPE"], "value-invalid", ["TPESampler"]),
        ([LR, "--pruner=ThresholdPruner"], "value-invalid", ["ThresholdPruner"]),
        ([LR, "--resume=auto"], "value-invalid", ["--resume"]),
        ([LR, "configs/a.yaml", "b.yml"], "value-invalid", ["configs/a.yaml", "b.yml"]),
        (["missing.yaml", LR], "recipe-missing", ["missing.yaml"]),
    ],
)
def test_a_sweep_is_refused_with_one_sentence_before_anything_is_written(
    cli: Cli, runs: Path, tmp_path: Path, words: list[str], error: str, names: list[str]
) -> None:
    data = (f"--data.root={runs / 'pictures'}", "--data.val_size=6", f"--trainer.default_root_dir={tmp_path}")
    assert cli("sweep", *data, *words).failed(2, error, *names)
    assert not list(tmp_path.iterdir())


def test_without_optuna_a_sweep_says_how_to_install_it(
    cli: Cli, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_cifar.cli.sweep.find_spec", lambda name: None)
    data = (f"--data.root={runs / 'pictures'}", "--data.val_size=6", f"--trainer.default_root_dir={tmp_path}")
    assert cli("sweep", *data, LR).failed(2, "package-missing", "optuna", "[sweep]")
    assert not list(tmp_path.iterdir())


def rows(folder: Path, query: str) -> list[Any]:
    database = sqlite3.connect(folder / "study.db", timeout=60)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def interrupted_trial(folder: Path, process: "subprocess.Popen[str]") -> int:
    """The first trial after three others that has a checkpoint and still runs."""
    while process.poll() is None:
        if list(folder.glob("trials/*/*/*/*/checkpoints/last.ckpt")):
            for (number,) in rows(folder, "select number from trials where state = 'RUNNING' and number > 2"):
                if list(folder.glob(f"trials/{number}/*/*/*/checkpoints/last.ckpt")):
                    return int(number)
        time.sleep(0.05)
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was_and_tests_only_the_best_recipe_again(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    search = ("--search=model.optimizer.lr=log:1e-3..1e3", "--search=data.batch_size=1,2", "--trials=7")
    data = (f"--data.root={pictures}", "--data.val_size=6", "--trainer.max_epochs=12")
    words = ("sweep", *search, *data, "--pruner=SuccessiveHalvingPruner", f"--trainer.default_root_dir={tmp_path}")
    folder = tmp_path / "sweeps" / "tutorial"
    command = [sys.executable, "-m", "lit_cifar", *words]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    number = interrupted_trial(folder, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    killed = datetime.now().astimezone()
    ended = dict(rows(folder, "select number, datetime_complete from trials where state != 'RUNNING'"))

    result = cli(*words)
    assert result.code == 0, result.err
    assert result.out.count("\nTrial ") == 7 - len(ended)
    assert dict(rows(folder, "select number, datetime_complete from trials")).items() >= ended.items()
    (run,) = folder.glob(f"trials/{number}/lightning_logs/*/*")  # the trial went on
    state = json.loads((run / "run.json").read_text())
    assert datetime.fromisoformat(state["started"]) < killed < datetime.fromisoformat(state["updated"])

    sweep = json.loads((folder / "sweep.json").read_text())
    assert [trial["number"] for trial in sweep["trials"]] == [*range(7)]
    assert "running" not in [trial["state"] for trial in sweep["trials"]]
    diverged = [trial for trial in sweep["trials"] if trial["state"] == "failed"]
    assert diverged
    assert all(trial["values"]["model.optimizer.lr"] > 0.01 for trial in diverged)
    assert not list(folder.glob("trials/**/report.json"))  # nobody has tested a trial
    assert [run["seed"] for run in sweep["again"]] == [1, 2, 3]
    for run in sweep["again"]:
        if run["state"] == "finished":
            report = json.loads((folder / run["folder"] / "report.json").read_text())
            assert (report["seed"], report["test_accuracy"]) == (run["seed"], run["test_accuracy"])
    for name in ("best.yaml", "sweep.html", "history.png", "importance.png", "slices.png"):
        assert (folder / name).stat().st_size > 500

    best = sweep["best"]
    recipe = yaml.safe_load((folder / "best.yaml").read_text())
    assert recipe["model"]["optimizer"]["init_args"]["lr"] == best["values"]["model.optimizer.lr"]
    assert cli("fit", f"--config={folder / 'best.yaml'}", f"--trainer.default_root_dir={tmp_path / 'again'}").code == 0
    (trial,) = folder.glob(f"trials/{best['trial']}/lightning_logs/*/version_0/checkpoints/best.ckpt")
    first, second = (
        torch.load(path, weights_only=True)["state_dict"] for path in (trial, checkpoint(tmp_path / "again"))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)  # the recipe repeats the trial bit for bit

    assert cli(*words[:-1], *words[-1:], "--data.crop=4").failed(2, "study-of-another-sweep", "data.crop")
    again = cli(*words)
    assert again.code == 0
    assert "\nTrial " not in again.out
    assert json.loads((folder / "sweep.json").read_text()) == sweep
