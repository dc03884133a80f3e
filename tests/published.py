"""Small copies of the archives of CIFAR-10 and CIFAR-100, pickled as Python 2 did in 2009."""

import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_cifar.data.cifar import CIFAR10, CIFAR100, PUBLISHED
from lit_cifar.data.image_set import CIFAR100_CLASSES

FOLDER = CIFAR10.folder
NAMES = (*CIFAR10.train, *CIFAR10.test)
COARSE_NAMES = (
    "aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture"
    " insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes"
    " large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees"
    " vehicles_1 vehicles_2"
)


PicklerInPython: Any = pickle._Pickler  # the one that can be changed


class Python2Pickler(PicklerInPython):
    """Writes str and bytes alike as Python 2's str."""

    dispatch = PicklerInPython.dispatch.copy()

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<I", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def pickled(value: Any) -> bytes:
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(value)
    return out.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch(number: int) -> dict[str, Any]:
    """Returns what the file of this number holds: ten random images, with ten labels in random order."""
    labels = np.random.default_rng(number).permutation(10)
    data = np.random.default_rng(number).integers(0, 256, (10, 3072), dtype=np.uint8)
    return {"batch_label": f"batch {number}", "labels": labels.tolist(), "data": data, "filenames": ["x.png"] * 10}


def cifar100_part(name: str, count: int) -> dict[str, Any]:
    """Returns what the file `train` or `test` of CIFAR-100 holds: random images, as many of each class as may be."""
    generator = np.random.default_rng(count)
    fine = generator.permutation(count) % len(CIFAR100_CLASSES)
    labels = {"fine_labels": fine.tolist(), "coarse_labels": (fine // 5).tolist()}
    data = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {"filenames": ["x.png"] * count, "batch_label": f"{name}ing batch 1 of 1", **labels, "data": data}


def cifar100_files(train: int = 300, test: int = 100) -> dict[str, bytes]:
    names = {"fine_label_names": list(CIFAR100_CLASSES), "coarse_label_names": COARSE_NAMES.split()}
    parts = {"train": cifar100_part("train", train), "test": cifar100_part("test", test), "meta": names}
    return {name: pickled(part) for name, part in parts.items()}


def tar(files: dict[str, bytes], folder: str = FOLDER) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def publish(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], archive: bytes, kind: Any = "cifar10") -> None:
    """Makes these files and this archive the ones of a data set whose MD5 are known."""
    whole = CIFAR100 if kind == "cifar100" else CIFAR10
    small = whole.archive._replace(size=len(archive), md5=hashlib.md5(archive).hexdigest())
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    train, test, meta = ({name: md5[name] for name in part} for part in (whole.train, whole.test, whole.meta))
    monkeypatch.setitem(PUBLISHED, kind, whole._replace(archive=small, train=train, test=test, meta=meta))


def write_batches(root: Path, files: dict[str, bytes], name: str = FOLDER) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder
