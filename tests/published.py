"""A small copy of CIFAR-10's archive: ten images per file, pickled as Python 2 did in 2009."""

import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_cifar.data import cifar
from lit_cifar.data.download import Archive

FOLDER = cifar.FOLDER
NAMES = (*cifar.TRAIN_BATCHES, *cifar.TEST_BATCHES)


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


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{FOLDER}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def publish(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], archive: bytes) -> None:
    """Makes these files and this archive the ones whose MD5 are known."""
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(cifar, "TRAIN_BATCHES", {name: md5[name] for name in cifar.TRAIN_BATCHES})
    monkeypatch.setattr(cifar, "TEST_BATCHES", {name: md5[name] for name in cifar.TEST_BATCHES})
    small = Archive("cifar-10-python.tar.gz", len(archive), hashlib.md5(archive).hexdigest())
    monkeypatch.setattr(cifar, "ARCHIVE", small)


def write_batches(root: Path, files: dict[str, bytes]) -> Path:
    folder = root / FOLDER
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder
