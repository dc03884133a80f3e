"""Pictures to predict: found by their paths, or handed over from memory as PIL images, arrays or tensors.

They become the uint8 `[3, 32, 32]` that everything else here works on. A file and the PIL image of it give the same
pixels.
"""

import base64
import io
import os
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lit_cifar.data.image_files import SIDE, formats, opened_any, rgb, squeezed
from lit_cifar.errors import UsageError

Picture = Image.Image | np.ndarray | Tensor
"""What `to_pixels` takes."""


def thumbnail(path: Path, side: int) -> Tensor:
    """uint8 `[3, side, side]`: the whole picture, with its proportions, on white; a small one in square pixels.

    Raises:
        UserError: it can't be read, with the reason.
    """
    with opened_any(path) as picture:
        picture.draft("RGB", (side, side))  # a JPEG's own smaller versions: eight times as fast
        small = rgb(ImageOps.exif_transpose(picture))
        if times := side // max(small.size):
            small = small.resize((small.width * times, small.height * times), Image.Resampling.NEAREST)
        else:
            small.thumbnail((side, side))
    sheet = Image.new("RGB", (side, side), "white")
    sheet.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return _tensor(np.array(sheet))


def find_pictures(words: Sequence[str], written: Path) -> tuple[list[Path], list[str]]:
    """The files that paths and glob patterns name, each once, and what could not be looked into.

    Folders are searched to their depths for the suffixes that Pillow knows, but for what is hidden and for `written`.

    Raises:
        UsageError: one of them names nothing, or a folder without pictures.
    """
    found: dict[Path, None] = {}
    unread: list[str] = []
    for word in words:
        paths = [Path(word)]
        try:
            there = paths[0].exists()
        except OSError as error:  # it lies in a folder of someone else's
            unread.append(f"{word} can't be read: {error.strerror}")
            continue
        if not there:
            if not has_magic(word):
                raise UsageError(f"{word} does not exist; name pictures, folders or patterns such as 'photos/*.jpg'")
            paths = [Path(match) for match in sorted(glob(word, recursive=True))]  # noqa: PTH207 (a pattern may be absolute)
            if not paths:
                raise UsageError(f"the pattern {word} matches nothing; correct it, or name a folder")
        files: list[Path] = []
        failed: list[str] = []
        for path in paths:
            if path.is_dir():
                files += [file for file in _search(path, failed) if not _same(file, written)]
            elif path.is_file():
                files.append(path)
            else:
                raise UsageError(f"{path} is neither a file nor a folder; name pictures or folders of them")
        if not files and not failed:
            raise UsageError(f"{word} holds no pictures; name a folder that does, or files by their names")
        found.update(dict.fromkeys(files))
        unread += failed
    return list(found), unread


def to_pixels(picture: Picture) -> Tensor:
    """uint8 `[3, 32, 32]` of a PIL image, an array uint8 `[H, W]`, `[H, W, 3]` or `[H, W, 4]`, or a tensor `[3, H, W]`.

    Raises:
        ValueError: it is of another shape or type.
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
            f"an image must be PIL's, an array or a tensor, not {type(picture).__name__}; open a file first"
        )
    return _tensor(np.array(squeezed(picture)))


def to_batch(pictures: Picture | Sequence[Picture]) -> Tensor:
    """uint8 `[N, 3, 32, 32]` of one picture, several, or a batch: an array `[N, H, W, 3]`, a tensor `[N, 3, H, W]`.

    Raises:
        ValueError: one is of another shape or type.
    """
    one = isinstance(pictures, Image.Image | str | Path) or (
        isinstance(pictures, np.ndarray | Tensor) and pictures.ndim < 4
    )
    if isinstance(pictures, Tensor) and pictures.dtype == torch.uint8 and pictures.shape[1:] == (3, SIDE, SIDE):
        return pictures.cpu()
    each = [to_pixels(picture) for picture in cast(Sequence[Picture], [pictures] if one else pictures)]
    return torch.stack(each) if each else torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)


def png(pixels: Tensor) -> bytes:
    """A PNG file of uint8 `[3, H, W]`."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def data_url(png: bytes) -> str:
    """A PNG file as an address that a page can hold."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _described(values: np.ndarray | Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"


def _search(folder: Path, unread: list[str]) -> list[Path]:
    """Pictures by their suffixes, sorted; os.walk, since Path.rglob says nothing of folders that it can't open."""
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
