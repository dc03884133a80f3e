"""A folder of pictures, decoded once into a cache next to them.

PNG and JPEG files in `train/<class>/` and `test/<class>/` become uint8 arrays in `lit_cifar_cache.npz`, which opens in
under a second. It is rebuilt if a CRC-32 (zip's own), or the name, size or modification time of a picture differs.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from lit_cifar.data.image_files import COMMON_FORMATS, SIDE, Decoded
from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.pictures import decode_files, to_tensor
from lit_cifar.errors import UsageError, UserError

CACHE = "lit_cifar_cache.npz"
SUFFIXES = (".png", ".jpg", ".jpeg")
SHOWN_AS = {"airplane": "plane", "automobile": "car"}
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

Listing = list[tuple[str, int, int]]
"""Of every picture, sorted: path relative to the root, size in bytes, modification time in nanoseconds."""


def is_folder(root: Path) -> bool:
    """Returns whether `root` is laid out as a folder of pictures."""
    return (root / "train").is_dir() or (root / "test").is_dir()


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """Lets one process at a time prepare a folder. The lock is the system's, so a killed process leaves none behind."""
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):  # read-only, full, or a file system without locks: go on without
            stack.enter_context(FileLock(root / ".lit_cifar.lock"))
        yield


def load_folder(root: Path) -> tuple[ImageSet, ImageSet]:
    """Returns the training and the test images of a folder of pictures, scaled to 32×32, from the cache if up to date.

    Raises UsageError if the folder lacks images, a split or a class, and UserError if a picture can't be decoded.
    """
    listings = {split: _list(root, split) for split in ("train", "test")}
    classes = _classes(root, listings)
    fingerprint = hashlib.sha256(json.dumps(listings).encode()).hexdigest()
    cache = root / CACHE
    arrays = _read(cache, fingerprint)
    if arrays is None:
        with lock(root):
            arrays = _read(cache, fingerprint)  # another process may have made it in the meantime
            if arrays is None:
                arrays = _decode_all(root, listings, classes)
                _write(cache, fingerprint, arrays)
    shown = tuple(SHOWN_AS.get(name, name) for name in classes)
    train_images, train_labels, test_images, test_labels = (torch.from_numpy(arrays[name]) for name in ARRAYS)
    return ImageSet(train_images, train_labels, shown), ImageSet(test_images, test_labels, shown)


def _decode_all(root: Path, listings: dict[str, Listing], classes: list[str]) -> dict[str, np.ndarray]:
    files = [root / name for listing in listings.values() for name, _, _ in listing]
    images = torch.empty(len(files), 3, SIDE, SIDE, dtype=torch.uint8)

    def store(start: int, decoded: Decoded) -> None:
        if decoded.unread:
            raise UserError("picture-unreadable", decoded.unread[0])
        images[start : start + len(decoded.read)] = to_tensor(decoded.pixels)

    decode_files(files, COMMON_FORMATS, f"Decoding {len(files):,} pictures", store)
    labels = np.array([classes.index(file.parent.name) for file in files], dtype=np.int64)
    train = len(listings["train"])
    parts = images[:train].numpy(), labels[:train], images[train:].numpy(), labels[train:]
    return dict(zip(ARRAYS, parts, strict=True))


def _list(root: Path, split: str) -> Listing:
    """Lists the pictures of a split with os.scandir; pathlib takes three times as long for 60,000 files."""
    if not (root / split).is_dir():
        raise UsageError("data-missing", f"{root} has no folder {split}; it needs train/<class>/ and test/<class>/")
    listing: Listing = []
    with os.scandir(root / split) as folders:
        for folder in folders:
            if folder.is_dir() and not folder.name.startswith("."):
                if folder.name.encode(errors="replace").decode() != folder.name:  # TensorBoard takes nothing else
                    raise UsageError("name-not-unicode", f"{folder.path} has a name that is not UTF-8; rename it")
                for file in os.scandir(folder):
                    if file.name.lower().endswith(SUFFIXES) and not file.name.startswith("."):
                        stat = file.stat()
                        listing.append((f"{split}/{folder.name}/{file.name}", stat.st_size, stat.st_mtime_ns))
    if not listing:
        raise UsageError("data-missing", f"{root / split} has no images; put PNG or JPEG files into its <class>/")
    return sorted(listing)


def _classes(root: Path, listings: dict[str, Listing]) -> list[str]:
    train, test = ({Path(name).parent.name for name, _, _ in listings[split]} for split in ("train", "test"))
    if unpaired := train ^ test:
        name = min(unpaired)
        here, there = ("train", "test") if name in train else ("test", "train")
        fault = f"class {name!r} has images in {root / here} but none in {root / there}"
        raise UsageError("data-missing", f"{fault}; add some, or remove {root / here / name}")
    return sorted(train)


def _read(cache: Path, fingerprint: str) -> dict[str, np.ndarray] | None:
    """Returns the arrays of the cache, or None if it is missing, out of date or damaged."""
    # missing, cut short, damaged or not ours: zipfile and numpy raise a dozen errors
    with suppress(Exception), np.load(cache, allow_pickle=False) as file:
        if sum(entry.file_size for entry in file.zip.infolist()) > cache.stat().st_size:
            return None  # compressed, so not ours, and it might not fit into memory
        # numpy reads no further than an array's header says, so a CRC may go unchecked; all take 50 ms
        if str(file["fingerprint"]) == fingerprint and file.zip.testzip() is None:
            return {name: file[name] for name in ARRAYS}
    return None


def _write(cache: Path, fingerprint: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes the cache whole or not at all. If it can't be written, the pictures are decoded again next time."""
    part = cache.with_name(f"{cache.name}.part")  # always the same name, so that killed processes leave only one
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, fingerprint=np.array(fingerprint), **arrays)
        part.replace(cache)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        sentence = f"Could not write the cache {cache} ({error.strerror or error})"
        print(f"{sentence}; the pictures will be decoded again next time", file=sys.stderr)
