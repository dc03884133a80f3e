"""A folder of pictures, decoded once into a cache beside it.

`train/<class>/*` and `test/<class>/*` with PNG or JPEG files become uint8 arrays in `lit_cifar_cache.npz`, which opens
in under a second and carries a CRC-32 of every array (zip's own). It is rebuilt when a CRC, or a picture's name, size
or time of change differs.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_cifar.data.decoder import decode_files, to_tensor
from lit_cifar.data.image_files import SIDE, Decoded
from lit_cifar.data.image_set import ImageSet
from lit_cifar.errors import UsageError, UserError

CACHE = "lit_cifar_cache.npz"
SUFFIXES = (".png", ".jpg", ".jpeg")
SHOWN_AS = {"airplane": "plane", "automobile": "car"}
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

Listing = list[tuple[str, int, int]]
"""Path relative to the root, size in bytes, time of change in nanoseconds: of every picture, sorted by path."""


def is_folder(root: Path) -> bool:
    """Whether `root` is laid out as a folder of pictures."""
    return (root / "train").is_dir() or (root / "test").is_dir()


def load_folder(root: Path, lock: Callable[[], AbstractContextManager[None]]) -> tuple[ImageSet, ImageSet]:
    """The training and the test images of a folder of pictures, from the cache where it is up to date.

    Pictures of another size than 32×32 are resized to it. `lock` is held while the cache is made.

    Raises:
        UsageError: the folder lacks images, a split or a class.
        UserError: a picture can't be decoded, or the cache can't be written.
    """
    listings = {split: _list(root, split) for split in ("train", "test")}
    classes = _classes(root, listings)
    fingerprint = hashlib.sha256(json.dumps(listings).encode()).hexdigest()
    cache = root / CACHE
    arrays = _read(cache, fingerprint)
    if arrays is None:
        with lock():
            arrays = _read(cache, fingerprint)  # another process may have made it meanwhile
            if arrays is None:
                arrays = _decode_all(root, listings, classes)
                _write(cache, fingerprint, arrays)
    shown = tuple(SHOWN_AS.get(name, name) for name in classes)
    train_images, train_labels, test_images, test_labels = (torch.from_numpy(arrays[name]) for name in ARRAYS)
    return ImageSet(train_images, train_labels, shown), ImageSet(test_images, test_labels, shown)


def _decode_all(root: Path, listings: dict[str, Listing], classes: list[str]) -> dict[str, np.ndarray]:
    pictures = _decode([root / name for listing in listings.values() for name, _, _ in listing]).numpy()
    start = len(listings["train"])
    index = {name: i for i, name in enumerate(classes)}
    labels = {
        f"{split}_labels": np.array([index[Path(name).parent.name] for name, _, _ in listing], dtype=np.int64)
        for split, listing in listings.items()
    }
    return {"train_images": pictures[:start], "test_images": pictures[start:], **labels}


def _list(root: Path, split: str) -> Listing:
    """Every picture of a split. os.scandir, since pathlib takes three times as long over 60,000 files."""
    if not (root / split).is_dir():
        raise UsageError(f"{root} has no folder {split}; a folder of pictures needs train/<class>/ and test/<class>/")
    listing: Listing = []
    with os.scandir(root / split) as folders:
        for folder in folders:
            if folder.is_dir() and not folder.name.startswith("."):
                try:
                    folder.name.encode()
                except UnicodeEncodeError as error:  # TensorBoard takes nothing else
                    raise UsageError(f"{folder.path} has a name that is not UTF-8; rename it") from error
                with os.scandir(folder) as files:
                    for file in files:
                        if file.name.lower().endswith(SUFFIXES) and not file.name.startswith("."):
                            stat = file.stat()
                            listing.append((f"{split}/{folder.name}/{file.name}", stat.st_size, stat.st_mtime_ns))
    if not listing:
        raise UsageError(
            f"{root / split} holds no images; put PNG or JPEG files into {root / split}/<class>/, one folder a class"
        )
    return sorted(listing)


def _classes(root: Path, listings: dict[str, Listing]) -> list[str]:
    train, test = ({Path(name).parent.name for name, _, _ in listings[split]} for split in ("train", "test"))
    for here, there, missing in (("train", "test", train - test), ("test", "train", test - train)):
        if missing:
            name = min(missing)
            raise UsageError(
                f"Class {name!r} has images in {root / here} but none in {root / there};"
                f" add some to {root / there / name} or remove {root / here / name}"
            )
    return sorted(train)


def _decode(paths: list[Path]) -> Tensor:
    """uint8 `[N, 3, 32, 32]` of the pictures, in their order."""
    pictures = torch.empty(len(paths), 3, SIDE, SIDE, dtype=torch.uint8)

    def store(start: int, decoded: Decoded) -> None:
        if decoded.unread:
            raise UserError(decoded.unread[0])
        pictures[start : start + len(decoded.read)] = to_tensor(decoded.pixels)

    decode_files(paths, "png or jpeg", f"Decoding {len(paths):,} pictures", store)
    return pictures


def _read(cache: Path, fingerprint: str) -> dict[str, np.ndarray] | None:
    """The arrays of an up-to-date, undamaged cache, else None."""
    try:
        with np.load(cache, allow_pickle=False) as file:
            if sum(entry.file_size for entry in file.zip.infolist()) > cache.stat().st_size:
                return None  # larger unpacked: not ours, and it might not fit into memory
            # numpy reads as far as an array's header says, so a damaged header escapes the CRC: 50 ms for all bytes
            if str(file["fingerprint"]) == fingerprint and file.zip.testzip() is None:
                return {name: file[name] for name in ARRAYS}
    except Exception:  # absent, cut short, damaged or not ours: zipfile and numpy have a dozen errors for it
        pass
    return None


def _write(cache: Path, fingerprint: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes the cache whole or not at all; a folder that can't be written to only costs the decoding next time."""
    part = cache.with_name(f"{cache.name}.part")  # one name, so that a killed process leaves no more than one
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, fingerprint=np.array(fingerprint), **arrays)
        part.replace(cache)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        why = error.strerror or error
        print(
            f"Could not write the cache {cache} ({why}), so the pictures will be decoded next time too", file=sys.stderr
        )
