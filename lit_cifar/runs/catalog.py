"""The runs below a folder, and what their files say of them: a thousand in a second, without torch.

run.json says most, report.json what was tested. Runs of version 0.2 have no run.json: report.json and config.yaml must
do. Nothing in these files is trusted; a run whose files are not what was written is listed as damaged.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_cifar.errors import UserError
from lit_cifar.evaluation.statistics import wilson
from lit_cifar.nets import net_name
from lit_cifar.runs.state import RUNS, RunState, damaged, is_alive, is_number, is_share, read_json, read_state, time_of

LARGEST_REPORT = 64_000_000  # bytes; it holds a confusion matrix, of a thousand classes 10 MB
LARGEST_CONFIG = 1_000_000  # bytes
MOST_SETTINGS = 10_000  # counting those that YAML's aliases repeat
FLAGS = {"seed": "seed_everything", "augmentation": "data", "training_set": "data"}
FLAGS |= {name: f"data.{name}" for name in ("dataset", "labels", "val_size", "batch_size", "image_size", "resize")}
FLAGS |= {name: f"model.{name}" for name in ("net", "optimizer", "lr_scheduler", "loss", "slice_size", "sides")}
FLAGS |= {name: f"model.{name}" for name in ("test_time_augmentation", "confidence_threshold")}
FLAGS |= {"decay_norms_and_biases": "model.decay_norms_and_biases"}
"""Fields of a card, and the flags that they come from; the others keep their names."""
CARD: Mapping[str, type] = {"dataset": str, "net": dict, "seed": int}


@dataclass(frozen=True)
class Run:
    """A run folder, and what is known of it; None stands for what isn't."""

    folder: Path
    recipe: str
    version: int | str
    started: datetime | None = None
    dataset: str | None = None
    net: str | None = None
    seed: int | None = None
    epochs: float | None = None
    val_accuracy: float | None = None
    """Of the weights that were tested or, before that, the highest so far."""
    test_accuracy: float | None = None
    test_interval: tuple[float, float] | None = None
    """Of 95 %."""
    seconds: float | None = None
    """Wall time of training."""
    state: str = "unknown"
    """One of run.json's states; `test` if nothing was trained here; `damaged`, or `unknown`."""
    step: int | None = None
    note: str | None = None
    problem: str | None = None
    """Why the run is damaged."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """Step and accuracy of each validation."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the run's card says, by the names of fit's flags, such as `model.optimizer.lr`."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """All settings in config.yaml, by the names of fit's flags; none if there is no such file, or it is damaged."""
        try:
            return read_config(self.folder)
        except UserError:
            return {}


def find_runs(folder: Path) -> Iterator[Path]:
    """Yields the run folders below a folder, an absolute path: those named version_* below a folder lightning_logs."""
    seen: set[tuple[int, int]] = set()  # a link may lead into a circle
    waiting = [(folder, RUNS in folder.parts)]
    while waiting:
        folder, is_inside = waiting.pop()
        is_run = is_inside and folder.name.startswith("version_")
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if not is_run:
                with os.scandir(folder) as entries:
                    further = [entry for entry in entries if _leads_on(entry, is_inside)]
                waiting += [(Path(entry.path), is_inside or entry.name == RUNS) for entry in further]
        except OSError:  # it can't be opened, which is told of runs
            pass
        if is_run:
            yield folder


def _leads_on(entry: os.DirEntry[str], is_inside: bool) -> bool:
    """Returns whether there may be runs behind an entry; links are followed only to runs, or they may lead anywhere."""
    if is_inside and entry.name.startswith("version_"):
        return not entry.is_file(follow_symlinks=False)
    try:
        return not entry.name.startswith(".") and entry.is_dir(follow_symlinks=is_inside or entry.name == RUNS)
    except OSError:  # a circle of links
        return False


def read_run(folder: Path) -> Run:
    """Returns what the files of a run folder say; raises nothing, whatever they hold."""
    number = folder.name.removeprefix("version_")
    version = int(number) if number.isascii() and number.isdecimal() and len(number) < 10 else number
    names: dict[str, Any] = {"recipe": folder.parent.name if folder.parent.name != RUNS else "–", "version": version}
    try:
        with os.scandir(folder) as entries:
            files = {entry.name for entry in entries}
        if not files:
            raise damaged(folder, "it is empty")
        state, report = read_state(folder), read_json(folder / "report.json", LARGEST_REPORT)
        if state:
            return Run(folder, **names | _of_state(state, folder) | _of_report(report, folder, state))
        if report is not None:
            found = _of_report(report, folder, None) | {"state": "finished" if "checkpoints" in files else "test"}
            return Run(folder, **{"started": _changed(folder / "report.json")} | names | found)
        return Run(folder, **names | _of_config(folder, files))
    except UserError as error:
        return Run(folder, **names, state="damaged", problem=_without(str(error), folder))
    except OSError as error:
        return Run(folder, **names, state="damaged", problem=error.strerror or type(error).__name__)


def _without(sentence: str, folder: Path) -> str:
    """Returns `run.json: it is not JSON`, without the path of the folder that the reader sees."""
    file = sentence.removeprefix(f"{folder}{os.sep}").replace(" is damaged", "", 1)
    return file.removeprefix(f"{folder}: ")


def _of_state(state: RunState, folder: Path) -> dict[str, Any]:
    """Returns what run.json says."""
    found: dict[str, Any] = {name: getattr(state, name) for name in ("state", "step", "epochs", "seconds", "note")}
    found |= {"started": time_of(state.started), "curve": state.val_accuracy, "settings": {}}
    found["val_accuracy"] = max((accuracy for _, accuracy in state.val_accuracy), default=None)
    if state.card is not None:
        found |= {name: _field(state.card, name, kind, folder / "run.json") for name, kind in CARD.items()}
        try:
            for name, value in state.card.items():
                found["settings"] |= flat(value, FLAGS.get(name, name))
        except ValueError as error:
            raise damaged(folder / "run.json", str(error)) from error
        _field(found["net"], "class_path", str, folder / "run.json")
        found["net"] = net_name(found["net"])
    return found


def _field(values: Mapping[str, Any], name: str, kind: type, path: Path) -> Any:
    value = values.get(name)
    if not isinstance(value, kind):
        raise damaged(path, f"its {name} is missing or wrong")
    return value


def _of_report(report: dict[str, Any] | None, folder: Path, state: RunState | None) -> dict[str, Any]:
    """Returns what report.json says, unless it is of an earlier end of a run that was resumed."""
    if report is None:
        return {}
    path, found = folder / "report.json", dict[str, Any]()
    tests = dict.fromkeys(("steps", "train_seconds", "epochs", "seed"), is_number) | {"test_accuracy": is_share}
    for name, fits in tests.items():
        if not fits(report.get(name)):
            raise damaged(path, f"its {name} is missing or wrong")
        found[name.removeprefix("train_")] = report[name]
    if state and report["steps"] != state.step:
        return {}
    found["step"] = found.pop("steps")
    found["seed"] = state.card["seed"] if state and state.card else found["seed"]
    if state is None:
        found["dataset"] = _field(report, "dataset", str, path)
        found["net"] = _field(report, "net", str, path).rpartition(".")[2]
    if is_share(report.get("val_accuracy")):
        found["val_accuracy"] = report["val_accuracy"]
    if state is None and (date := time_of(report.get("date"))):
        found["started"] = date
    interval = report.get("test_accuracy_interval")
    if isinstance(interval, list) and len(interval) == 2 and all(map(is_share, interval)):
        found["test_interval"] = tuple(interval)
    elif total := _tested(report):
        found["test_interval"] = wilson(round(report["test_accuracy"] * total), total)
    return found


def _tested(report: Mapping[str, Any]) -> int:
    """Returns how many images a report of version 0.2 is about, or 0 if it can't be told."""
    try:
        total = sum(map(sum, report["confusion_matrix"]))
    except (KeyError, TypeError):
        return 0
    return total if isinstance(total, int) and total > 0 else 0


def _of_config(folder: Path, files: set[str]) -> dict[str, Any]:
    """Returns what is known of a folder with neither run.json nor report.json, such as that of `predict`."""
    if "config.yaml" not in files:
        return {"started": _changed(folder)}
    settings = read_config(folder)
    trained = "checkpoints" in files
    state = ("running" if is_alive(folder, None) else "interrupted") if trained else "unknown"
    dataset, net, seed = (settings.get(key) for key in ("data.dataset", "model.net", "seed_everything"))
    return {
        "state": state,
        "started": _changed(folder / "config.yaml"),
        "dataset": dataset if isinstance(dataset, str) else None,
        "net": net.rpartition(".")[2] if isinstance(net, str) else None,
        "seed": seed if isinstance(seed, int) else None,
    }


def _changed(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    except (OSError, OverflowError, ValueError):
        return None


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the settings in a run's config.yaml by the names of fit's flags, or raises UserError `run-damaged`."""
    import yaml

    path = folder / "config.yaml"
    try:
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            content = file.read(LARGEST_CONFIG + 1)
        if len(content) > LARGEST_CONFIG:
            raise damaged(path, f"it has more than {LARGEST_CONFIG:,} bytes")
        return flat(yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), "")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise damaged(path, "it can't be read as YAML") from error


def flat(value: Any, name: str) -> dict[str, Any]:
    """Returns each setting in a nested value by its flag: `model.net` is a class, `model.net.num_classes` a number.

    Raises ValueError if there are too many.
    """
    found: dict[str, Any] = {}
    waiting = [(name, value)]
    for name, value in waiting:  # to which the loop adds what is nested
        if len(waiting) > MOST_SETTINGS:
            raise ValueError(f"{name} has too many settings")
        if not isinstance(value, dict):
            found[name] = value
            continue
        inner = {key: each for key, each in value.items() if key not in ("class_path", "init_args")}
        if "class_path" in value:
            found[name] = value["class_path"]
        if isinstance(arguments := value.get("init_args"), dict):
            inner |= arguments
        waiting += [(f"{name}.{key}" if name else str(key), each) for key, each in inner.items()]
    return found
