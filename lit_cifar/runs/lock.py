"""No run goes on where one still trains.

Who writes a last.ckpt holds a lock beside it; the lock is the system's, so that a killed process leaves none behind.
"""

import shutil
from pathlib import Path

from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_only

from lit_cifar.errors import UserError
from lit_cifar.files import PARTS

LOCK = ".lock"
SECONDS = 3  # a run that was just told to end is given these

_held: dict[Path, FileLock] = {}


def hold(folder: Path) -> None:
    """Keeps a folder of checkpoints for this run, until `release` or the end of the process.

    Raises:
        UserError: another run has it.
    """
    folder = folder.resolve()
    if folder in _held or rank_zero_only.rank or not folder.is_dir():  # type: ignore[attr-defined]
        return  # filelock would make it
    lock = FileLock(folder / LOCK, timeout=SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"the run that writes into {folder} still goes on in another process; wait for its end, or train elsewhere:"
            " without --ckpt_path and --resume, or with another --trainer.default_root_dir"
        ) from error
    except (OSError, NotImplementedError):  # read-only, full, or a file system without locks: go on without
        return
    _held[folder] = lock
    for part in folder.glob(PARTS):  # of a run that was killed while it wrote a checkpoint
        shutil.rmtree(part, ignore_errors=True)


def release() -> None:
    """Lets go of all folders."""
    while _held:
        _held.popitem()[1].release()
