"""`bench` trains as often as it says and keeps every figure; tests/benchmarks/speed.py compares."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from conftest import Cli
from PIL import Image

BENCHMARKS = Path(__file__).parent / "benchmarks"
SMALL = ("--data.val_size=6", "--model.net.init_args.num_classes=3", "--trainer.max_epochs=1")


@pytest.mark.slow
def test_runs_train_with_one_seed_after_another_and_keep_every_figure(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}", f"--output={output}")
    before = signal.getsignal(signal.SIGTERM)
    result = cli("bench", "--runs=2", *root, *SMALL)
    assert result.code == 0, result.err
    assert signal.getsignal(signal.SIGTERM) is before
    figures = json.loads(output.read_text())
    reports = [
        json.loads((tmp_path / f"lightning_logs/tutorial/version_{i}/report.json").read_text()) for i in range(2)
    ]
    assert [report["seed"] for report in reports] == [run["seed"] for run in figures["runs"]] == [0, 1]
    accuracies = [report["test_accuracy"] for report in reports]
    assert [run["test_accuracy"] for run in figures["runs"]] == accuracies
    assert figures["mean_accuracy"] == pytest.approx(fmean(accuracies))
    assert figures["standard_deviation"] == pytest.approx(stdev(accuracies))
    low, high = figures["interval_95"]
    assert (high - low) / 2 == pytest.approx(12.71 * stdev(accuracies) / 2**0.5)
    assert f"{fmean(accuracies) * 100:.2f} %" in result.out


@pytest.mark.slow
def test_budgets_train_for_each_number_of_epochs_and_are_drawn(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}", f"--output={output}")
    result = cli("bench", "--epochs=2,1", *root, *SMALL[:2])
    assert result.code == 0, result.err
    runs = json.loads(output.read_text())["runs"]
    folders = [tmp_path / f"lightning_logs/tutorial/version_{i}/report.json" for i in range(2)]
    reports = [json.loads(folder.read_text()) for folder in folders]
    assert [run["epochs"] for run in runs] == [report["epochs"] for report in reports] == [1, 2]
    assert [run["test_accuracy"] for run in runs] == [report["test_accuracy"] for report in reports]
    assert Image.open(tmp_path / "bench.png").width > 800


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Every training ends at once, with an accuracy that grows from 0.70 by 0.02; the commands that were run."""
    commands: list[list[str]] = []

    class Process:
        returncode = 0

        def __init__(self, command: list[str]) -> None:
            commands.append(command)

        def communicate(self) -> tuple[str, str]:
            report = {"test_accuracy": 0.68 + 0.02 * len(commands), "train_seconds": 60.0, "test_seconds": 2.0}
            about = {"recipe": "tutorial", "dataset": "folder", "device_name": "CPU", "precision": "32-true"}
            (tmp_path / "report.json").write_text(json.dumps(report | about))
            return f"Run folder: {tmp_path}/ with report.json\n", ""

    real = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        return Process(command) if "fit" in command else real(command, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    return commands


def test_the_mean_of_three_seeds_has_students_interval(cli: Cli, tmp_path: Path, trained: list[list[str]]) -> None:
    result = cli("bench", "--runs=3", f"--output={tmp_path / 'a.json'}", "--trainer.max_epochs=7")
    assert result.code == 0, result.err
    assert [[word for word in command if "seed" in word or "epochs" in word] for command in trained] == [
        ["--trainer.max_epochs=7", f"--seed_everything={seed}"] for seed in range(3)
    ]
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["mean_accuracy"] == pytest.approx(0.72)
    assert figures["mean_seconds"] == 62
    assert figures["standard_deviation"] == pytest.approx(0.02)
    half = 4.302653 * 0.02 / 3**0.5  # Student's t for two degrees of freedom, from a printed table
    assert figures["interval_95"] == pytest.approx([0.72 - half, 0.72 + half], abs=1e-4)


def test_budgets_are_trained_from_the_shortest_on(cli: Cli, tmp_path: Path, trained: list[list[str]]) -> None:
    result = cli("bench", "--epochs=4,2,2", f"--output={tmp_path / 'a.json'}")
    assert result.code == 0, result.err
    assert [command[-1] for command in trained] == ["--trainer.max_epochs=2", "--trainer.max_epochs=4"]
    runs = json.loads((tmp_path / "a.json").read_text())["runs"]
    assert [run["epochs"] for run in runs] == [2, 4]
    assert [run["test_accuracy"] for run in runs] == pytest.approx([0.70, 0.72])
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("words", "error", "name"),
    [
        ([], "value-missing", "--runs"),
        (["--epochs=2,none"], "value-out-of-range", "--epochs 2,none"),
        (["--epochs=2,0"], "value-out-of-range", "--epochs 2,0"),
        (["--epochs=2", "--runs=2"], "value-missing", "--epochs"),
        (["--runs=0"], "value-out-of-range", "--runs 0"),
        (["--runs=two"], "value-wrong-type", "--runs"),
        (["--runs=1", "--output=nowhere/bench.json"], "output-refused", "nowhere"),
        (["--runs=1", "--output=bench.png"], "output-refused", "bench.png"),
        (["--runs=1", "--config=nowhere.yaml"], "recipe-missing", "nowhere.yaml"),  # with the code that fit gives it
    ],
)
def test_a_mistake_gives_one_sentence(cli: Cli, words: list[str], error: str, name: str) -> None:
    assert cli("bench", *words).failed(2, error, name)


def test_speed_measures_all_sides_in_turns_and_compares_their_medians(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import comparisons
    import speed

    (tmp_path / "lit_cifar").mkdir()
    (tmp_path / "lit_cifar" / "__main__.py").touch()
    now, before, other = iter([1.0, 9.0, 2.0]), iter([4.0, 5.0, 80.0]), iter([8.0, 8.0, 9.0])
    order: list[str] = []

    def ours(setting: comparisons.Setting) -> float:
        assert (setting.steps, setting.flags) == (7, ("--model.compile=true",))
        order.append("now" if setting.checkout == BENCHMARKS.parents[1] else setting.checkout.name)
        return next(now if order[-1] == "now" else before)

    def theirs(setting: comparisons.Setting) -> float:
        order.append("other")
        return next(other)

    monkeypatch.setitem(comparisons.COMPARISONS, "step", comparisons.Comparison("ms", "fit", "bare", ours, theirs))
    output = tmp_path / "speed.json"
    words = ["--against=step", "--rounds=3", "--steps=7", f"--before={tmp_path}", f"--output={output}"]
    monkeypatch.setattr(sys, "argv", ["speed.py", *words, "--model.compile=true"])
    speed.main()
    assert order == ["now", tmp_path.name, "other"] * 3
    figures = json.loads(output.read_text())
    assert figures["values"] == {"fit": [1, 9, 2], "fit, before": [4, 5, 80], "bare": [8, 8, 9]}
    assert figures["ratios"] == {"fit / fit, before": 2 / 5, "fit / bare": 2 / 8, "fit, before / bare": 5 / 8}
    assert capsys.readouterr().out.count("Round ") == 3


@pytest.mark.slow
@pytest.mark.parametrize("against", ["plain", "step", "eval", "start"])
def test_speed_measures_real_trainings(pictures: Path, tmp_path: Path, against: str) -> None:
    recipe = tmp_path / "three.yaml"
    classes = "class_path: lit_cifar.nets.tutorial.Net\n    init_args: {num_classes: 3}"
    text = (BENCHMARKS.parents[1] / "configs" / "tutorial.yaml").read_text()
    recipe.write_text(text.replace("class_path: lit_cifar.nets.tutorial.Net", classes).replace("5000", "6"))
    words = (f"--against={against}", "--rounds=1", "--steps=20", f"--config={recipe}", f"--data.root={pictures}")
    before = ("--before", BENCHMARKS.parents[1], f"--output={tmp_path / 'speed.json'}")
    subprocess.run([sys.executable, BENCHMARKS / "speed.py", *words, *before], check=True, cwd=tmp_path)
    figures = json.loads((tmp_path / "speed.json").read_text())
    (now,), (same,), (other,) = figures["values"].values()
    assert min(now, same, other) > 0
    assert len(figures["ratios"]) == 3
