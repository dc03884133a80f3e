"""`bench` measures what it says, keeps it, and refuses what makes no sense."""

import json
from pathlib import Path
from statistics import fmean, median, stdev

import pytest
from conftest import Cli
from PIL import Image

SMALL = ("--data.val_size=6", "--model.net.init_args.num_classes=3", "--trainer.max_epochs=1")


@pytest.mark.slow
def test_runs_train_with_one_seed_after_another_and_keep_every_figure(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}", f"--output={output}")
    result = cli("bench", "--runs=2", *root, *SMALL)
    assert result.code == 0, result.err
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
    assert f"Mean of 2 runs: {fmean(accuracies) * 100:.2f} %" in result.out


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


@pytest.mark.slow
@pytest.mark.parametrize("against", ["plain", "step", "eval"])
def test_both_sides_are_measured_and_the_ratio_is_that_of_their_medians(
    cli: Cli, pictures: Path, tmp_path: Path, against: str
) -> None:
    recipe = tmp_path / "three.yaml"
    classes = "class_path: lit_cifar.nets.tutorial.Net\n    init_args: {num_classes: 3}"
    text = (Path(__file__).parent.parent / "configs" / "tutorial.yaml").read_text()
    recipe.write_text(text.replace("class_path: lit_cifar.nets.tutorial.Net", classes).replace("5000", "6"))
    output = tmp_path / "bench.json"
    words = (f"--against={against}", "--rounds=1", "--steps=20", f"--config={recipe}", f"--data.root={pictures}")
    result = cli("bench", *words, f"--output={output}")
    assert result.code == 0, result.err
    figures = json.loads(output.read_text())
    ours, other = figures["values"].values()
    assert len(ours) == len(other) == 1
    assert min(*ours, *other) > 0
    assert figures["ratio"] == pytest.approx(median(ours) / median(other))
    assert f"Ratio of the medians: {figures['ratio']:.3f}" in result.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "bench needs one of --against, --runs and --epochs"),
        (["--epochs=2,none"], "--epochs 2,none must be whole numbers above 0"),
        (["--epochs=2", "--runs=2"], "bench needs one of --against, --runs and --epochs"),
        (["--runs=0"], "--runs 0 must be at least 1"),
        (["--against=plain", "--rounds=0"], "--rounds 0 must be at least 1"),
        (["--against=fast"], "invalid choice: 'fast'"),
        (["--runs=1", "--trainer.max_epoch=1"], "there is no flag --trainer.max_epoch; did you mean"),
        (
            ["--against=help", "--model.compile=true"],
            "--against help trains nothing, and has no use for --model.compile",
        ),
        (["--runs=1", "--config=nowhere.yaml"], "--config nowhere.yaml does not exist"),
    ],
)
def test_a_mistake_gives_one_sentence(cli: Cli, words: list[str], sentence: str) -> None:
    result = cli("bench", *words)
    assert result.code == 2
    assert sentence in result.err
    assert result.err.count("\n") == 1
