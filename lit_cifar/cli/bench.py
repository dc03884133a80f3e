"""`python -m lit_cifar bench`: trains with several seeds or numbers of epochs, each time in a process of its own."""

import argparse
import json
import math
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lit_cifar.cli.recipes import recipes_folder
from lit_cifar.data.files import write_whole
from lit_cifar.errors import UsageError, UserError
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
    parser.add_argument("--runs", type=int, help="Train this many times, with seeds 0, 1, 2, …")
    parser.add_argument("--epochs", help="Train for each of these numbers of epochs, such as 2,4,8, and draw a figure.")
    parser.add_argument("--config", default=str(recipes_folder() / "tutorial.yaml"), help="By default, the tutorial.")
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
    name, flag, values = "seed", "seed_everything", list(range(options.runs or 0))
    if options.epochs is not None:
        name, flag, values = "epochs", "trainer.max_epochs", _numbers(options.epochs)
    with ExitStack() as stack:  # SIGTERM becomes an exception, so that it ends the training too
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)))
        reports = [_train([*command, f"--{flag}={value}"], f"{name.title()} {value}") for value in values]
    seconds = [report["train_seconds"] + report["test_seconds"] for report in reports]
    accuracies = [report["test_accuracy"] for report in reports]
    found: dict[str, Any] = {key: reports[0][key] for key in ("recipe", "dataset", "device_name", "precision")}
    found["runs"] = [
        {name: value, **{key: report[key] for key in ("test_accuracy", "train_seconds", "test_seconds")}}
        for value, report in zip(values, reports, strict=True)
    ]
    if options.runs:
        found |= _summary(accuracies, seconds)
    else:
        title = f"Accuracy against time: {found['recipe']} on {found['device_name']}"
        drawn = charts.budgets(seconds, accuracies, values, title)
        print(f"Written: {figures.save(drawn, options.output.with_suffix('.png'), '--output')}")
    write_whole(options.output, json.dumps(found, indent=2) + "\n", "--output")
    print(f"Written: {options.output}")


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError("value-out-of-range", f"--epochs {text} must be positive integers, such as 2,4,8")
    return sorted({int(part) for part in parts})


def _summary(accuracies: list[float], seconds: list[float]) -> dict[str, Any]:
    count, mean, mean_seconds = len(accuracies), fmean(accuracies), fmean(seconds)
    print(f"Mean of {tables.plural(count, 'run')}: {mean * 100:.2f} % in {tables.duration(mean_seconds)}")
    found: dict[str, Any] = {"mean_accuracy": mean, "mean_seconds": mean_seconds}
    if count > 1:
        spread, freedom = stdev(accuracies), count - 1
        t = T_95[freedom - 1] if freedom <= len(T_95) else 1.96 + 2.5 / freedom  # within 0.002
        half = t * spread / math.sqrt(count)
        found |= {"standard_deviation": spread, "interval_95": [mean - half, mean + half]}
        print(f"Standard deviation {spread * 100:.2f} %; 95 % interval of the mean: ± {half * 100:.2f} %")
    return found


def _train(command: list[str], name: str) -> dict[str, Any]:
    """Trains once, prints a line, and returns the run's report; the error of a training becomes ours."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, encoding="utf-8", errors="replace")
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
    folder = re.search(r"^Run folder: (.*?)/ with", out, re.MULTILINE)
    if folder is None:
        needs = "leave --trainer.logger on, and use images with a folder test"
        raise UsageError("report-missing", f"the run wrote no report, which bench needs; {needs}")
    report: dict[str, Any] = json.loads(Path(folder[1], "report.json").read_text(encoding="utf-8"))
    seconds = tables.duration(report["train_seconds"] + report["test_seconds"])
    print(f"{name}: {report['test_accuracy'] * 100:.2f} %, train and test in {seconds}", flush=True)
    return report
