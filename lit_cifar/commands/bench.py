"""`python -m lit_cifar bench`: how fast is it, against what, and how much do results vary from seed to seed.

Every measurement is a process of its own, and the two sides of a comparison take turns, so that a slow minute of the
machine meets both.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from pytorch_lightning import Callback

from lit_cifar import tables
from lit_cifar.errors import UsageError, UserError

SCRIPTS = Path(__file__).parents[2] / "tests" / "benchmarks"
PACKAGES = "import torch, torchvision, pytorch_lightning, torchmetrics"
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10)
"""Student's t for 95 % of both sides, by degrees of freedom from 1; 2.0 is near enough for more."""

COMPARISONS = {
    "plain": ("ms a step", "fit", "the tutorial's own loop"),
    "step": ("ms a step", "fit", "the bare step"),
    "loader": ("images a second", "BatchLoader", "torchvision's transforms, 2 workers"),
    "start": ("s", "fit, to its first step", f"{PACKAGES}"),
    "help": ("s", "fit --help", f"{PACKAGES}"),
    "memory": ("MiB", "fit", "the same imports and the images"),
}


def main(argv: list[str]) -> None:
    """Measures, prints, and keeps the figures in a JSON file."""
    parser = argparse.ArgumentParser(
        prog="python -m lit_cifar bench",
        description="Compare speed with other ways to do the same, or train with several seeds.",
        epilog="Flags of fit, such as --trainer.max_epochs 1, are handed on to it.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--against", choices=COMPARISONS, help="What to compare with.")
    parser.add_argument("--runs", type=int, help="Train the recipe this many times, with seeds 0, 1, 2, …")
    parser.add_argument("--config", default=None, help="The recipe; the tutorial's by default.")
    parser.add_argument("--rounds", type=int, default=5, help="Measurements of each side.")
    parser.add_argument("--steps", type=int, default=1000, help="Of --against step.")
    parser.add_argument("--data.root", dest="root", default="data", help="Where the images are.")
    parser.add_argument("--data.batch_size", dest="batch_size", type=int, help="Another batch size than the recipe's.")
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="File to write.")
    try:
        options, words = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(f"bench: {error}") from error
    if (options.against is None) == (options.runs is None):
        raise UsageError("bench needs either --against or --runs; --help tells of both")
    if options.rounds < 1 or (options.runs is not None and options.runs < 1) or options.steps < 1:
        raise UsageError("--rounds, --runs and --steps must be at least 1")
    if options.config is None:
        from lit_cifar.cli import recipes_folder

        options.config = str(recipes_folder() / "tutorial.yaml")
    figures = _compare(options, words) if options.against else _repeat(options, words)
    options.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"Written: {options.output}")


def _compare(options: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    """Both sides in turns."""
    unit, ours, other = COMPARISONS[options.against]
    if not SCRIPTS.is_dir():
        raise UsageError(f"--against needs the scripts in {SCRIPTS}, which only a clone of the project has")
    sides: dict[str, Callable[[], float]] = {ours: lambda: _ours(options, words), other: lambda: _other(options)}
    values: dict[str, list[float]] = {ours: [], other: []}
    for number in range(1, options.rounds + 1):
        for name, measure in sides.items():
            values[name].append(measure())
        latest = ", ".join(f"{name} {_figure(found[-1])}" for name, found in values.items())
        print(f"Round {number}: {latest} {unit}", flush=True)
    width = max(map(len, values))
    for name, found in values.items():
        print(
            f"{name:{width}}  median {_figure(median(found))} ({_figure(min(found))} to {_figure(max(found))}) {unit}"
        )
    ratio = median(values[ours]) / median(values[other])
    print(f"Ratio of the medians: {ratio:.3f}")
    return {"against": options.against, "unit": unit, "ratio": ratio, "values": values, "recipe": options.config}


def _ours(options: argparse.Namespace, words: list[str]) -> float:
    """One measurement of our side."""
    if options.against == "help":
        return _run([*_lit_cifar("fit"), "--help"])[1]
    if options.against == "loader":
        return _script("loaders.py", options.root, "ours")
    with tempfile.TemporaryDirectory() as folder:
        command = [*_lit_cifar("fit"), "--config", options.config, "--data.root", options.root]
        command += ["--trainer.default_root_dir", folder]
        if options.batch_size:
            command += ["--data.batch_size", str(options.batch_size)]
        if options.against == "start":
            mark = Path(folder) / "first_step"
            command += ["--trainer.max_steps=1", f"--trainer.callbacks+={__name__}.FirstStep"]
            started = time.time()
            _run([*command, f"--trainer.callbacks.path={mark}", *words])
            return float(mark.read_text()) - started
        limit = "--trainer.max_epochs=1" if options.against != "step" else f"--trainer.max_steps={options.steps}"
        printed, _, memory = _run([*command, limit, *words])
        if options.against == "memory":
            return memory
        report = _report(printed)
        return float(report["train_seconds"] / report["steps"] * 1000)


def _other(options: argparse.Namespace) -> float:
    """One measurement of the other side."""
    if options.against in ("start", "help"):
        return _run([sys.executable, "-c", PACKAGES])[1]
    if options.against == "memory":
        return _run([sys.executable, str(SCRIPTS / "images_in_memory.py"), options.root])[2]
    if options.against == "loader":
        return _script("loaders.py", options.root, "torchvision")
    if options.against == "step":
        return _script("bare_step.py", options.config, options.root, options.batch_size or 0, options.steps)
    return _script("plain_pytorch.py", options.config, options.root, 1, 0)


def _repeat(options: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    """The same recipe with one seed after another."""
    command = [*_lit_cifar("fit"), "--config", options.config, "--data.root", options.root]
    if options.batch_size:
        command += ["--data.batch_size", str(options.batch_size)]
    runs = []
    for seed in range(options.runs):
        report = _report(_run([*command, "--seed_everything", str(seed), *words])[0])
        run = {"seed": seed} | {key: report[key] for key in ("test_accuracy", "train_seconds", "test_seconds")}
        runs.append(run)
        seconds = tables.duration(run["train_seconds"] + run["test_seconds"])
        print(f"Seed {seed}: {run['test_accuracy'] * 100:.2f} % in {seconds} of training and test", flush=True)
    accuracies = [run["test_accuracy"] for run in runs]
    figures: dict[str, Any] = {"recipe": options.config, "dataset": report["dataset"], "runs": runs}
    figures |= {"mean": fmean(accuracies), "device_name": report["device_name"]}
    print(f"Mean: {figures['mean'] * 100:.2f} % in {tables.duration(fmean(run['train_seconds'] for run in runs))}")
    if len(runs) > 1:
        spread = stdev(accuracies)
        t = T_95[len(runs) - 2] if len(runs) - 2 < len(T_95) else 2.0
        half = t * spread / math.sqrt(len(runs))
        figures |= {"standard_deviation": spread, "interval_95": [figures["mean"] - half, figures["mean"] + half]}
        print(f"Standard deviation: {spread * 100:.2f} %; 95 % interval of the mean: ± {half * 100:.2f} %")
    return figures


class FirstStep(Callback):
    """Writes down when the first optimizer step was done.

    Args:
        path: File to write.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The moment."""
        self.path.write_text(str(time.time()))


def made(entry: dict[str, Any], *arguments: Any) -> Any:
    """The object that a recipe's `class_path` and `init_args` describe."""
    from importlib import import_module

    module, _, name = entry["class_path"].rpartition(".")
    return getattr(import_module(module), name)(*arguments, **entry.get("init_args") or {})


def _lit_cifar(command: str) -> list[str]:
    return [sys.executable, "-m", "lit_cifar", command]


def _script(name: str, *words: Any) -> float:
    """The value that a script prints as JSON, in its last line."""
    printed = _run([sys.executable, str(SCRIPTS / name), *map(str, words)])[0]
    return float(json.loads(printed.splitlines()[-1])["value"])


def _run(command: list[str]) -> tuple[str, float, float]:
    """Runs a process: what it printed, its wall time in seconds, and its peak of resident memory in MiB."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            reason = (err.read().strip().splitlines() or ["nothing was printed"])[-1].removeprefix("lit_cifar: ")
            failure = UserError(f"{' '.join(command)} ended with exit code {process.returncode}: {reason}")
            failure.exit_code = 2 if process.returncode == 2 else 1
            raise failure
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
        return out.read(), seconds, usage.ru_maxrss * unit / 2**20


def _report(printed: str) -> dict[str, Any]:
    """report.json of the run that printed this."""
    folder = re.search(r"^Run folder: (.*?)/ with", printed, re.MULTILINE)
    if folder is None:
        raise UserError("the run left no report; bench needs one, so don't switch the logger off")
    report: dict[str, Any] = json.loads((Path(folder[1]) / "report.json").read_text(encoding="utf-8"))
    return report


def _figure(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
