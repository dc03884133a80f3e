"""Pictures as tensors: files found and decoded on all cores, or images, arrays and tensors from Python.

All become uint8 `[3, side, side]`, and a file gives the same pixels as the PIL image of it. Decoding a small file is
mostly Python's work, for which threads would take turns, so many files go to processes. A process starts in 0.05 s and
ends when its input does, however the program that started it ended. (ProcessPoolExecutor took 14 % more CPU time.)
"""

import base64
import io
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from glob import glob
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from torch import Tensor

from lit_cifar.data import image_files
from lit_cifar.data.image_files import Decoded, Formats, Scaling, decode, opened_file, rgb, scaled, suffixes
from lit_cifar.data.progress_bar import progress_bar
from lit_cifar.errors import UsageError, UserError

FILES_PER_PART = 250  # of 32 pixels: 20 ms of decoding, and a batch for a network
LARGEST_EXACT = 64  # pixels, of a picture that a page has as PNG: 13 kB
MANY = 1000  # number of files from which on starting processes pays

Picture = Image.Image | np.ndarray | Tensor
T = TypeVar("T")


def find_pictures(words: Sequence[str], written: Path) -> tuple[list[Path], list[str]]:
    """Returns the files that paths and glob patterns name, each once, and a sentence for each place it couldn't read.

    Folders are searched recursively for the suffixes that Pillow knows, except for hidden files and for `written`.

    A path or pattern that names nothing, or a folder without pictures, raises UsageError.
    """
    found: list[Path] = []
    unread: list[str] = []
    for word in words:
        files: list[Path] = []
        failed: list[OSError] = []
        paths = []
        try:
            paths = [word] if Path(word).exists() else sorted(glob(word, recursive=True))  # noqa: PTH207 (may be absolute)
        except OSError as error:  # it is in a folder that belongs to someone else
            failed.append(error)
        for path in map(Path, paths):
            if path.is_dir():
                files += _search(path, written, failed)
            elif path.is_file():
                files.append(path)
            else:
                raise UsageError("picture-missing", f"{path} is neither a file nor a folder; name one of these")
        if not files and not failed:
            raise UsageError("picture-missing", f"{word} names no pictures; name files, folders or patterns (*.jpg)")
        found += files
        unread += [f"{error.filename} can't be read: {error.strerror}" for error in failed]
    return list(dict.fromkeys(found)), unread


def decode_files(
    files: Sequence[Path], scaling: Scaling, formats: Formats, title: str, use: Callable[[int, Decoded], T]
) -> list[T]:
    """Decodes files in parts, and returns what `use` returns for each: of the index of its first file, and the part.

    `use` runs in threads, one more than there are cores, since some wait until a part is decoded. If stderr is a
    terminal, it shows a progress bar with this title. Raises UserError if a process that decodes dies.
    """
    cores = os.cpu_count() or 1
    each = max(
        1, min(scaling.images_like(FILES_PER_PART), len(files) // (4 * cores))
    )  # a few large photographs keep all cores busy too
    starts = range(0, len(files), each)
    console = Console(stderr=True)
    decode_part = partial(decode, formats, scaling)
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about metadata, and sizes that are refused anyway
        if len(files) >= MANY:
            free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
            decode_part = partial(_decode_in, free, formats, scaling)
            for _ in range(cores):
                process = subprocess.Popen(
                    [sys.executable, "-m", image_files.__name__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # the packages found here
                    start_new_session=True,  # so that Ctrl-C does not reach it
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same, on Windows
                )
                stack.callback(process.communicate)
                stack.callback(process.kill)
                free.put(process)
        pool = ThreadPoolExecutor(cores + 1)
        stack.callback(pool.shutdown, cancel_futures=True)  # Ctrl-C does not wait for the other parts
        used = pool.map(lambda start: use(start, decode_part(files[start : start + each])), starts)
        with progress_bar(console) as bar:
            return list(bar.track(used, len(starts), description=title))


def to_tensor(pixels: bytes, side: int) -> Tensor:
    """Returns `Decoded.pixels` as uint8 `[N, 3, side, side]`."""
    array = np.frombuffer(bytearray(pixels), np.uint8).reshape(-1, side, side, 3)
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def thumbnail(path: Path, side: int) -> Tensor:
    """Returns uint8 `[3, side, side]`: the whole picture on white, enlarged if it is small. May raise UserError."""
    with opened_file(path) as picture:
        picture.draft("RGB", (side, side))  # a JPEG's own smaller versions: eight times as fast
        small = rgb(ImageOps.exif_transpose(picture))
        if times := side // max(small.size):
            small = small.resize((small.width * times, small.height * times), Image.Resampling.NEAREST)
        else:
            small.thumbnail((side, side))
    sheet = Image.new("RGB", (side, side), "white")
    sheet.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def to_pixels(picture: Picture, scaling: Scaling) -> Tensor:
    """Returns uint8 `[3, side, side]` of a PIL image, array uint8 `[H, W]`, `[H, W, 3 or 4]`, or tensor `[3, H, W]`.

    Another shape or type raises ValueError.
    """
    if isinstance(picture, Tensor):
        if picture.dtype != torch.uint8 or picture.dim() != 3 or len(picture) != 3:
            raise ValueError(f"a tensor must be uint8 [3, H, W], not {picture.dtype} {list(picture.shape)}")
        if picture.shape[1:] == (scaling.side, scaling.side):
            return picture.cpu()
        picture = picture.permute(1, 2, 0).cpu().numpy()
    if isinstance(picture, np.ndarray):
        dtype, shape = picture.dtype, picture.shape
        if dtype != np.uint8 or len(shape) < 2 or 0 in shape or shape[2:] not in ((), (3,), (4,)):
            raise ValueError(f"an array must be uint8 [H, W], [H, W, 3] or [H, W, 4], not {dtype} {list(shape)}")
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        name = type(picture).__name__
        raise ValueError(f"a picture must be a PIL image, an array or a tensor, not {name}; open a file first")
    return torch.from_numpy(np.array(scaled(picture, scaling))).permute(2, 0, 1)


def to_batch(pictures: Picture | Sequence[Picture], scaling: Scaling) -> Tensor:
    """Returns uint8 `[N, 3, side, side]` of one, several, or a batch (array `[N, H, W, 3]`, tensor `[N, 3, H, W]`).

    Another shape or type raises ValueError.
    """
    one = isinstance(pictures, Image.Image | str | Path) or getattr(pictures, "ndim", 4) < 4
    shape = 3, scaling.side, scaling.side
    if isinstance(pictures, Tensor) and pictures.dtype == torch.uint8 and pictures.shape[1:] == shape:
        return pictures.cpu()
    each = [to_pixels(picture, scaling) for picture in cast(Sequence[Picture], [pictures] if one else pictures)]
    return torch.stack(each) if each else torch.empty(0, *shape, dtype=torch.uint8)


def png(pixels: Tensor) -> bytes:
    """Returns a PNG file of uint8 `[3, H, W]`."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def picture_url(pixels: Tensor) -> str:
    """Returns uint8 `[3, H, W]` as a URL for a web page: exact if it is small, otherwise as a JPEG."""
    if max(pixels.shape) <= LARGEST_EXACT:
        return data_url(png(pixels))
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def data_url(png: bytes) -> str:
    """Returns a PNG file as a URL for a web page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _decode_in(
    free: SimpleQueue[subprocess.Popen[bytes]], formats: Formats, scaling: Scaling, paths: Sequence[Path]
) -> Decoded:
    """Decodes files in one of the processes that are free."""
    process = free.get()
    assert process.stdin is not None and process.stdout is not None
    try:
        pickle.dump((formats, tuple(scaling), paths), process.stdin)
        process.stdin.flush()
        return Decoded(*pickle.load(process.stdout))
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        lost = f"a process died while decoding {paths[0]} to {paths[-1]} ({len(paths):,} files)"
        remedy = "if the memory was full, close other programs or use fewer pictures"
        raise UserError("process-lost", f"{lost}; {remedy}") from error
    finally:
        free.put(process)


def _search(folder: Path, written: Path, failed: list[OSError]) -> Iterator[Path]:
    """Yields pictures by their suffixes, sorted. Unlike Path.rglob, os.walk reports folders that it can't open."""
    for parent, folders, files in os.walk(folder, onerror=failed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(suffixes()) and not name.startswith("."):
                path = Path(parent, name)
                if path.is_file() and not (name == written.name and path.resolve() == written.resolve()):
                    yield path
