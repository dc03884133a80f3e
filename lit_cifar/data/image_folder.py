"""A folder of pictures, decoded once into a cache next to them.

Every picture at any depth below `train/<class>/`, `test/<class>/` and `val/<class>/` becomes uint8 in
`lit_cifar_cache.npz`, which opens in under a second; one of another scaling is `lit_cifar_cache_64_crop.npz`. The cache
is rebuilt if a CRC-32 (zip's own), Pillow's version, or the name, size or modification time of a file differs. Files
that are no pictures are counted in one line.
"""

import hashlib
import json
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import compress
from pathlib import Path

import numpy as np
import PIL
import torch
from filelock import FileLock
from lightning_fabric.utilities.rank_zero import rank_zero_only

from lit_cifar.data.image_files import TO_32, Decoded, Scaling, is_picture
from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.pictures import decode_files, to_tensor
from lit_cifar.errors import UsageError, UserError

CACHE = "lit_cifar_cache.npz"
SHOWN_AS = {"airplane": "plane", "automobile": "car"}
VALIDATION = ("val", "valid", "validation")  # names of the folder of images to validate on
SPLITS = ("train", *VALIDATION, "test")
PASSED_OVER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}
"""What Windows, macOS and storage devices leave in folders, in lower case; hidden files are passed over too."""
MOST_NAMED = 5  # of files or suffixes in one sentence

Listing = list[tuple[str, int, int]]
"""Of every file, sorted: path relative to the root, size in bytes, modification time in nanoseconds."""


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


def class_names(root: Path) -> set[str]:
    """Returns the names of the folders in `train`, as they are shown: what `load_folder` will find, but at once."""
    paths = (root / "train").iterdir() if (root / "train").is_dir() else ()
    shown = (path.name for path in paths if path.is_dir() and not path.name.startswith("."))
    return {SHOWN_AS.get(name, name) for name in shown if name.lower() not in PASSED_OVER}


def load_folder(root: Path, scaling: Scaling) -> dict[str, ImageSet]:
    """Returns the images of `train`, `test` (none if there is no such folder) and, if there is one, `val`.

    They come from the cache if it is up to date. Raises UsageError if training images or a
    class are missing or two folders mean the same, and UserError if pictures can't be decoded.
    """
    listings = {split: _list(root, folder) for split, folder in _folders(root).items()}
    fingerprint = hashlib.sha256(json.dumps([PIL.__version__, listings]).encode()).hexdigest()
    cache = root / cache_name(scaling)
    arrays = _read(cache, fingerprint, listings)
    if arrays is None:
        with lock(root):
            arrays = _read(cache, fingerprint, listings)  # another process may have made it in the meantime
            if arrays is None:
                arrays = _decode_all(root, listings, scaling)
                _write(cache, fingerprint, arrays)
    _print_left_out(root, compress(_names(listings), ~arrays["is_picture"]))
    classes = tuple(arrays["classes"].tolist())
    found = {"test": (np.empty((0, 3, scaling.side, scaling.side), np.uint8), np.empty(0, np.int64))}
    found |= {split: (arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in listings}
    return {split: ImageSet(torch.from_numpy(x), torch.from_numpy(y), classes) for split, (x, y) in found.items()}


def cache_name(scaling: Scaling) -> str:
    """Returns the name of the file in which scaled pictures are kept."""
    if scaling == TO_32:
        return CACHE
    name, suffix = os.path.splitext(CACHE)  # noqa: PTH122
    return f"{name}_{scaling.side}_{scaling.way}{suffix}"


def _folders(root: Path) -> dict[str, str]:
    """Returns the names of the folders of train, val and test, as far as there are such."""
    found = [name for name in SPLITS if (root / name).is_dir()]
    for path in root.iterdir():
        if (right := path.name.lower()) in SPLITS and right not in found and path.is_dir():
            raise UsageError("data-missing", f"{path} must be called {right}; rename it")
    if "train" not in found:
        raise UsageError("data-missing", f"{root} has no folder train; it needs train/<class>/")
    validation = [name for name in found if name in VALIDATION]
    if len(validation) > 1:
        raise UsageError("data-ambiguous", f"{root} has {' and '.join(validation)}; keep one of them for validation")
    return {"val" if name in VALIDATION else name: name for name in found}


def _list(root: Path, split: str) -> Listing:
    """Lists the files of a split with os.scandir; pathlib takes three times as long for 60,000 files."""
    listing: Listing = []
    folders = [(root / split, split)]
    for folder, name in folders:  # to which the loop adds those inside
        with os.scandir(folder) as entries:
            for entry in entries:
                path = f"{name}/{entry.name}"
                if entry.name.startswith(".") or entry.name.lower() in PASSED_OVER:
                    continue
                if entry.is_dir():
                    if name == split and entry.name.encode(errors="replace").decode() != entry.name:
                        # TensorBoard takes nothing else
                        raise UsageError("name-not-unicode", f"{entry.path} has a name that is not UTF-8; rename it")
                    if not (entry.is_symlink() and folder.resolve().is_relative_to(Path(entry.path).resolve())):
                        folders.append((Path(entry.path), path))  # a link to a folder that it is in has no end
                elif entry.is_file():
                    stat = entry.stat()
                    listing.append((path, stat.st_size, stat.st_mtime_ns))
                elif entry.is_symlink():  # to nothing: named with the pictures that can't be read
                    listing.append((path, 0, 0))
    return sorted(listing)


def _names(listings: dict[str, Listing]) -> list[str]:
    return [name for listing in listings.values() for name, _, _ in listing]


def _decode_all(root: Path, listings: dict[str, Listing], scaling: Scaling) -> dict[str, np.ndarray]:
    pictures = {
        split: [name for name, _, _ in listing if name.count("/") > 1 and is_picture(root / name)]
        for split, listing in listings.items()
    }
    classes = _classes(root, pictures)
    names = [name for split in pictures.values() for name in split]
    images = torch.empty(len(names), 3, scaling.side, scaling.side, dtype=torch.uint8)

    def store(start: int, decoded: Decoded) -> list[str]:
        if not decoded.unread:
            images[start : start + len(decoded.read)] = to_tensor(decoded.pixels, scaling.side)
        return decoded.unread

    files, title = [root / name for name in names], f"Decoding {len(names):,} pictures"
    parts = decode_files(files, scaling, None, title, store)
    if unread := [sentence for part in parts for sentence in part]:
        raise _unreadable(unread, len(names))
    label = {name: number for number, name in enumerate(classes)}
    labels = np.array([label[_class(name)] for name in names], dtype=np.int64)
    used = set(names)
    arrays = {"is_picture": np.array([name in used for name in _names(listings)], dtype=bool)}
    arrays["classes"] = np.array([SHOWN_AS.get(name, name) for name in classes])
    start = 0
    for split, own in pictures.items():
        rows = slice(start, start + len(own))
        start += len(own)
        arrays |= {f"{split}_images": images[rows].numpy(), f"{split}_labels": labels[rows]}
    return arrays


def _unreadable(sentences: list[str], total: int) -> UserError:
    if len(sentences) == 1:
        return UserError("picture-unreadable", f"{sentences[0]}; replace or remove it")
    first = "; ".join(sentence.replace(" can't be read", "", 1) for sentence in sentences[:MOST_NAMED])
    more = f"; and {len(sentences) - MOST_NAMED:,} more" if len(sentences) > MOST_NAMED else ""
    what = f"{len(sentences):,} of {total:,} pictures can't be read"
    return UserError("picture-unreadable", f"{what}; replace or remove them: {first}{more}")


def _class(name: str) -> str:
    """Returns the folder of the class of `train/<class>/…`."""
    return name.split("/", 2)[1]


def _classes(root: Path, pictures: dict[str, list[str]]) -> list[str]:
    """Returns the classes, or raises UsageError if a split lacks one or two folders would be shown under one name."""
    found: dict[str, set[str]] = {}  # by the folder of the split
    for split, names in pictures.items():
        if not names:
            fault = (
                f"{root / _folders(root)[split]} has no images in folders of classes; put pictures into its <class>/"
            )
            raise UsageError("data-missing", fault if split == "train" else f"{fault}, or remove it")
        found[names[0].partition("/")[0]] = {_class(name) for name in names}
    paths: dict[str, tuple[str, str]] = {}  # by the name that is shown
    for folder, names_of_classes in found.items():
        for name in sorted(names_of_classes):
            shown = unicodedata.normalize("NFC", _printable(SHOWN_AS.get(name, name))).strip()
            other, first = paths.setdefault(shown, (name, f"{folder}/{name}"))
            if other != name:
                fault = f"{root / first} and {root / folder / name} would both be shown as {shown}"
                raise UsageError("data-ambiguous", f"{fault}; rename one, or merge them")
    train = found["train"]
    for folder, classes in found.items():
        unpaired = classes ^ train if folder == "test" else classes - train
        if unpaired:
            name = min(unpaired)
            here, there = ("train", folder) if name in train else (folder, "train")
            fault = f"class {name!r} has images in {root / here} but none in {root / there}"
            raise UsageError("data-missing", f"{fault}; add some, or remove {root / here / name}")
    return sorted(train)


def _print_left_out(root: Path, names: Iterable[str]) -> None:
    """Says in one line, on the first rank, how many files of which suffixes are not used."""
    kinds: Counter[str] = Counter()
    for name in names:
        suffix = os.path.splitext(name)[1].lower() or "without a suffix"  # noqa: PTH122 (of many names)
        kinds[suffix if name.count("/") > 1 else f"{suffix} in no class's folder"] += 1
    if kinds and not rank_zero_only.rank:  # type: ignore[attr-defined]
        named = [f"{count:,} {kind}" for kind, count in kinds.most_common(MOST_NAMED)]
        if others := kinds.total() - sum(count for _, count in kinds.most_common(MOST_NAMED)):
            named.append(f"{others:,} others")
        print(_printable(f"Files in {root} that are not used: {', '.join(named)}"), file=sys.stderr)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _read(cache: Path, fingerprint: str, splits: Iterable[str]) -> dict[str, np.ndarray] | None:
    """Returns the arrays of the cache, or None if it is missing, out of date or damaged."""
    names = ["is_picture", "classes", *(f"{split}_{part}" for split in splits for part in ("images", "labels"))]
    # missing, cut short, damaged or not ours: zipfile and numpy raise a dozen errors
    with suppress(Exception), np.load(cache, allow_pickle=False) as file:
        if sum(entry.file_size for entry in file.zip.infolist()) > cache.stat().st_size:
            return None  # compressed, so not ours, and it might not fit into memory
        # numpy reads no further than an array's header says, so a CRC may go unchecked; all take 50 ms
        if str(file["fingerprint"]) == fingerprint and file.zip.testzip() is None:
            return {name: file[name] for name in names}
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
