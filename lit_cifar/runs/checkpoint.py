"""Reading and writing checkpoints so that they can't run code, and which of them `best` and `last` mean.

A checkpoint holds tensors, numbers and strings only (`torch.load(weights_only=True)`), and under the key `lit_cifar`
the run's card and history.

torch writes a CRC-32 of everything in the file and ignores it when reading; we check it (1 ms a megabyte).
"""

import io
import os
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import ZipFile, is_zipfile

import numpy as np
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_fabric.utilities.rank_zero import rank_zero_only

from lit_cifar.data.files import whole
from lit_cifar.errors import UsageError, UserError
from lit_cifar.runs.card import LABELS, RunCard
from lit_cifar.runs.state import RUNS, is_number

KEY = "lit_cifar"
"""Where a checkpoint holds what Lightning knows nothing about."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and checked, on the CPU."""

    path: Path
    card: RunCard
    content: dict[str, Any]
    """Everything in the file, as Lightning wrote it."""

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The network's weights, whose names begin with `net.`."""
        return {name: weight for name, weight in self.content["state_dict"].items() if name.startswith("net.")}

    @property
    def history(self) -> dict[str, Any]:
        """State of the training's history."""
        return self.content[KEY]["history"]

    @property
    def trained(self) -> dict[str, float]:
        """How long the training took, as `epochs` and `steps`; 0 if the file doesn't say it."""
        trained = self.history.get("trained")
        found = trained if isinstance(trained, dict) else {}
        return {name: found[name] if is_number(found.get(name)) else 0 for name in ("epochs", "steps")}

    @property
    def mlflow_run(self) -> str | None:
        """Id of the MLflow run that the training was logged to."""
        run = self.content[KEY].get("mlflow_run")
        return run if isinstance(run, str) else None


class RunCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to its folder and through to the disk, then renames it; never reads one twice.

    Lightning's own goes through the folder for temporary files, which may be full when the run folder isn't. The
    content of a checkpoint that was `read` already is given to Lightning once.
    """

    def __init__(self, read: Checkpoint | None = None) -> None:
        super().__init__()
        self._read = read

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        memory = io.BytesIO()
        torch.save({key: readable(value, key) for key, value in checkpoint.items()}, memory)
        with whole(Path(path), memory.tell()) as part, part.open("wb") as file:
            file.write(memory.getbuffer())
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        read, self._read = self._read, None
        return (read if read is not None and read.path == Path(path) else read_checkpoint(path)).content


def readable(value: Any, name: str) -> Any:
    """Returns a value as `torch.load(weights_only=True)` reads it: NumPy's numbers as Python's, its arrays as tensors.

    Raises UsageError for anything that couldn't be read back, with its `name`, such as `callbacks.Mine.best`.
    """
    kind: Any = type(value)
    if value is None or kind in (bool, int, float, str, torch.Tensor, torch.nn.Parameter):
        return value
    if isinstance(value, np.generic):
        return readable(value.item(), name)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(value.copy())
    if kind in (dict, OrderedDict):
        inner = kind((readable(key, name), readable(each, f"{name}.{key}")) for key, each in value.items())
        same = all(
            a is b for pairs in zip(inner.items(), value.items(), strict=False) for a, b in zip(*pairs, strict=True)
        )
        return value if same and len(inner) == len(value) else inner  # a state_dict has attributes
    if kind in (list, tuple, set):
        parts = [readable(each, f"{name}.{index}") for index, each in enumerate(value)]
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else kind(parts)
    memory = io.BytesIO()
    try:
        torch.save(value, memory)
        memory.seek(0)
        torch.load(memory, weights_only=True)
    except Exception as error:  # pickling calls the code of the value
        todo = "keep numbers, words, tensors, and lists and dictionaries of them"
        sentence = f"{name} is a {kind.__name__}, which can't be read back from a checkpoint; {todo}"
        raise UsageError("value-unwritable", sentence) from error
    return value


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint of this project.

    Raises UsageError if there is no such file or it is of something else, and UserError if it is damaged.
    """
    path = Path(path)
    named = f"--ckpt_path {path}"
    if not os.path.isfile(path):  # noqa: PTH113, as Path.is_file raises on a name that is too long
        where = f"checkpoints are in {RUNS}/*/version_*/checkpoints"
        raise UsageError("checkpoint-missing", f"{named} does not exist or is not a file; {where}")
    try:
        path.open("rb").close()
    except OSError as error:
        sentence = f"{named} can't be read ({error.strerror}); fix that, or use another"
        raise UserError("checkpoint-unreadable", sentence) from error
    not_ours = f"{named} is not a checkpoint of lit_cifar"
    if not is_zipfile(path):
        raise UsageError("checkpoint-foreign", f"{not_ours}, or is cut short; use best.ckpt or last.ckpt of a run")
    damaged = UserError("checkpoint-damaged", f"{named} is damaged; use another checkpoint")
    if not _is_intact(path):
        raise damaged
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        sentence = f"{not_ours}: it holds something other than tensors, numbers and strings, so it isn't opened"
        raise UsageError("checkpoint-foreign", sentence) from error
    except Exception as error:  # a file made to mislead may raise anything
        raise damaged from error
    if not isinstance(content, dict) or not isinstance(content.get(KEY), dict) or "state_dict" not in content:
        raise UsageError("checkpoint-foreign", f"{not_ours}; use best.ckpt or last.ckpt of a run")
    parts = content[KEY] | {"state_dict": content["state_dict"]}
    if "card" not in parts:
        raise UsageError("checkpoint-foreign", f"{not_ours} 0.2 or newer; use the version that wrote it")
    try:
        for name in ("history", "state_dict", "card"):
            if not isinstance(parts.get(name), dict) or not all(isinstance(key, str) for key in parts[name]):
                raise ValueError(name)
        return Checkpoint(path, RunCard.from_dict(parts["card"]), content)
    except ValueError as error:
        sentence = f"{named} is damaged: its {error} can't be what was written; use another checkpoint"
        raise UserError("checkpoint-damaged", sentence) from error


def _is_intact(path: Path) -> bool:
    """Returns whether every CRC-32 matches, nothing grows when it's unpacked, and there is one pickle."""
    try:
        with ZipFile(path) as file:
            size = sum(entry.file_size for entry in file.infolist())
            pickles = [name for name in file.namelist() if name.endswith(".pkl")]
            return size <= path.stat().st_size and len(pickles) == 1 and file.testzip() is None
    except Exception:  # zipfile raises a dozen kinds of errors on damaged files
        return False


def check_resumable(checkpoint: Checkpoint, now: RunCard, root: Path) -> None:
    """Raises UsageError, with a list of what differs, unless a training goes on from a checkpoint that it wrote."""
    if differences := checkpoint.card.differences(now):
        where = f"; the images are those in {root}" if LABELS["images"] in differences else ""
        what = f"--ckpt_path {checkpoint.path} is of another training, which differs in {', '.join(differences)}{where}"
        todo = "set them to the same, or start a new training, perhaps from these weights with --init_from"
        raise UsageError("checkpoint-of-another-training", f"{what}; {todo}")


def find_checkpoint(path: str | None, root: Path) -> Checkpoint:
    """Reads the checkpoint at a path, or the `best` or `last` of the newest run under `root`, of any recipe.

    None means the newest run's best, or its last if it held out no images to choose the best by. Raises UsageError if
    there is none, and UserError if the one that is named is damaged.
    """
    if path not in (None, "best", "last"):
        return read_checkpoint(path)
    runs, any_run = root / RUNS, "*/version_*/checkpoints"
    newest = newest_checkpoint([runs], f"{any_run}/*st.ckpt")
    if newest and path is None:
        return newest_checkpoint([newest.path.parent], "best.ckpt") or newest
    if newest and path == "best" and not newest.path.with_name("best.ckpt").exists():
        why = f"the newest run, {newest.path.parents[1]}, has no best.ckpt: it held out no images or has only begun"
        raise UsageError("checkpoint-missing", f"{why}; use --ckpt_path last, or give a path")
    found = newest and (
        newest_checkpoint([newest.path.parent], f"{path}.ckpt") or newest_checkpoint([runs], f"{any_run}/{path}.ckpt")
    )
    if found:
        return found
    what = f"there is no intact {path or 'best'}.ckpt in {runs}/*/version_*/checkpoints"
    todo = "train with python -m lit_cifar fit, or give a path with --ckpt_path"
    raise UsageError("checkpoint-missing", f"{what}; {todo}")


def newest_checkpoint(folders: Sequence[Path], pattern: str, resume: bool = False) -> Checkpoint | None:
    """Reads the newest intact checkpoint that matches a pattern, such as `version_*/checkpoints/last.ckpt`.

    If there are only others, and a training would begin anew instead of going on, it raises the error of the newest.
    """
    paths = [path for folder in folders for path in folder.glob(pattern)]
    errors: list[UserError] = []
    for path in sorted(paths, key=lambda p: p.lstat().st_mtime_ns, reverse=True):
        try:
            found = read_checkpoint(path)
        except UserError as error:  # cut short or damaged: the one before may do
            errors.append(error)
            continue
        if resume and errors:
            _say(f"{_why(errors[0])}; going on from {path}")
        return found
    if resume and errors:
        todo = "move it away to begin anew, or name another with --ckpt_path"
        raise type(errors[0])(errors[0].code, f"--resume auto can't go on: {_why(errors[0])}; {todo}") from errors[0]
    return None


def _why(error: UserError) -> str:
    return str(error).removeprefix("--ckpt_path ").partition("; ")[0]


@rank_zero_only
def _say(sentence: str) -> None:
    print(f"lit_cifar: {sentence}", file=sys.stderr)
