"""Pictures as tensors: files found and decoded on all cores, or images, arrays and tensors from Python.

All become uint8 `[3, 32, 32]`, and a file gives the same pixels as the PIL image of it. Decoding a small file is mostly
Python's work, for which threads would take turns, so many files go to processes, one per core. A process starts in
0.05 s and ends when its input does, however the program that started it ended. (ProcessPoolExecutor took 14 % more CPU
time for 60,000 files, for it copies the results more often.)
"""

import base64
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lit_cifar.data import image_files
from lit_cifar.data.image_files import SIDE, Decoded, decode, formats, opened_file, rgb, squeezed
from lit_cifar.errors import UsageError, UserError

FILES_PER_PART = 250  # 20 ms of decoding, and a batch for a network
MANY = 1000  # number of files from which on starting processes pays
PICTURE_BYTES = SIDE * SIDE * 3

Picture = Image.Image | np.ndarray | Tensor
"""What `to_pixels` takes."""
T = TypeVar("T")


def find_pictures(words: Sequence[str], written: Path) -> tuple[list[Path], list[str]]:
    """Returns the files that paths and glob patterns name, each once, and a sentence for each place it couldn't read.

    Folders are searched recursively for the suffixes that Pillow knows, except for hidden files and for `written`.

    Raises:
        UsageError: A path or pattern names nothing, or a folder without pictures.
    """
    found: dict[Path, None] = {}
    unread: list[str] = []
    for word in words:
        paths = [Path(word)]
        try:
            exists = paths[0].exists()
        except OSError as error:  # it is in a folder that belongs to someone else
            unread.append(f"{word} can't be read: {error.strerror}")
            continue
        if not exists:
            if not has_magic(word):
                raise _missing(f"{word} does not exist; give pictures, folders or patterns such as 'photos/*.jpg'")
            paths = [Path(match) for match in sorted(glob(word, recursive=True))]  # noqa: PTH207 (a pattern may be absolute)
            if not paths:
                raise _missing(f"the pattern {word} matches nothing; correct it, or give a folder")
        files: list[Path] = []
        failed: list[str] = []
        for path in paths:
            if path.is_dir():
                files += [file for file in _search(path, failed) if not _same(file, written)]
            elif path.is_file():
                files.append(path)
            else:
                raise _missing(f"{path} is neither a file nor a folder; give pictures or folders of them")
        if not files and not failed:
            raise _missing(f"{word} holds no pictures; give a folder that does, or the files themselves")
        found.update(dict.fromkeys(files))
        unread += failed
    return list(found), unread


def decode_files(files: Sequence[Path], reader: str, title: str, use: Callable[[int, Decoded], T]) -> list[T]:
    """Decodes files in parts, and calls `use` with the index of each part's first file and the decoded part.

    Args:
        files: The files to decode.
        reader: One of `image_files.READERS`.
        title: The title of the progress bar, shown if stderr is a terminal.
        use: Runs in threads, one more than there are cores, since some wait until a part is decoded.

    Returns:
        What `use` returned, in the order of the parts.

    Raises:
        UserError: A process that decodes died, or `use` raised it.
    """
    cores = os.cpu_count() or 1
    each = max(1, min(FILES_PER_PART, len(files) // (4 * cores)))  # a few large photographs keep all cores busy too
    starts = range(0, len(files), each)
    console = Console(stderr=True)
    with _decoders(reader, cores, len(files)) as decode_part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about metadata, and sizes that are refused anyway
        pool = ThreadPoolExecutor(cores + 1)
        try:
            used = pool.map(lambda start: use(start, decode_part(files[start : start + each])), starts)
            quiet = not console.is_terminal
            return list(track(used, title, len(starts), console=console, transient=True, disable=quiet))
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the other parts


def to_tensor(pixels: bytes) -> Tensor:
    """Returns `Decoded.pixels` as uint8 `[N, 3, 32, 32]`."""
    array = np.ndarray((len(pixels) // PICTURE_BYTES, SIDE, SIDE, 3), np.uint8, bytearray(pixels))
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def thumbnail(path: Path, side: int) -> Tensor:
    """Returns uint8 `[3, side, side]`: the whole picture in its proportions on white, enlarged if it is small.

    Raises:
        UserError: The file can't be read. The sentence gives the reason.
    """
    with opened_file(path) as picture:
        picture.draft("RGB", (side, side))  # a JPEG's own smaller versions: eight times as fast
        small = rgb(ImageOps.exif_transpose(picture))
        if times := side // max(small.size):
            small = small.resize((small.width * times, small.height * times), Image.Resampling.NEAREST)
        else:
            small.thumbnail((side, side))
    sheet = Image.new("RGB", (side, side), "white")
    sheet.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return _tensor(np.array(sheet))


def to_pixels(picture: Picture) -> Tensor:
    """Returns uint8 `[3, 32, 32]` of a picture in memory.

    Args:
        picture: A PIL image, an array uint8 `[H, W]`, `[H, W, 3]` or `[H, W, 4]`, or a tensor uint8 `[3, H, W]`.

    Raises:
        ValueError: The picture has another shape or type.
    """
    if isinstance(picture, Tensor):
        if picture.dtype != torch.uint8 or picture.dim() != 3 or len(picture) != 3:
            raise ValueError(f"a tensor must be uint8 [3, H, W], not {_described(picture)}")
        if picture.shape[1:] == (SIDE, SIDE):
            return picture.cpu()
        picture = picture.permute(1, 2, 0).cpu().numpy()
    if isinstance(picture, np.ndarray):
        sizes, channels = picture.shape[:2], picture.shape[2:]
        if picture.dtype != np.uint8 or len(sizes) < 2 or 0 in sizes or channels not in ((), (3,), (4,)):
            raise ValueError(f"an array must be uint8 [H, W], [H, W, 3] or [H, W, 4], not {_described(picture)}")
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise ValueError(
            f"a picture must be a PIL image, an array or a tensor, not {type(picture).__name__}; open a file first"
        )
    return _tensor(np.array(squeezed(picture)))


def to_batch(pictures: Picture | Sequence[Picture]) -> Tensor:
    """Returns uint8 `[N, 3, 32, 32]` of one picture, several, or a batch (array `[N, H, W, 3]`, tensor `[N, 3, H, W]`).

    Raises:
        ValueError: A picture has another shape or type.
    """
    one = isinstance(pictures, Image.Image | str | Path) or (
        isinstance(pictures, np.ndarray | Tensor) and pictures.ndim < 4
    )
    if isinstance(pictures, Tensor) and pictures.dtype == torch.uint8 and pictures.shape[1:] == (3, SIDE, SIDE):
        return pictures.cpu()
    each = [to_pixels(picture) for picture in cast(Sequence[Picture], [pictures] if one else pictures)]
    return torch.stack(each) if each else torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)


def png(pixels: Tensor) -> bytes:
    """Returns a PNG file of uint8 `[3, H, W]`."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def data_url(png: bytes) -> str:
    """Returns a PNG file as a URL for a web page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@contextmanager
def _decoders(reader: str, cores: int, files: int) -> Iterator[Callable[[Sequence[Path]], Decoded]]:
    """Gives a function that decodes files, in as many parts at once as there are cores."""
    if files < MANY:
        yield partial(decode, reader)
        return
    processes = [_Process(reader) for _ in range(cores)]
    free: SimpleQueue[_Process] = SimpleQueue()
    for process in processes:
        free.put(process)

    def decode_part(paths: Sequence[Path]) -> Decoded:
        process = free.get()
        try:
            return process.decode(paths)
        finally:
            free.put(process)

    try:
        yield decode_part
    finally:
        for process in processes:
            process.end()


class _Process:
    """A process that runs `image_files.serve`, in a session of its own, so that Ctrl-C does not reach it."""

    def __init__(self, reader: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", image_files.__name__, reader],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # the packages found here
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same, on Windows
        )

    def decode(self, paths: Sequence[Path]) -> Decoded:
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(OSError, ValueError):  # the process is gone
            self.process.stdin.write(json.dumps([str(path) for path in paths]).encode() + b"\n")
            self.process.stdin.flush()
            read, unread = json.loads(self.process.stdout.readline())
            pixels = self.process.stdout.read(len(read) * PICTURE_BYTES)
            if len(pixels) == len(read) * PICTURE_BYTES:
                return Decoded([Path(name) for name in read], pixels, unread)
        raise UserError(
            "process-lost",
            f"a process that decodes pictures died while decoding {paths[0]} to {paths[-1]} ({len(paths)} files); the"
            " memory may have been full: close other programs, or use fewer pictures at a time",
        )

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def _missing(sentence: str) -> UsageError:
    return UsageError("picture-missing", sentence)


def _described(values: np.ndarray | Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"


def _search(folder: Path, unread: list[str]) -> list[Path]:
    """Returns pictures by their suffixes, sorted. Unlike Path.rglob, os.walk reports folders that it can't open."""
    suffixes = tuple(suffix for suffix, name in Image.registered_extensions().items() if name in formats())
    found = []

    def fail(error: OSError) -> None:
        unread.append(f"{error.filename} can't be read: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = (name for name in sorted(files) if name.lower().endswith(suffixes) and not name.startswith("."))
        found += [path for name in names if (path := Path(parent, name)).is_file()]
    return found


def _same(file: Path, other: Path) -> bool:
    return file.name == other.name and file.resolve() == other.resolve()


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)
