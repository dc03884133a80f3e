"""`python -m lit_cifar bench`: how fast is it, against what; how far do results vary from seed to seed; and what
accuracy comes of how much time.

Every measurement is a process of its own, and the two sides of a comparison take turns, so that a slow minute of the
machine meets both.
"""

import argparse
import json
import math
import signal
import sys
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from lit_cifar.cli.comparisons import COMPARISONS, SCRIPTS, Setting, fit
from lit_cifar.errors import UsageError
from lit_cifar.files import write_whole
from lit_cifar.report import figures, tables

T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10)
"""Student's t for the middle 95 %, by degrees of freedom from 1; `_t_95` knows more."""

WITHOUT_FIT = ("loader", "pictures", "help")


def main(argv: list[str]) -> None:
    """Measures, prints, and keeps the figures in a JSON file."""
    parser = argparse.ArgumentParser(
        prog="python -m lit_cifar bench",
        description="Compare speed with other ways to do the same, or train with several seeds or budgets.",
        epilog="Flags of fit, such as --trainer.max_epochs 1, are handed on to it.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--against", choices=COMPARISONS, help="What to compare with.")
    parser.add_argument("--runs", type=int, help="Train the recipe this many times, with seeds 0, 1, 2, …")
    parser.add_argument(
        "--epochs", help="Train the recipe for each of these numbers of epochs, such as 2,4,8, and draw it."
    )
    parser.add_argument("--config", help="The recipe; the tutorial's by default.")
    parser.add_argument("--rounds", type=int, default=5, help="Measurements of each side (default 5).")
    parser.add_argument("--steps", type=int, default=1000, help="Steps, where these are counted (default 1000).")
    parser.add_argument("--data.root", dest="root", default="data", help="Where the images are (default data).")
    parser.add_argument("--data.batch_size", dest="batch_size", type=int, help="Another one than the recipe's.")
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="File to write (default bench.json).")
    try:
        options, words = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(f"bench: {error}") from error
    if sum(job is not None for job in (options.against, options.runs, options.epochs)) != 1:
        raise UsageError("bench needs one of --against, --runs and --epochs; --help tells of all three")
    for name in ("rounds", "steps", "runs"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UsageError(f"--{name} {value} must be at least 1")
    if not options.output.parent.is_dir():
        raise UsageError(
            f"--output {options.output}: there is no folder {options.output.parent}; create it, or name another"
        )
    if options.output.is_dir() or options.output.suffix == ".png":
        raise UsageError(f"--output {options.output} must name a JSON file, such as bench.json")
    if words and options.against in WITHOUT_FIT:
        raise UsageError(
            f"bench --against {options.against} trains nothing, and has no use for {words[0]}; leave it out"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so the training ends too
    setting = Setting(options.config or _tutorial(), options.root, options.batch_size, options.steps, words)
    if options.against:
        found = _compare(options.against, setting, options.rounds)
    elif options.runs:
        found = _repeat(setting, options.runs)
    else:
        found = _budgets(setting, _numbers(options.epochs), options.output.with_suffix(".png"))
    write_whole(options.output, json.dumps(found, indent=2) + "\n", "--output")
    print(f"Written: {options.output}")


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--epochs {text} must be whole numbers above 0 with commas between them, such as 2,4,8")
    return sorted({int(part) for part in parts})


def _tutorial() -> str:
    from lit_cifar.cli.recipes import recipes_folder

    return str(recipes_folder() / "tutorial.yaml")


def _compare(name: str, setting: Setting, rounds: int) -> dict[str, Any]:
    """Both sides in turns."""
    if not SCRIPTS.is_dir():
        raise UsageError(f"--against needs the scripts in {SCRIPTS}, which only a clone of the project has")
    unit, ours, other, measure_ours, measure_other = COMPARISONS[name]
    values: dict[str, list[float]] = {ours: [], other: []}
    for number in range(1, rounds + 1):
        values[ours].append(measure_ours(setting))
        values[other].append(measure_other(setting))
        print(f"Round {number}: {_figure(values[ours][-1])} against {_figure(values[other][-1])} {unit}", flush=True)
    width = max(map(len, values))
    for side, found in values.items():
        spread = f"{_figure(min(found))} to {_figure(max(found))}"
        print(f"{side:{width}}  median {_figure(median(found))} ({spread}) {unit}")
    ratio = median(values[ours]) / median(values[other])
    print(f"Ratio of the medians: {ratio:.3f}")
    return {"against": name, "recipe": setting.recipe, "unit": unit, "values": values, "ratio": ratio}


def _train(setting: Setting, what: str, value: int, *flags: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """One run's figures, said and returned, and its report."""
    report = fit(setting, *flags, "--resume=never").report
    run = {what: value} | {key: report[key] for key in ("test_accuracy", "train_seconds", "test_seconds")}
    seconds = tables.duration(report["train_seconds"] + report["test_seconds"])
    print(f"{what.title()} {value}: {report['test_accuracy'] * 100:.2f} %, train and test in {seconds}", flush=True)
    return run, {key: report[key] for key in ("recipe", "dataset", "device_name", "precision")}


def _budgets(setting: Setting, epochs: list[int], path: Path) -> dict[str, Any]:
    """The same recipe with a longer and longer training, drawn as accuracy against time."""
    runs: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for number in epochs:
        run, about = _train(setting, "epochs", number, f"--trainer.max_epochs={number}")
        runs.append(run)
    seconds = [run["train_seconds"] + run["test_seconds"] for run in runs]
    title = f"Accuracy against time: {about['recipe']} on {about['device_name']}"
    drawn = figures.budgets(seconds, [run["test_accuracy"] for run in runs], epochs, title)
    print(f"Written: {figures.save(drawn, path, '--output')}")
    return about | {"runs": runs}


def _repeat(setting: Setting, count: int) -> dict[str, Any]:
    """The same recipe with one seed after another; the run folders stay."""
    runs: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for seed in range(count):
        run, about = _train(setting, "seed", seed, "--seed_everything", str(seed))
        runs.append(run)
    accuracies = [run["test_accuracy"] for run in runs]
    mean = fmean(accuracies)
    mean_seconds = fmean(run["train_seconds"] + run["test_seconds"] for run in runs)
    found = about | {"runs": runs, "mean_accuracy": mean, "mean_seconds": mean_seconds}
    print(f"Mean of {tables.plural(count, 'run')}: {mean * 100:.2f} % in {tables.duration(mean_seconds)}")
    if count > 1:
        spread = stdev(accuracies)
        half = _t_95(count - 1) * spread / math.sqrt(count)
        found |= {"standard_deviation": spread, "interval_95": [mean - half, mean + half]}
        print(f"Standard deviation {spread * 100:.2f} %; 95 % interval of the mean: ± {half * 100:.2f} %")
    return found


def _t_95(freedom: int) -> float:
    return T_95[freedom - 1] if freedom <= len(T_95) else 1.96 + 2.5 / freedom  # within 0.002


def _figure(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
