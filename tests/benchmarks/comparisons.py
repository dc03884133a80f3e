"""What speed.py compares: two ways to do the same thing, each measured in a process of its own."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parents[2]
PACKAGES = "import torch, torchvision, pytorch_lightning, torchmetrics"
LIKE_SCRIPTS = (  # the scripts compute on the CPU, and see each image once and at its own size
    "--trainer.accelerator=cpu",
    "--model.sides=[]",
    "--model.test_time_augmentation=none",
)
FLOAT32 = "--trainer.precision=32-true"


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    recipe: Path
    """The YAML file. If it lies in this checkout, another checkout's file of the same name is used for that one."""
    root: Path
    """Folder of the images."""
    batch_size: int = 0
    """0 for the recipe's."""
    steps: int = 1000
    """Length of the measurements that are counted in steps."""
    flags: tuple[str, ...] = ()
    """More flags for fit."""
    checkout: Path = HERE
    """Whose code is measured."""

    def run(self, *command: str | Path | int) -> "Finished":
        """Runs Python with the code of the checkout."""
        paths = (self.checkout, HERE / "tests" / "benchmarks")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
        return run([sys.executable, *map(str, command)], self.checkout, environment)

    def script(self, name: str, *arguments: str | Path | int) -> float:
        """The value that one of the checkout's scripts prints as JSON in its last line."""
        printed = self.run(self.checkout / "tests" / "benchmarks" / name, *arguments).printed
        return float(json.loads(printed.splitlines()[-1])["value"])

    def fit(self, *flags: str) -> tuple["Finished", dict[str, Any]]:
        """Runs `python -m lit_cifar fit`, and returns its report.json too."""
        batch_size = [f"--data.batch_size={self.batch_size}"] if self.batch_size else []
        with tempfile.TemporaryDirectory() as folder:
            common = (f"--config={self.own_recipe}", f"--data.root={self.root}", f"--trainer.default_root_dir={folder}")
            finished = self.run("-m", "lit_cifar", "fit", *common, *batch_size, *self.flags, *flags)
            (report,) = Path(folder).glob("lightning_logs/*/version_*/report.json")
            return finished, json.loads(report.read_text(encoding="utf-8"))

    def steps_of_fit(self, *flags: str) -> float:
        """Milliseconds for each of `steps` training steps."""
        length = ("--data.val_size=0", "--trainer.max_epochs=-1", f"--trainer.max_steps={self.steps}")
        return _per_step(self.fit(*length, *flags)[1])

    @property
    def own_recipe(self) -> Path:
        """The recipe of this name in the checkout, or the one given if the checkout has none."""
        own = self.checkout / self.recipe.relative_to(HERE) if self.recipe.is_relative_to(HERE) else self.recipe
        return own if own.is_file() else self.recipe


class Finished(NamedTuple):
    """A process that ended with exit code 0."""

    printed: str
    seconds: float
    """Wall time."""
    memory: float
    """Peak of resident memory in MiB."""


class Comparison(NamedTuple):
    """Two sides, and the unit of their figures."""

    unit: str
    ours: str
    other: str
    measure_ours: Callable[[Setting], float]
    measure_other: Callable[[Setting], float]


def run(command: list[str], folder: Path, environment: dict[str, str]) -> Finished:
    """Runs a process to its end; if it fails, exits with the last line of its standard error."""
    text: dict[str, Any] = {"mode": "w+", "encoding": "utf-8", "errors": "replace"}
    with tempfile.TemporaryFile(**text) as out, tempfile.TemporaryFile(**text) as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, cwd=folder, env=environment)
        memory = math.nan
        try:
            if sys.platform == "win32":  # which does not report the memory of a child
                process.wait()
            else:
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20
        finally:  # Ctrl-C: the process ends before its folder is removed
            if process.returncode is None:
                process.terminate()
                process.wait()
        seconds = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        if process.returncode:
            reason = (err.read().strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            sys.exit(f"{' '.join(command[1:])} failed in {folder}: {reason}")
        return Finished(out.read(), seconds, memory)


def made(entry: dict[str, Any], *arguments: Any) -> Any:
    """The object that a recipe's `class_path` and `init_args` describe."""
    module, _, name = entry["class_path"].rpartition(".")
    return getattr(import_module(module), name)(*arguments, **entry.get("init_args") or {})


def mean_and_std(recipe: dict[str, Any]) -> list[list[float]]:
    """Returns those of red, green and blue by which a recipe normalizes."""
    normalize = recipe["data"]["normalize"]
    return [[0.5] * 3, [0.5] * 3] if normalize == "half" else normalize


def _per_step(report: dict[str, Any]) -> float:
    return float(report["train_seconds"] / report["steps"] * 1000)


def _first_step(setting: Setting) -> float:
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder, "first_step")
        started = time.time()
        callback = ("--trainer.callbacks+=first_step.FirstStep", f"--trainer.callbacks.path={mark}")
        setting.fit("--trainer.max_steps=1", *callback)
        return float(mark.read_text(encoding="utf-8")) - started


def _imports(setting: Setting) -> float:
    return setting.run("-c", PACKAGES).seconds


COMPARISONS = {
    "plain": Comparison(
        "ms a step",
        "fit",
        "the tutorial's own loop",
        lambda setting: _per_step(setting.fit("--trainer.max_epochs=1", FLOAT32, *LIKE_SCRIPTS)[1]),
        lambda setting: setting.script("plain_pytorch.py", setting.recipe, setting.root, setting.batch_size, 1, 0),
    ),
    "step": Comparison(
        "ms a step",
        "fit",
        "the bare step",
        lambda setting: setting.steps_of_fit(*LIKE_SCRIPTS),
        lambda setting: setting.script("bare_step.py", setting.recipe, setting.root, setting.batch_size, setting.steps),
    ),
    "loader": Comparison(
        "images a second",
        "BatchLoader",
        "torchvision's transforms, 2 workers",
        lambda setting: setting.script("loaders.py", setting.root, "ours", "flip-crop-cutout"),
        lambda setting: setting.script("loaders.py", setting.root, "torchvision", "flip-crop-cutout"),
    ),
    "trivial-augment": Comparison(
        "images a second",
        "BatchLoader",
        "torchvision's transforms, 2 workers",
        lambda setting: setting.script("loaders.py", setting.root, "ours", "trivial-augment"),
        lambda setting: setting.script("loaders.py", setting.root, "torchvision", "trivial-augment"),
    ),
    "mixup": Comparison(
        "images a second",
        "BatchLoader with flip, crop and MixUp",
        "with flip and crop",
        lambda setting: setting.script("loaders.py", setting.root, "ours", "mixup"),
        lambda setting: setting.script("loaders.py", setting.root, "ours", "flip-crop"),
    ),
    "cutmix": Comparison(
        "images a second",
        "BatchLoader with flip, crop and CutMix",
        "with flip and crop",
        lambda setting: setting.script("loaders.py", setting.root, "ours", "cutmix"),
        lambda setting: setting.script("loaders.py", setting.root, "ours", "flip-crop"),
    ),
    "eval": Comparison(
        "s",
        "the test of fit",
        "the network alone",
        lambda setting: float(setting.fit("--trainer.max_steps=1", FLOAT32, *LIKE_SCRIPTS)[1]["test_seconds"]),
        lambda setting: setting.script("eval_net.py", setting.recipe, setting.root),
    ),
    "pictures": Comparison(
        "images a second",
        "predict PATH",
        "Pillow's decoding and resizing in processes",
        lambda setting: setting.script("pictures.py", setting.own_recipe, setting.root),
        lambda setting: setting.script("pillow.py", setting.root),
    ),
    "start": Comparison("s", "fit to its first step", PACKAGES, _first_step, _imports),
    "help": Comparison(
        "s",
        "fit --help",
        PACKAGES,
        lambda setting: setting.run("-m", "lit_cifar", "fit", "--help").seconds,
        _imports,
    ),
    "memory": Comparison(
        "MiB",
        "fit",
        "the imports and the images",
        lambda setting: setting.fit("--trainer.max_epochs=1")[0].memory,
        lambda setting: setting.run(HERE / "tests" / "benchmarks" / "images_in_memory.py", setting.root).memory,
    ),
    "one-device": Comparison(
        "ms a step",
        "fit on two devices",
        "fit on one",
        lambda setting: setting.steps_of_fit("--trainer.devices=2"),
        lambda setting: setting.steps_of_fit("--trainer.devices=1"),
    ),
    "unsynchronized": Comparison(
        "ms a step",
        "two devices, batch normalization by the whole batch",
        "by each device's share",
        lambda setting: setting.steps_of_fit("--trainer.devices=2", "--model.sync_batchnorm=true"),
        lambda setting: setting.steps_of_fit("--trainer.devices=2", "--model.sync_batchnorm=false"),
    ),
}
