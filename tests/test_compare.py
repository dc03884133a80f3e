"""`compare` trains variants with the same seeds, each as `fit` would, and goes on after anything."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import CLASSES, Cli, paint_pictures
from torch.utils.tensorboard import SummaryWriter

SMALL = ("--data.val_size=6", "--model.net.init_args.num_classes=3")


def content(folder: Path) -> Any:
    return json.loads((folder / "compare.json").read_text())


@pytest.mark.slow
def test_variants_are_trained_as_by_fit_and_one_that_diverges_does_not_stop_the_others(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    data = (f"--data.root={pictures}", *SMALL, "--trainer.max_epochs=2")
    words = ("compare", "--vary=model.optimizer.lr=0.01,0.02,1e9", *data, "--data.batch_size=1", "--runs=2")
    before = signal.getsignal(signal.SIGTERM)
    assert cli(*words).failed(1, "runs-failed", "2 of 6", "lr=1e9, seed 0 (diverged)")
    assert signal.getsignal(signal.SIGTERM) is before
    found = content(tmp_path / "comparisons" / "tutorial-lr")
    runs = {(run["variant"], run["seed"]): run for run in found["runs"]}
    assert [key for key, run in runs.items() if run["state"] == "finished"] == [
        (f"lr={rate}", seed) for seed in range(2) for rate in (0.01, 0.02)
    ]
    assert found["variants"][0]["differs"] == {"model.optimizer.lr": 0.01}

    fit = cli("fit", *data, "--data.batch_size=1", "--model.optimizer.lr=0.02", "--seed_everything=1")
    assert fit.code == 0, fit.err
    alone = json.loads((tmp_path / "lightning_logs/tutorial/version_0/report.json").read_text())
    run = runs["lr=0.02", 1]
    beside = json.loads((tmp_path / "comparisons/tutorial-lr" / run["folder"] / "report.json").read_text())
    assert (beside["test_loss"], run["val_accuracy"]) == (alone["test_loss"], alone["val_accuracy"])  # bit for bit
    assert [value for _, value in run["curves"]["accuracy/val"]] == pytest.approx([run["val_accuracy"]] * 2, abs=1)

    again = cli("compare", "--vary=model.optimizer.lr=0.01,0.02", "--name=tutorial-lr", *data, "--data.batch_size=1")
    assert again.failed(2, "comparison-other", "tutorial-lr")  # the one that diverged would be lost
    folder = tmp_path / "comparisons/tutorial-lr" / runs["lr=0.02", 0]["folder"]
    for step, purge_step in ((10**6, None), (10, 11)):  # as a run does that was killed and resumed
        with SummaryWriter(str(folder), purge_step=purge_step) as writer:
            writer.add_scalar("accuracy/val", 0.5, step)
    more = cli("compare", "--vary=model.optimizer.lr=0.01,0.02,1e9,0.03", *data, "--data.batch_size=1", "--runs=1")
    assert more.out.count("found finished") == 2
    assert not [record for record in caplog.records if record.name == "tensorboard"]
    assert len(content(tmp_path / "comparisons" / "tutorial-lr")["runs"]) == 4


def started(folder: Path, *words: str) -> "subprocess.Popen[str]":
    data = (f"--data.root={folder / 'pictures'}", *SMALL, "--trainer.max_epochs=200", "--data.batch_size=1")
    command = [sys.executable, "-m", "lit_cifar", "compare", *data, "--checkpoint_seconds=0.5", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def newest(folder: Path) -> float:
    checkpoints = folder.glob("comparisons/*/runs/*/*/lightning_logs/*/version_*/checkpoints/last.ckpt")
    return max((path.stat().st_mtime for path in checkpoints), default=0.0)


def wait_for_training(process: "subprocess.Popen[str]", folder: Path) -> None:
    """Until a last.ckpt is written that was not there before."""
    before, until = newest(folder), time.monotonic() + 120
    while newest(folder) <= before and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)


def children(process: "subprocess.Popen[str]") -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_it_goes_on_after_signals_and_kills_and_takes_its_workers_with_it(tmp_path: Path) -> None:
    paint_pictures(tmp_path / "pictures", CLASSES)
    words = ("--vary=model.optimizer.momentum=0.8,0.9", "--runs=1")
    for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        process = started(tmp_path, *words)
        wait_for_training(process, tmp_path)
        workers = children(process)
        assert workers
        if signum == signal.SIGINT:  # and meanwhile nobody else may compare there
            other = started(tmp_path, *words)
            assert "[run-locked]" in other.communicate(timeout=100)[1]
            assert other.returncode == 1
        process.send_signal(signum)
        err = process.communicate(timeout=100)[1]
        assert process.returncode == code, err
        if signum != signal.SIGKILL:
            assert err.endswith("the same command goes on [interrupted]\n")
            assert content(tmp_path / "comparisons/tutorial-momentum")["state"] == "interrupted"
        assert gone(workers)
    process = started(tmp_path, *words)  # now a worker is killed: the other run is made
    wait_for_training(process, tmp_path)
    for worker in children(process):
        if "spawn_main" in Path(f"/proc/{worker}/cmdline").read_text():
            os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "[process-lost]" in out and "(failed)" in err
    process = started(tmp_path, *words)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), out
    runs = content(tmp_path / "comparisons/tutorial-momentum")["runs"]
    assert [run["state"] for run in runs] == ["finished", "finished"]
    folders = [*tmp_path.glob("comparisons/*/runs/*/*/lightning_logs/*/version_*")]
    assert len(folders) == 2, folders  # each went on where it was


@pytest.mark.parametrize(
    ("words", "error", "name"),
    [
        (["--runs=0"], "value-out-of-range", "--runs 0"),
        (["--runs=two"], "value-wrong-type", "--runs"),
        (["--run=2"], "flag-unknown", "--runs"),
        (["--vary"], "value-missing", "--vary"),
        (["--name=../x"], "value-out-of-range", "../x"),
        (["--vary=data.batch_sice=4,8"], "flag-unknown", "--data.batch_size"),
        (["--vary=data.batch_size=4,eight"], "value-invalid", "batch_size=eight"),
        (["--vary=data.batch_size=8,4,8"], "variants-same", "batch_size=8"),
        (["nowhere.yaml"], "recipe-missing", "nowhere.yaml"),
    ],
)
def test_a_mistake_gives_one_sentence_and_writes_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], error: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("compare", *words).failed(2, error, name)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_only_the_images_refuse_is_refused_before_the_first_training(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = (f"--data.root={pictures}", "--data.val_size=6")
    for vary, error, named in (
        ("model.net.init_args.num_classes=3,7", "network-classes", "num_classes=7"),
        ("trainer.limit_val_batches=1,0", "validation-empty", "limit_val_batches=0"),
        ("trainer.logger=true,false", "report-missing", "logger=false"),
    ):
        assert cli("compare", f"--vary={vary}", *data).failed(2, error, named)
    assert not (tmp_path / "comparisons").exists()
