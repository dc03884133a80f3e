"""What `bench --against` compares: two ways to do the same, each measured in a process of its own."""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning import Callback

from lit_cifar.errors import UserError

SCRIPTS = Path(__file__).parents[2] / "tests" / "benchmarks"
PACKAGES = "import torch, torchvision, pytorch_lightning, torchmetrics"
AS_SCRIPTS = (  # which compute on the CPU, and see images once and in their own size
    "--trainer.accelerator=cpu",
    "--model.sides=[]",
    "--model.test_time_augmentation=none",
)
FLOAT32 = "--trainer.precision=32-true"


@dataclass(frozen=True)
class Setting:
    """What both sides have in common."""

    recipe: str
    """Path of the YAML file."""
    root: str
    """Folder of the images."""
    batch_size: int | None = None
    """Another one than the recipe's."""
    steps: int = 1000
    """Of the comparisons that count steps."""
    words: list[str] = field(default_factory=list)
    """More flags for fit."""


class Finished(NamedTuple):
    """A process that ended well."""

    printed: str
    seconds: float
    """Of wall time."""
    memory: float
    """Peak of resident memory in MiB."""

    @property
    def report(self) -> dict[str, Any]:
        """report.json of the run."""
        folder = re.search(r"^Run folder: (.*?)/ with", self.printed, re.MULTILINE)
        if folder is None:
            raise UserError("the run left no report; bench needs one, so don't switch the logger off")
        report: dict[str, Any] = json.loads((Path(folder[1]) / "report.json").read_text(encoding="utf-8"))
        return report


class Comparison(NamedTuple):
    """Two sides, and what their figures are."""

    unit: str
    ours: str
    other: str
    measure_ours: Callable[[Setting], float]
    measure_other: Callable[[Setting], float]


def run(command: list[str]) -> Finished:
    """Runs a process to its end.

    Raises:
        UserError: it failed; with the last line of what it had to say.
    """
    text: dict[str, Any] = {"mode": "w+", "encoding": "utf-8", "errors": "replace"}
    with tempfile.TemporaryFile(**text) as out, tempfile.TemporaryFile(**text) as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        try:
            if hasattr(os, "wait4"):
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20
            else:  # Windows does not tell
                process.wait()
                memory = math.nan
        except BaseException:  # Ctrl-C: it ends before its folder goes
            _end(process)
            raise
        seconds = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        if process.returncode:
            reason = (err.read().strip().splitlines() or ["nothing was printed"])[-1].removeprefix("lit_cifar: ")
            failure = UserError(reason)
            failure.exit_code = 2 if process.returncode == 2 else 1
            raise failure
        return Finished(out.read(), seconds, memory)


def _end(process: subprocess.Popen[Any]) -> None:
    """Gives a training the time to write its checkpoint."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def fit(setting: Setting, *flags: str) -> Finished:
    """`python -m lit_cifar fit` of the setting."""
    command = [sys.executable, "-m", "lit_cifar", "fit", "--config", setting.recipe, "--data.root", setting.root]
    if setting.batch_size:
        command += ["--data.batch_size", str(setting.batch_size)]
    return run([*command, *setting.words, *flags])


def _fit_aside(setting: Setting, *flags: str) -> tuple[Finished, dict[str, Any]]:
    """A fit whose run folder is not kept, and its report."""
    with tempfile.TemporaryDirectory() as folder:
        finished = fit(setting, "--trainer.default_root_dir", folder, *flags)
        return finished, finished.report


def _step(setting: Setting, *flags: str) -> float:
    """Milliseconds a step of the training loop, with all that comes with it."""
    report = _fit_aside(setting, *flags)[1]
    return float(report["train_seconds"] / report["steps"] * 1000)


def _steps(setting: Setting, *flags: str) -> float:
    return _step(
        setting, "--data.val_size=0", "--trainer.max_epochs=-1", f"--trainer.max_steps={setting.steps}", *flags
    )


def _first_step(setting: Setting) -> float:
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "first_step"
        callback = (f"--trainer.callbacks+={__name__}.FirstStep", f"--trainer.callbacks.path={mark}")
        started = time.time()
        fit(setting, "--trainer.default_root_dir", folder, "--trainer.max_steps=1", *callback)
        return float(mark.read_text(encoding="utf-8")) - started


class FirstStep(Callback):
    """Writes down when the first optimizer step was done.

    Args:
        path: File to write.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The moment."""
        self.path.write_text(str(time.time()), encoding="utf-8")


def _script(name: str, *words: Any) -> float:
    """The value that a script prints as JSON, in its last line."""
    printed = run([sys.executable, str(SCRIPTS / name), *map(str, words)]).printed
    return float(json.loads(printed.splitlines()[-1])["value"])


def _imports(_: Setting) -> float:
    return run([sys.executable, "-c", PACKAGES]).seconds


COMPARISONS = {
    "plain": Comparison(
        "ms a step",
        "fit",
        "the tutorial's own loop",
        lambda setting: _step(setting, "--trainer.max_epochs=1", FLOAT32, *AS_SCRIPTS),
        lambda setting: _script("plain_pytorch.py", setting.recipe, setting.root, setting.batch_size or 0, 1, 0),
    ),
    "step": Comparison(
        "ms a step",
        "fit",
        "the bare step",
        lambda setting: _steps(setting, *AS_SCRIPTS),
        lambda setting: _script("bare_step.py", setting.recipe, setting.root, setting.batch_size or 0, setting.steps),
    ),
    "loader": Comparison(
        "images a second",
        "BatchLoader",
        "torchvision's transforms, 2 workers",
        lambda setting: _script("loaders.py", setting.root, "ours"),
        lambda setting: _script("loaders.py", setting.root, "torchvision"),
    ),
    "eval": Comparison(
        "s",
        "the test of fit",
        "the net alone",
        lambda setting: float(_fit_aside(setting, "--trainer.max_steps=1", FLOAT32, *AS_SCRIPTS)[1]["test_seconds"]),
        lambda setting: _script("eval_net.py", setting.recipe, setting.root),
    ),
    "pictures": Comparison(
        "images a second",
        "predict PATH",
        "Pillow's decoding and resizing in processes",
        lambda setting: _script("pictures.py", setting.recipe, setting.root),
        lambda setting: _script("pillow.py", setting.root),
    ),
    "start": Comparison("s", "fit to its first step", PACKAGES, _first_step, _imports),
    "help": Comparison(
        "s",
        "fit --help",
        PACKAGES,
        lambda _: run([sys.executable, "-m", "lit_cifar", "fit", "--help"]).seconds,
        _imports,
    ),
    "memory": Comparison(
        "MiB",
        "fit",
        "the imports and the images",
        lambda setting: _fit_aside(setting, "--trainer.max_epochs=1")[0].memory,
        lambda setting: run([sys.executable, str(SCRIPTS / "images_in_memory.py"), setting.root]).memory,
    ),
    "one-device": Comparison(
        "ms a step",
        "fit on two devices",
        "fit on one",
        lambda setting: _steps(setting, "--trainer.devices=2"),
        lambda setting: _steps(setting, "--trainer.devices=1"),
    ),
}


def made(entry: dict[str, Any], *arguments: Any) -> Any:
    """The object that a recipe's `class_path` and `init_args` describe, for the scripts."""
    module, _, name = entry["class_path"].rpartition(".")
    return getattr(import_module(module), name)(*arguments, **entry.get("init_args") or {})
