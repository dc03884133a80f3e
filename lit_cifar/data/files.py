"""Files are written whole or not at all, and what can't be written becomes one sentence.

A command writes into a folder next to the final place and renames at the end, so a full disk or a kill costs nothing
that was there before.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_cifar.errors import UserError

RUNS_FLAG = "--trainer.default_root_dir"
PARTS = ".*.part"  # folders of files that aren't whole yet
RESERVED_BY_WINDOWS = r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?"  # names that no file can have there


def write_whole(path: Path, content: str | bytes, flag: str = RUNS_FLAG) -> Path:
    """Writes a file, whole or not at all, or raises UserError; returns its path. Makes its folder if it is missing.

    Text is written as UTF-8; a file name in it that isn't Unicode is escaped. `flag` names another place to write to.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with whole(path, len(content), flag) as part:
        part.write_bytes(content)
    return path


@contextmanager
def whole(path: Path, size: int, flag: str = RUNS_FLAG) -> Iterator[Path]:
    """Gives a path in a folder of its own to write to. At the end, all files in that folder move next to `path`.

    If they can't be written, the UserError names `flag`, and `size`, the bytes that they need together, at least.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True, exist_ok=True)
        yield part / path.name
        for file in sorted(part.iterdir(), reverse=True):
            file.replace(path.with_name(file.name))
    except OSError as error:
        raise unwritable(path, error, size, flag) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the error of other code that can't write into the folder `path` into a UserError."""
    try:
        yield
    except OSError as error:
        raise unwritable(path / "events", error) from error


def unwritable(path: Path, error: OSError, size: int | None = None, flag: str = RUNS_FLAG) -> UserError:
    """Returns the error for a file that can't be written, with the bytes that it needs and those that are free."""
    why = error.strerror or str(error)
    elsewhere = f"or choose another place with {flag}"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return UserError("not-writable", f"{path} can't be written ({why}); fix that, {elsewhere}")
    folder = next(parent for parent in path.parents if parent.exists())
    free = f"{shutil.disk_usage(folder).free // 1000:,} kB are free for {path.name}"
    needs = f", which needs {-(-size // 1000):,} kB" if size else ""
    return UserError("disk-full", f"{path.parent} is full ({why}): {free}{needs}; make room there, {elsewhere}")
