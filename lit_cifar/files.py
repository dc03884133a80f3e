"""Writing a file whole or not at all, and one sentence that says why it could not be.

What a command leaves is written in a folder beside its place and takes its name at the end, so that a full disk or a
kill costs nothing that was there before.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_cifar.errors import UserError

RUNS = "--trainer.default_root_dir"
FULL = {errno.ENOSPC, errno.EDQUOT}
PARTS = ".*.part"  # folders of what is not whole yet


def write_whole(path: Path, content: str | bytes, flag: str = RUNS) -> Path:
    """Writes a file, whole or not at all, and returns its path; makes its folder if missing.

    Args:
        path: of the file; what was there before is replaced.
        content: text is written as UTF-8, and a name in it that is not Unicode can't stop it.
        flag: that names another place to write to.

    Raises:
        UserError: it can't be written.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with whole(path, len(content), flag) as part:
        part.write_bytes(content)
    return path


@contextmanager
def whole(path: Path, size: int, flag: str = RUNS) -> Iterator[Path]:
    """Gives another path to write to, in a folder of its own; at the end all files there take their places.

    Args:
        path: where the file belongs; files that are written beside the other path come to lie beside it.
        size: bytes that they need together, at least.
        flag: that names another place to write to.

    Raises:
        UserError: they can't be written.
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
def writing(path: Path, flag: str = RUNS) -> Iterator[None]:
    """Says in one sentence why others' code can't write into `path`.

    Raises:
        UserError: it can't.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path / "events", error, flag=flag) from error


def unwritable(path: Path, error: OSError, size: int | None = None, flag: str = RUNS) -> UserError:
    """The sentence for a file that can't be written, with the bytes that it needs and those that are free."""
    why = error.strerror or str(error)
    if error.errno not in FULL:
        return UserError(f"{path} can't be written ({why}); mend that, or name another place with {flag}")
    room = amount(free(path.parent))
    needs = f"{path.name} needs {amount(size)}, and {room} are free" if size else f"{room} are free for {path.name}"
    return UserError(f"{path.parent} is full ({why}): {needs}; make room there, or name another place with {flag}")


def free(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def amount(size: int) -> str:
    """`170,498 kB`."""
    return f"{-(-size // 1000):,} kB"
