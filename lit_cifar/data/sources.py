"""Where images come from: the published archive, a folder of pictures, or code that draws them.

`open_images` recognises by itself what lies in a folder, downloads CIFAR-10 where nothing does, and hands on two
ImageSets. Nothing is unpickled but the very bytes that Krizhevsky published (by their MD5), and even those by an
unpickler that knows three names of numpy's and no others. Any number of processes may start on an empty folder at
once: one prepares, the others wait for it.
"""

import gzip
import hashlib
import io
import pickle
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from filelock import FileLock

from lit_cifar.data.cifar import CIFAR10, MIRRORS, DownloadError, download, md5_of
from lit_cifar.data.image_folder import SUFFIXES, is_folder, load_folder
from lit_cifar.data.image_set import CIFAR10_CLASSES, ImageSet
from lit_cifar.errors import UsageError, UserError
from lit_cifar.files import unwritable

Dataset = Literal["auto", "real", "drawn"]
Kind = Literal["cifar10", "folder", "drawn"]

BATCHES = "cifar-10-batches-py"
TRAIN_BATCHES = {  # name: MD5, as torchvision lists them
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
LARGEST = 200_000_000  # bytes of an unpacked archive: CIFAR-10's is of 186 MB
TEST_BATCHES = {"test_batch": "40351d587109b95175f43aff81a1287e"}


class Images(NamedTuple):
    """A data set, and what to call it."""

    kind: Kind
    """`cifar10` is the published archive alone; the same images as JPEG files are a `folder`."""
    train: ImageSet
    test: ImageSet
    why_drawn: str = ""
    """Why `auto` fell back on drawn images, else empty."""


def open_images(root: Path, dataset: Dataset = "real", mirrors: Sequence[str] = MIRRORS) -> Images:
    """Opens what lies in `root`; downloads CIFAR-10 into it if that is nothing.

    Args:
        root: a folder with `cifar-10-batches-py/`, `cifar-10-python.tar.gz`, or `train/<class>/` and `test/<class>/`.
        dataset: `real` takes images from `root` or the network, `drawn` draws them, `auto` draws them only where
            nothing is there and nothing can be downloaded.
        mirrors: where to download from, in this order.

    Raises:
        UsageError: `root` is not a folder, may not be read, or lacks images.
        UserError: an archive or a picture is damaged, the disk is full, or no mirror answered.
    """
    if dataset == "drawn":
        return _drawn()
    try:
        if root.exists() and not root.is_dir():
            raise UsageError(f"{root} is a file, not a folder; --data.root names the folder that holds the images")
        if is_folder(root):
            return Images("folder", *load_folder(root, lambda: _lock(root)))
        if not (root / BATCHES).is_dir():
            with _lock(root):
                _prepare_batches(root, mirrors)
        return Images("cifar10", _load(root, TRAIN_BATCHES), _load(root, TEST_BATCHES))
    except DownloadError as error:
        if dataset == "auto":
            return _drawn(str(error))
        raise
    except OSError as error:
        kind = UsageError if isinstance(error, PermissionError | FileExistsError | NotADirectoryError) else UserError
        raise kind(
            f"{error.filename or root} can't be read or written ({error.strerror or error}); change that, or name"
            " another folder with --data.root"
        ) from error


def holds_images(root: Path) -> bool:
    """Whether `open_images` would find what it needs in `root`, and download nothing."""
    return is_folder(root) or (root / BATCHES).is_dir() or (root / CIFAR10.name).is_file()


def _drawn(why: str = "") -> Images:
    from lit_cifar.data.synthetic import draw

    return Images("drawn", *draw(), why)


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """One process at a time prepares a folder; a killed one leaves no lock behind, since the lock is the system's."""
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):  # read-only, full, or a file system without locks: go on without
            stack.enter_context(FileLock(root / ".lit_cifar.lock"))
        yield


def _prepare_batches(root: Path, mirrors: Sequence[str]) -> None:
    """Sees to it that `root` holds the unpacked batches. Call it under the lock."""
    if (root / BATCHES).is_dir():
        return  # another process was first
    archive = root / CIFAR10.name
    if not archive.exists():
        _refuse_other_pictures(root)
        download(root, mirrors)
    elif (size := archive.stat().st_size) != CIFAR10.size or md5_of(archive) != CIFAR10.md5:
        same = size == CIFAR10.size
        fault = f"its MD5 is not {CIFAR10.md5}" if same else f"{size:,} bytes instead of {CIFAR10.size:,}"
        raise UserError(f"{archive} is not the published archive ({fault}); delete it and run again to download it")
    _unpack(archive, root)


def _refuse_other_pictures(root: Path) -> None:
    """Whoever names a folder of pictures means those pictures; don't download others into it."""
    for path in chain.from_iterable(map(root.glob, ("*", "*/*", "*/*/*"))):  # */*/*: as in Train/cat/1.png
        if path.suffix.lower() in SUFFIXES:
            raise UsageError(
                f"{root} holds pictures, but not in the folders {root}/train/<class>/ and {root}/test/<class>/;"
                " move them there, or name another folder with --data.root"
            )


def _unpack(archive: Path, root: Path) -> None:
    """Takes the batches alone out of a checked archive, whole or not at all: under their names, whatever its own are.

    It is unpacked in memory first, and no further than LARGEST, so that nothing is written of an archive with a fault.
    """
    part = root / f"{BATCHES}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        files = _members(archive)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{archive} is damaged; delete it and run again to download it") from error
    try:
        part.mkdir()
        for name, content in files.items():
            (part / name).write_bytes(content)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise unwritable(root / BATCHES, error, sum(map(len, files.values())), "--data.root") from error
    part.rename(root / BATCHES)


def _members(archive: Path) -> dict[str, bytes]:
    """The batches in an archive, by their names.

    Raises:
        UserError: it lacks one, or is larger than LARGEST.
    """
    with gzip.open(archive) as packed:
        content = packed.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(
            f"{archive} holds more than {LARGEST:,} bytes, which CIFAR-10 does not; delete it and run again to"
            " download it"
        )
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = {member.name: member for member in tar if member.isreg()}  # no links, folders or devices
        for name in (*TRAIN_BATCHES, *TEST_BATCHES):
            member = members.get(f"{BATCHES}/{name}")
            file = tar.extractfile(member) if member else None
            if file is None:
                raise UserError(f"{archive} lacks the file {BATCHES}/{name}; delete it and run again to download it")
            files[name] = file.read()
    return files


def _load(root: Path, batches: dict[str, str]) -> ImageSet:
    images, labels = [], []
    for name, md5 in batches.items():
        path = root / BATCHES / name
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing; delete {path.parent} and run again to restore it") from error
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
            raise UserError(
                f"{path} is not the file as published (its MD5 is not {md5});"
                f" delete {path.parent} and run again to restore it"
            )
        try:
            batch = _BatchUnpickler(io.BytesIO(data), encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise UserError(f"{path} is refused ({error}); delete {path.parent} and run again to restore it") from error
        images.append(torch.from_numpy(batch["data"].copy()).view(-1, 3, 32, 32))
        labels += batch["labels"]
    return ImageSet(torch.cat(images), torch.tensor(labels), CIFAR10_CLASSES)


class _BatchUnpickler(pickle.Unpickler):
    """Knows the three names that a CIFAR batch needs, and no others, so that no pickle can run code."""

    def find_class(self, module: str, name: str) -> Callable[..., Any] | type:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return lambda kind, shape, typecode: np.ndarray.__new__(kind, shape, typecode)
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return lambda typecode, align, copy: np.dtype(typecode)  # numpy 2.4 warns of the 0 and 1 of Python 2
        raise pickle.UnpicklingError(f"a CIFAR batch has no use for {module}.{name}")
