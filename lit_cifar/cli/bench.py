"""`python -m lit_cifar bench`: trains a recipe with several seeds, or for several numbers of epochs.

Shows how far results vary from seed to seed, and what accuracy comes of how much time. Each training runs in a process
of its own.
"""

import argparse
import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lit_cifar.cli.recipes import recipes_folder
from lit_cifar.errors import UsageError, UserError
from lit_cifar.files import write_whole
from lit_cifar.report import charts, figures, tables

T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10)
"""Student's t for the middle 95 %, for 1 to 18 degrees of freedom."""


def main(argv: list[str]) -> None:
    """Trains, prints the results, and writes them to a JSON file."""
    parser = argparse.ArgumentParser(
        prog="python -m lit_cifar bench",
        description="Train a recipe with several seeds, or for several numbers of epochs.",
        epilog="Flags of fit, such as --data.root DIR or --trainer.max_epochs 1, are passed on to it.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    tutorial = recipes_folder() / "tutorial.yaml"
    parser.add_argument("--runs", type=int, help="Train this many times, with seeds 0, 1, 2, …")
    parser.add_argument("--epochs", help="Train for each of these numbers of epochs, such as 2,4,8, and draw a figure.")
    parser.add_argument("--config", default=str(tutorial), help="The recipe; by default, the tutorial's.")
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="File to write (default: bench.json).")
    try:
        options, flags = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError("value-wrong-type", f"bench: {error}") from error
    if (options.runs is None) == (options.epochs is None):
        raise UsageError("value-missing", "bench needs --runs or --epochs; see --help")
    if options.runs is not None and options.runs < 1:
        raise UsageError("value-out-of-range", f"--runs {options.runs} must be at least 1")
    if options.output.is_dir() or not options.output.parent.is_dir() or options.output.suffix == ".png":
        raise UsageError("output-refused", f"--output {options.output} must be a JSON file in a folder that exists")
    command = [sys.executable, "-m", "lit_cifar", "fit", "--config", options.config, *flags, "--resume=never"]
    with _sigterm_exits():
        if options.runs:
            found = _repeat(command, options.runs)
        else:
            found = _budgets(command, _numbers(options.epochs), options.output.with_suffix(".png"))
    write_whole(options.output, json.dumps(found, indent=2) + "\n", "--output")
    print(f"Written: {options.output}")


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError("value-out-of-range", f"--epochs {text} must be positive integers, such as 2,4,8")
    return sorted({int(part) for part in parts})


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that it ends the training too."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _repeat(command: list[str], count: int) -> dict[str, Any]:
    trained = [_train(command, "seed", seed, f"--seed_everything={seed}") for seed in range(count)]
    runs = [run for run, _ in trained]
    accuracies = [run["test_accuracy"] for run in runs]
    mean = fmean(accuracies)
    mean_seconds = fmean(run["train_seconds"] + run["test_seconds"] for run in runs)
    found = trained[0][1] | {"runs": runs, "mean_accuracy": mean, "mean_seconds": mean_seconds}
    print(f"Mean of {tables.plural(count, 'run')}: {mean * 100:.2f} % in {tables.duration(mean_seconds)}")
    if count > 1:
        spread, freedom = stdev(accuracies), count - 1
        t = T_95[freedom - 1] if freedom <= len(T_95) else 1.96 + 2.5 / freedom  # within 0.002
        half = t * spread / math.sqrt(count)
        found |= {"standard_deviation": spread, "interval_95": [mean - half, mean + half]}
        print(f"Standard deviation {spread * 100:.2f} %; 95 % interval of the mean: ± {half * 100:.2f} %")
    return found


def _budgets(command: list[str], epochs: list[int], path: Path) -> dict[str, Any]:
    trained = [_train(command, "epochs", number, f"--trainer.max_epochs={number}") for number in epochs]
    runs, about = [run for run, _ in trained], trained[0][1]
    seconds = [run["train_seconds"] + run["test_seconds"] for run in runs]
    title = f"Accuracy against time: {about['recipe']} on {about['device_name']}"
    drawn = charts.budgets(seconds, [run["test_accuracy"] for run in runs], epochs, title)
    print(f"Written: {figures.save(drawn, path, '--output')}")
    return about | {"runs": runs}


def _train(command: list[str], name: str, value: int, flag: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains once, prints a line, and returns the run's results and what all runs have in common."""
    folder = re.search(r"^Run folder: (.*?)/ with", _printed([*command, flag]), re.MULTILINE)
    if folder is None:
        raise UsageError("report-missing", "the run wrote no report, which bench needs; leave --trainer.logger on")
    report = json.loads(Path(folder[1], "report.json").read_text(encoding="utf-8"))
    run = {name: value} | {key: report[key] for key in ("test_accuracy", "train_seconds", "test_seconds")}
    seconds = tables.duration(report["train_seconds"] + report["test_seconds"])
    print(f"{name.title()} {value}: {report['test_accuracy'] * 100:.2f} %, train and test in {seconds}", flush=True)
    return run, {key: report[key] for key in ("recipe", "dataset", "device_name", "precision")}


def _printed(command: list[str]) -> str:
    """Returns what a training prints; its error becomes ours."""
    text: dict[str, Any] = {"encoding": "utf-8", "errors": "replace"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **text)
    try:
        out, err = process.communicate()
    finally:
        if process.returncode is None:  # Ctrl-C or SIGTERM: it may write its checkpoint first
            process.terminate()
            process.wait()
    if process.returncode:
        last = (err.strip().splitlines() or [f"the training ended with exit code {process.returncode}"])[-1]
        code = re.search(r" \[([a-z-]+)\]$", last)
        sentence = last.removeprefix("lit_cifar: ").removesuffix(code[0] if code else "")
        raise (UsageError if process.returncode == 2 else UserError)(code[1] if code else "training-failed", sentence)
    return str(out)
