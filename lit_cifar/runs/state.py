"""run.json: what state a run is in, and what it is. It is light to read: nothing here imports torch.

It is written whole when a training begins, and replaced when a checkpoint is written, a validation or an epoch ends,
and when the training ends. A run that was killed can't say so: whether it still runs shows in the lock that it holds.
"""

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from lit_cifar.data.files import write_whole
from lit_cifar.errors import UserError

RUNS = "lightning_logs"
LOCK = ".lock"
"""In the folder of checkpoints: locked by the process that trains; see `runs/folder.py`."""
FILE = "run.json"
VERSION = 1
LARGEST = 4_000_000  # bytes; a file has about 3,000, and 30 more for each validation
MOST_POINTS = 1000  # validations that are kept; of more, every second one is dropped
QUIET = 3600  # seconds without a sign of life after which a run that holds no lock has ended

State = Literal["running", "finished", "interrupted", "diverged", "failed"]


@dataclass(frozen=True)
class RunState:
    """The content of run.json."""

    state: State
    step: int
    epochs: float
    seconds: float
    """Wall time of training, over all resumptions."""
    started: str
    """When the run began first, in ISO 8601 with a time zone, as `updated` is."""
    updated: str
    note: str | None
    """What the user wrote about the run with `--note`."""
    val_accuracy: list[tuple[int, float]]
    """Of each validation: the step, and the accuracy from 0 to 1."""
    card: dict[str, Any] | None
    """RunCard.as_dict(); None if the user brought a LightningModule of another class."""


def now() -> str:
    """Returns the present time as run.json holds it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_state(folder: Path, state: RunState) -> None:
    """Writes run.json into a run folder, or raises UserError if it can't."""
    points = state.val_accuracy
    while len(points) > MOST_POINTS:
        points = points[-1::-2][::-1]
    content = {"version": VERSION, **vars(state), "val_accuracy": points}
    write_whole(folder / FILE, json.dumps(content) + "\n")


def read_state(folder: Path) -> RunState | None:
    """Reads run.json of a run folder; None if it has none, as before version 0.3.

    Raises UserError `run-damaged` if it isn't what was written. A run that was killed is read as interrupted.
    """
    found = read_json(folder / FILE)
    if found is None:
        return None
    if found.get("version") != VERSION:
        raise damaged(folder / FILE, f"its version is {found.get('version')!r}, not {VERSION}")
    for name, fits in _FITS.items():
        if not fits(found.get(name)):
            raise damaged(folder / FILE, f"its {name} is missing or wrong")
    state = RunState(**{name: found[name] for name in _FITS})
    if state.state == "running" and not is_alive(folder, time_of(state.updated)):
        return RunState(**vars(state) | {"state": "interrupted"})
    return state


def read_json(path: Path, largest: int = LARGEST) -> dict[str, Any] | None:
    """Returns the object that a JSON file of a run holds, or None if there is no such file.

    Raises UserError `run-damaged` if it can't be read, is larger than `largest` bytes, or holds something else.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for ever, and a device never end
            raise damaged(path, "it is not a file")
        with path.open("rb") as file:
            content = file.read(largest + 1)
        if len(content) > largest:
            raise damaged(path, f"it has more than {largest:,} bytes")
        found = json.loads(content)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise damaged(path, error.strerror or type(error).__name__) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, "it is not JSON") from error
    if not isinstance(found, dict):
        raise damaged(path, "it holds no keys and values")
    return found


def damaged(path: Path, why: str) -> UserError:
    """Returns the error for a file of a run that is not what was written."""
    return UserError("run-damaged", f"{path} is damaged: {why}")


def is_number(value: Any) -> bool:
    """Returns whether a value from outside is a finite number."""
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) < 2**63 and math.isfinite(value)


def is_share(value: Any) -> bool:
    """Returns whether a value from outside is an accuracy."""
    return is_number(value) and 0 <= value <= 1


def time_of(value: Any) -> datetime | None:
    """Returns the time that a value from outside is in ISO 8601, if it has a time zone."""
    try:
        time = datetime.fromisoformat(value)
        return time.astimezone(timezone.utc) if time.tzinfo else None
    except (ValueError, TypeError, OverflowError):
        return None


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(point, list) and len(point) == 2 and is_number(point[0]) and is_share(point[1]) for point in value
    )


_FITS: Mapping[str, Any] = {
    "state": lambda value: value in get_args(State),
    "step": lambda value: is_number(value) and isinstance(value, int) and value >= 0,
    "epochs": lambda value: is_number(value) and value >= 0,
    "seconds": lambda value: is_number(value) and value >= 0,
    "started": lambda value: time_of(value) is not None,
    "updated": lambda value: time_of(value) is not None,
    "note": lambda value: value is None or isinstance(value, str),
    "val_accuracy": _is_curve,
    "card": lambda value: value is None or isinstance(value, dict),
}


def is_alive(folder: Path, updated: datetime | None) -> bool:
    """Returns whether the process that trains still lives: it holds the lock or, without one, was heard of lately."""
    try:
        import fcntl  # Windows has none

        lock = os.open(folder / "checkpoints" / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ImportError):  # it writes no checkpoints, or the file system has no locks
        return updated is not None and (datetime.now(timezone.utc) - updated).total_seconds() < QUIET
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
