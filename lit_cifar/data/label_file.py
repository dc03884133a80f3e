"""Labels from a file: .npy, .csv or .pt, with one label for each image, or several sets of them by name.

Such as those of CIFAR-10N and CIFAR-100N (Wei et al., "Learning with Noisy Labels Revisited", arXiv 2110.12088), which
are dictionaries of arrays. Python wrote them with pickle, which can run any code. Here, pickles know three names of
NumPy and no others, and even these stand for classes of ours, which take nothing but numbers and words out of them.
"""

import csv
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_cifar.data.image_folder import SHOWN_AS
from lit_cifar.errors import UsageError, UserError

SUFFIXES = (".npy", ".csv", ".pt")
FLAG = "--data.train_labels"
MOST_NAMED = 8  # sets or labels in one sentence


def path_and_name(file: str) -> tuple[Path, str | None]:
    """Splits `FILE` or `FILE:NAME`; raises UsageError unless FILE is of a known kind and exists."""
    head, _, name = file.rpartition(":")
    named = not file.lower().endswith(SUFFIXES)
    path = Path(head if named else file).expanduser()
    if path.suffix.lower() not in SUFFIXES or (named and not name):
        todo = "use a file .npy, .csv or .pt, followed by :NAME if it has several sets of labels"
        raise UsageError("labels-unfit", f"{FLAG} {file} is of an unknown kind; {todo}")
    if not path.is_file():
        raise UsageError("labels-missing", f"{FLAG} {path} does not exist or is not a file; use another path")
    return path, name if named else None


def read_labels(file: str, true: Tensor, classes: Sequence[str]) -> Tensor:
    """Returns int64 `[N]`: the labels in a file, for the images whose true labels are `true`.

    Labels are names of classes or their numbers. If the file also has the true labels, they must be the same: otherwise
    its labels are in another order than the images.

    Raises UsageError if their number, shape or type doesn't fit or a label is unknown, and UserError if the file can't
    be read.
    """
    path, name = path_and_name(file)
    try:
        content = _read(path, name)
    except UsageError:
        raise
    except OSError as error:
        sentence = f"{FLAG} {path} can't be read ({error.strerror or error}); fix that, or use another"
        raise UserError("labels-unreadable", sentence) from error
    except Exception as error:  # a file made to mislead may raise anything
        kinds = {".npy": "an array of NumPy", ".csv": "a table in UTF-8", ".pt": "a file of torch.save"}
        holds = f"{FLAG} {path} can't be read: it is damaged, or not {kinds[path.suffix.lower()]}"
        sentence = f"{holds} that has only numbers and words; write it again, or use another"
        raise UserError("labels-unreadable", sentence) from error
    sets = content if isinstance(content, Mapping) else {}
    if sets or name:
        if name not in sets:
            found = ", ".join(list(map(str, sets))[:MOST_NAMED]) + (" …" if len(sets) > MOST_NAMED else "")
            what = f"has no {name}" if name else "has several sets of labels"
            todo = f"use {FLAG} {path}:NAME, with one of {found}" if sets else f"use {FLAG} {path}"
            raise UsageError("labels-unfit", f"{FLAG} {path} {what}; {todo}")
        content = sets[name]
    labels = _numbers(content, len(true), classes, path)
    clean = "clean_coarse_label" if "coarse" in str(name) else "clean_label"  # CIFAR-100N has both
    wrong = int((_numbers(sets[clean], len(true), classes, path) != true).sum()) if clean in sets else 0
    if wrong:
        order = f"its {clean} differs from the true label of {wrong:,} of {len(true):,} images"
        todo = "use the labels in the order of these images"
        raise UsageError("labels-unfit", f"{FLAG} {path} is in another order than the training set: {order}; {todo}")
    return labels


def _numbers(content: Any, count: int, classes: Sequence[str], path: Path) -> Tensor:
    """Returns int64 `[count]`, or raises UsageError for anything that isn't one class for each image."""
    if isinstance(content, Tensor):
        content = content.float().numpy() if content.is_floating_point() else content.numpy()
    if isinstance(content, list | tuple):
        kinds = {type(each) for each in content}
        content = np.array(list(map(str, content))) if kinds <= {int} or kinds <= {str} else content
    needs = f"{FLAG} needs one label for each of {count:,} training images, as whole numbers or names of classes"
    if not isinstance(content, np.ndarray) or content.dtype.kind not in "iuU":
        found = content.dtype if isinstance(content, np.ndarray) else f"a {type(content).__name__} of other things"
        raise UsageError("labels-unfit", f"{needs}, but {path} holds {found}")
    if content.ndim == 1 and len(content) == count + 1 and path.suffix.lower() == ".csv":
        first = str(content[0])  # perhaps the title of the only column
        content = content if first.isdecimal() or SHOWN_AS.get(first, first) in classes else content[1:]
    if content.shape != (count,):
        shape = f"{len(content):,} labels" if content.ndim == 1 else f"the shape {list(content.shape)}"
        raise UsageError("labels-unfit", f"{needs}, but {path} has {shape}")
    different, places = np.unique(content, return_inverse=True)
    words = [SHOWN_AS.get(word, word) for word in map(str, different.tolist())]
    known = {name: number for number, name in enumerate(classes)}
    if not set(words) <= known.keys() and all(re.fullmatch("-?[0-9]{1,18}", word) for word in words):
        known = {str(number): number for number in range(len(classes))}
        words = [str(int(word)) for word in words]
    if unknown := [word for word in words if word not in known]:
        more = f" and {len(unknown) - MOST_NAMED:,} more" if len(unknown) > MOST_NAMED else ""
        shown = f"{', '.join(word[:40] or 'an empty one' for word in unknown[:MOST_NAMED])}{more}"
        todo = f"use the names of classes, such as {classes[0]}, or their numbers, 0 to {len(classes) - 1}"
        raise UsageError("labels-unfit", f"{FLAG} {path} has labels that are not classes: {shown}; {todo}")
    return torch.tensor([known[word] for word in words])[torch.from_numpy(places)]


def _read(path: Path, name: str | None) -> Any:
    """Returns what is in a file: an array, a tensor, a list, or a dictionary of these."""
    if path.suffix.lower() == ".csv":
        return _read_table(path, name)
    if path.suffix.lower() == ".pt":
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in STAND_INS.items()]):
            return _plain(torch.load(path, map_location="cpu", weights_only=True))
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, kind = read_header(file)
        if not kind.hasobject:
            return np.load(path, allow_pickle=False)
        content = _plain(_LabelUnpickler(file).load())
    return content[0] if len(content) == 1 and isinstance(content[0], Mapping) else content


def _read_table(path: Path, name: str | None) -> Any:
    """Returns the only column of a table, or all columns by their titles if there are several, or one is named."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        delimiter = next((each for each in ",;\t" if each in first), ",")
        rows = [[cell.strip() for cell in row] for row in csv.reader(file, delimiter=delimiter) if any(row)]
    if name is None and all(len(row) == 1 for row in rows):
        return [row[0] for row in rows]
    uneven = next((number for number, row in enumerate(rows, 1) if len(row) != len(rows[0])), None)
    if uneven:
        what = f"row {uneven:,} has {len(rows[uneven - 1])} columns, the first one {len(rows[0])}"
        raise UsageError("labels-unfit", f"{FLAG} {path} is not a table: {what}; fix that, or use another")
    return {title: [*column] for title, *column in zip(*rows, strict=True)}


class _Array:
    """Stands for an array of NumPy in a pickle, and for the function that makes one."""

    def __init__(self, *_: Any) -> None:
        self.values: Any = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, in_columns, data = state
        self.values = data
        if not isinstance(data, list):  # of objects
            self.values = np.frombuffer(data, kind.dtype()).reshape(shape, order="F" if in_columns else "C")


class _Kind:
    """Stands for the type of an array's elements."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        if not re.fullmatch("[biufU][0-9]{1,4}", self.code) or self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"there are no labels of the type {self.order}{self.code}")
        return np.dtype(self.order + self.code)


class _Scalar:
    """Stands for a number of NumPy by itself."""

    def __init__(self, kind: _Kind, data: bytes) -> None:
        self.value = np.frombuffer(data, kind.dtype())[0].item()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a number has no state")


STAND_INS: dict[str, type] = {"numpy.ndarray": _Array, "numpy.dtype": _Kind}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # of NumPy 1 and 2
    STAND_INS |= {f"{_module}._reconstruct": _Array, f"{_module}.scalar": _Scalar}


class _LabelUnpickler(pickle.Unpickler):
    """Knows the names in STAND_INS and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if found := STAND_INS.get(f"{module}.{name}"):
            return found
        raise pickle.UnpicklingError(f"it names {module}.{name}, which labels have no use for")


def _plain(content: Any) -> Any:
    """Returns what stand-ins have found, in dictionaries and lists too."""
    if isinstance(content, _Array):
        return _plain(content.values)
    if isinstance(content, _Scalar):
        return content.value
    if isinstance(content, Mapping):
        return {name: _plain(each) for name, each in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(each) for each in content]
    return content
