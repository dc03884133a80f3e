"""Where images come from: the published archive, a folder of pictures, or code that draws synthetic ones.

`open_images` detects which of these is in a folder, downloads CIFAR-10 if there is none, and returns two ImageSets. Any
number of processes may start on an empty folder at once: one prepares it, and the others wait.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import FileLock

from lit_cifar.data import cifar
from lit_cifar.data.download import DownloadError
from lit_cifar.data.image_folder import SUFFIXES, is_folder, load_folder
from lit_cifar.data.image_set import ImageSet
from lit_cifar.errors import UsageError, UserError

Dataset = Literal["auto", "real", "drawn"]
Kind = Literal["cifar10", "folder", "drawn"]


class Images(NamedTuple):
    """A data set and its kind."""

    kind: Kind
    """`cifar10` is the published archive only; the same images as JPEG files are a `folder`."""
    train: ImageSet
    test: ImageSet
    why_drawn: str = ""
    """Why `auto` fell back on synthetic images; empty if it didn't."""


def open_images(root: Path, dataset: Dataset = "real", mirrors: Sequence[str] = cifar.MIRRORS) -> Images:
    """Opens the images in `root`, after downloading CIFAR-10 into it if there are none.

    Args:
        root: A folder with `cifar-10-batches-py/`, `cifar-10-python.tar.gz`, or `train/<class>/` and `test/<class>/`.
        dataset: `real` takes images from `root` or the network, `drawn` takes synthetic ones, and `auto` takes
            synthetic ones only if `root` has no images and they can't be downloaded.
        mirrors: Addresses to download from, tried in this order.

    Raises:
        UsageError: `root` is not a folder, can't be read, or lacks images.
        UserError: An archive or a picture is damaged, the disk is full, or no mirror delivered the archive.
    """
    if dataset == "drawn":
        return _drawn()
    try:
        if root.exists() and not root.is_dir():
            raise UsageError(
                "data-missing", f"{root} is a file, not a folder; set --data.root to the folder of the images"
            )
        if is_folder(root):
            return Images("folder", *load_folder(root, lambda: _lock(root)))
        if not (root / cifar.FOLDER).is_dir():
            with _lock(root):
                if not holds_images(root):
                    _refuse_other_pictures(root)
                cifar.prepare(root, mirrors)
        return Images("cifar10", *cifar.load(root))
    except DownloadError as error:
        if dataset == "auto":
            return _drawn(str(error))
        raise
    except OSError as error:
        kind = UsageError if isinstance(error, PermissionError | FileExistsError | NotADirectoryError) else UserError
        raise kind(
            "data-unreadable",
            f"{error.filename or root} can't be read or written ({error.strerror or error}); fix that, or choose"
            " another folder with --data.root",
        ) from error


def holds_images(root: Path) -> bool:
    """Returns whether `open_images` finds images in `root`, without a download."""
    return is_folder(root) or (root / cifar.FOLDER).is_dir() or (root / cifar.ARCHIVE.name).is_file()


def _drawn(why: str = "") -> Images:
    from lit_cifar.data.synthetic import draw

    return Images("drawn", *draw(), why)


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Lets one process at a time prepare a folder. The lock is the system's, so a killed process leaves none behind."""
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):  # read-only, full, or a file system without locks: go on without
            stack.enter_context(FileLock(root / ".lit_cifar.lock"))
        yield


def _refuse_other_pictures(root: Path) -> None:
    """Refuses a folder with pictures in the wrong places, instead of downloading others into it."""
    for path in chain.from_iterable(map(root.glob, ("*", "*/*", "*/*/*"))):  # */*/*: as in Train/cat/1.png
        if path.suffix.lower() in SUFFIXES:
            raise UsageError(
                "data-missing",
                f"{root} holds pictures, but not in the folders {root}/train/<class>/ and {root}/test/<class>/;"
                " move them there, or choose another folder with --data.root",
            )
