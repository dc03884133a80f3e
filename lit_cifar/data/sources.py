"""Where images come from: the published archives, a folder of pictures, or code that draws synthetic ones.

`open_images` detects which of these is in a folder, downloads CIFAR-10 or CIFAR-100 if there is none, and returns two
ImageSets. Any number of processes may start on an empty folder at once: one prepares it, and the others wait.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from lit_cifar.data import cifar
from lit_cifar.data.cifar import PUBLISHED, Labels
from lit_cifar.data.download import DownloadError
from lit_cifar.data.image_files import SIDE, TO_32, Scaling, suffixes
from lit_cifar.data.image_folder import class_names, is_folder, load_folder, lock
from lit_cifar.data.image_set import CIFAR10_CLASSES, CIFAR100_CLASSES, ImageSet
from lit_cifar.data.synthetic import draw
from lit_cifar.errors import UsageError, UserError, either, meant

Dataset = Literal["auto", "cifar10", "cifar100", "folder", "drawn"]
Kind = Literal["cifar10", "cifar100", "folder", "drawn"]

CLASSES = {"cifar10": CIFAR10_CLASSES, "cifar100": CIFAR100_CLASSES}
TITLES: dict[Kind, str] = {"folder": "pictures in train/<class>/", "drawn": "synthetic images"}
TITLES |= {kind: published.archive.title for kind, published in PUBLISHED.items()}


class Images(NamedTuple):
    """A data set and its kind."""

    kind: Kind
    """`cifar10` and `cifar100` are the published archives only; the same images as JPEG files are a `folder`."""
    train: ImageSet
    test: ImageSet
    """Without images if a folder has no `test`."""
    why_drawn: str = ""
    """Why `auto` fell back on synthetic images; empty if it didn't."""
    val: ImageSet | None = None
    """What a folder has in `val`, to validate on in place of images held out of training."""


_kept: dict[object, Images] | None = None  # see kept_open


def open_images(
    root: Path,
    dataset: Dataset | None = None,
    mirrors: Sequence[str] | None = None,
    labels: Labels = "fine",
    scaling: Scaling = TO_32,
) -> Images:
    """Opens the images in `root`, after downloading CIFAR-10 or CIFAR-100 into it if they are missing.

    Args:
        root: A folder with `train/<class>/` and perhaps `val/<class>/` and `test/<class>/`, or with
            `cifar-10-batches-py/`, `cifar-10-python.tar.gz`, `cifar-100-python/` or `cifar-100-python.tar.gz`.
        dataset: None takes what `root` has, the first of these if it has several, and CIFAR-10 if it has none. `auto`
            does the same, but takes synthetic images if CIFAR-10 can't be downloaded. `cifar10` and `cifar100` take
            nothing but that data set, as published or as pictures of the same classes, `folder` nothing but pictures,
            and `drawn` synthetic images.
        mirrors: Addresses to download from, tried in this order; those of the data set if None.
        labels: Those of CIFAR-100: `fine` for 100 classes or `coarse` for 20.
        scaling: How pictures in a folder are scaled; only those can have another side than 32 pixels.

    Raises UsageError if `root` is not a folder, can't be read, lacks images, or has others than asked for, and
    UserError if an archive or a picture is damaged, the disk is full, or no mirror delivered the archive.
    """
    if _kept is None:
        return _open(root, dataset, mirrors, labels, scaling)
    asked = (root.resolve(), dataset, labels, scaling)
    if asked not in _kept:
        _kept.clear()  # one data set at a time: CIFAR-10 takes 0.2 GB, a folder at 224 pixels a hundred times that
        _kept[asked] = _open(root, dataset, mirrors, labels, scaling)
    return _kept[asked]


@contextmanager
def kept_open() -> Iterator[None]:
    """Lets `open_images` return the images that it returned last if it is asked for the same, for many short runs."""
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


def _open(
    root: Path, dataset: Dataset | None, mirrors: Sequence[str] | None, labels: Labels, scaling: Scaling
) -> Images:
    try:
        kind = "drawn" if dataset == "drawn" else _kind(root, dataset)
        if labels not in get_args(Labels):
            raise UsageError("value-invalid", f"--data.labels {labels} must be fine or coarse")
        if labels == "coarse" and kind != "cifar100":
            fault = f"--data.labels coarse is for CIFAR-100 as published, not for {TITLES[kind]}"
            raise UsageError("value-invalid", f"{fault}; leave it out, or use --data.dataset cifar100 with such files")
        if kind != "folder" and scaling.side != SIDE:
            sentence = f"--data.image_size {scaling.side} is for folders of pictures, not for {TITLES[kind]}"
            remedy = f"leave it out, or scale them while training with --model.sides [[0, {scaling.side}]]"
            raise UsageError("value-invalid", f"{sentence}; {remedy}")
        if kind == "drawn":
            return Images("drawn", *draw())
        if kind == "folder":
            splits = load_folder(root, scaling)
            return Images("folder", splits["train"], splits["test"], val=splits.get("val"))
        published = PUBLISHED[kind]
        if not (root / published.folder).is_dir():
            with lock(root):
                if not found(root):
                    _refuse_misplaced(root)
                if not (root / published.folder).is_dir():  # another process may have been first
                    cifar.prepare(root, published, published.mirrors if mirrors is None else mirrors)
        return Images(kind, *cifar.load(root, published, labels))
    except DownloadError as error:
        if dataset == "auto":
            return Images("drawn", *draw(), str(error))
        raise
    except OSError as error:
        refusal = UsageError if isinstance(error, PermissionError | FileExistsError | NotADirectoryError) else UserError
        fault = f"{error.filename or root} can't be read or written ({error.strerror or error})"
        raise refusal("data-unreadable", f"{fault}; fix that, or set --data.root to another folder") from error


def meant_dataset(word: str) -> str:
    """Returns what a word that names no data set may mean, as a question, or ""."""
    if word == "real":  # its name until version 0.2
        return "did you mean cifar10, cifar100 or folder? Without --data.dataset, the images in --data.root are used"
    return meant(word, get_args(Dataset))


def found(root: Path) -> list[Kind]:
    """Returns the kinds of images in `root`; if no data set is named, the first of them is used."""
    folder: list[Kind] = ["folder"] if is_folder(root) else []
    return folder + [kind for kind, published in PUBLISHED.items() if cifar.is_here(root, published)]


def open_found(root: Path, kind: Kind | Literal["own"], labels: Labels, scaling: Scaling) -> Images | None:
    """Opens images in `root` without a download: of this kind if there are such, or else others. None if it has none.

    Raises what `open_images` raises.
    """
    kinds = found(root)
    if not kinds:
        return None
    there = kind if kind in kinds else kinds[0]
    scaling = scaling if there == "folder" else TO_32
    return open_images(root, there, labels=labels if there == "cifar100" else "fine", scaling=scaling)


def _kind(root: Path, dataset: Dataset | None) -> Kind:
    """Returns the kind of images to take, or raises UsageError if there is no such data set or `root` has others.

    A published data set may be downloaded beside the other one, but not beside pictures, which are someone's own.
    """
    if dataset is not None and dataset not in get_args(Dataset):
        hint = "".join(f"; {hint}" for hint in [meant_dataset(dataset)] if hint)
        raise UsageError("value-invalid", f"--data.dataset {dataset} must be {either(get_args(Dataset))}{hint}")
    if root.exists() and not root.is_dir():
        raise UsageError("data-missing", f"{root} is a file; set --data.root to the folder of the images")
    kinds = found(root)
    if dataset is None or dataset == "auto":
        return kinds[0] if kinds else "cifar10"
    if dataset in kinds:
        return dataset
    if not kinds and dataset == "folder":
        remedy = "put some there, or set --data.root to another folder"
        raise UsageError("data-missing", f"{root} has no pictures in train/<class>/; {remedy}")
    if dataset in PUBLISHED and "folder" not in kinds:
        return dataset
    fault = f"{root} holds {' and '.join(TITLES[kind] for kind in kinds)}, not {TITLES[dataset]}"
    if "folder" in kinds:
        names, expected = class_names(root), {*CLASSES[dataset]}
        if names == expected:
            return "folder"
        name = min(names ^ expected)
        fault += f" ({f'which has no class {name}' if name in names else f'they have no class {name}'})"
    raise UsageError("data-other", f"{fault}; set --data.root to another folder, or leave --data.dataset {dataset} out")


def _refuse_misplaced(root: Path) -> None:
    """Raises UsageError if images are there but in the wrong place, so that others aren't downloaded to them."""
    for published in PUBLISHED.values():
        if all((root / name).is_file() for name in published.files):
            fault = f"{root} is the folder of {published.archive.title} itself"
            raise UsageError("data-missing", f"{fault}; set --data.root {root.resolve().parent}, in which it lies")
    others = chain.from_iterable(map(root.glob, ("*", "*/*", "*/*/*")))  # such as Train/cat/1.png
    if any(path.suffix.lower() in suffixes() for path in others):
        needs = f"not in {root}/train/<class>/ and {root}/test/<class>/"
        remedy = "move them there, or set --data.root to another folder"
        raise UsageError("data-missing", f"{root} holds pictures, but {needs}; {remedy}")
