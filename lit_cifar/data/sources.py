"""Where images come from: the published archive, a folder of pictures, or code that draws synthetic ones.

`open_images` detects which of these is in a folder, downloads CIFAR-10 if there is none, and returns two ImageSets. Any
number of processes may start on an empty folder at once: one prepares it, and the others wait.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from lit_cifar.data import cifar
from lit_cifar.data.download import DownloadError
from lit_cifar.data.image_files import SIDE, TO_32, Scaling, suffixes
from lit_cifar.data.image_folder import is_folder, load_folder, lock
from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.synthetic import draw
from lit_cifar.errors import UsageError, UserError

Dataset = Literal["auto", "real", "drawn"]
Kind = Literal["cifar10", "folder", "drawn"]


class Images(NamedTuple):
    """A data set and its kind."""

    kind: Kind
    """`cifar10` is the published archive only; the same images as JPEG files are a `folder`."""
    train: ImageSet
    test: ImageSet
    """Without images if a folder has no `test`."""
    why_drawn: str = ""
    """Why `auto` fell back on synthetic images; empty if it didn't."""
    val: ImageSet | None = None
    """What a folder has in `val`, to validate on in place of images held out of training."""


def open_images(
    root: Path,
    dataset: Dataset = "real",
    mirrors: Sequence[str] = cifar.MIRRORS,
    scaling: Scaling = TO_32,
) -> Images:
    """Opens the images in `root`, after downloading CIFAR-10 into it if there are none.

    Args:
        root: A folder with `cifar-10-batches-py/`, `cifar-10-python.tar.gz`, or `train/<class>/` and perhaps
            `val/<class>/` and `test/<class>/`.
        dataset: `real` takes images from `root` or the network, `drawn` takes synthetic ones, and `auto` takes
            synthetic ones only if `root` has no images and they can't be downloaded.
        mirrors: Addresses to download from, tried in this order.
        scaling: How pictures in a folder are scaled; only those can have another side than 32 pixels.

    Raises UsageError if `root` is not a folder, can't be read, or lacks images, and UserError if an archive or a
    picture is damaged, the disk is full, or no mirror delivered the archive.
    """
    if dataset == "drawn":
        _require_side(scaling, "synthetic images have")
        return Images("drawn", *draw())
    try:
        if root.exists() and not root.is_dir():
            raise UsageError("data-missing", f"{root} is a file; set --data.root to the folder of the images")
        if is_folder(root):
            splits = load_folder(root, scaling)
            return Images("folder", splits["train"], splits["test"], val=splits.get("val"))
        _require_side(scaling, "the images of CIFAR-10 have")
        if not (root / cifar.FOLDER).is_dir():
            with lock(root):
                # pictures in the wrong places, as in Train/cat/1.png, are refused before others are downloaded to them
                others = chain.from_iterable(map(root.glob, ("*", "*/*", "*/*/*")))
                if not holds_images(root) and any(path.suffix.lower() in suffixes() for path in others):
                    needs = f"not in {root}/train/<class>/ and {root}/test/<class>/"
                    remedy = "move them there, or set --data.root to another folder"
                    raise UsageError("data-missing", f"{root} holds pictures, but {needs}; {remedy}")
                if not (root / cifar.FOLDER).is_dir():  # another process may have been first
                    cifar.prepare(root, mirrors)
        return Images("cifar10", *cifar.load(root))
    except DownloadError as error:
        if dataset == "auto":
            return Images("drawn", *draw(), str(error))
        raise
    except OSError as error:
        kind = UsageError if isinstance(error, PermissionError | FileExistsError | NotADirectoryError) else UserError
        fault = f"{error.filename or root} can't be read or written ({error.strerror or error})"
        raise kind("data-unreadable", f"{fault}; fix that, or set --data.root to another folder") from error


def holds_images(root: Path) -> bool:
    """Returns whether `open_images` finds images in `root`, without a download."""
    return is_folder(root) or (root / cifar.FOLDER).is_dir() or (root / cifar.ARCHIVE.name).is_file()


def scaled_in(root: Path, scaling: Scaling) -> Scaling:
    """Returns how to open the images in `root` for a network that was trained on scaled ones: CIFAR-10's stay."""
    return scaling if is_folder(root) else TO_32


def _require_side(scaling: Scaling, whose: str) -> None:
    if scaling.side != SIDE:
        sentence = f"--data.image_size {scaling.side} is for folders of pictures, and {whose} {SIDE} × {SIDE} pixels"
        remedy = f"leave it out, or scale them while training with --model.sides [[0, {scaling.side}]]"
        raise UsageError("value-invalid", f"{sentence}; {remedy}")
