"""Pictures from files or from memory, as the uint8 `[3, 32, 32]` that everything else here works on.

A file and the PIL image of it give the same pixels. A picture is squeezed to 32×32 whole, whatever its proportions, and
never cut. What is too large is refused by its header, before a byte of it is decoded.
"""

import base64
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lit_cifar.errors import UsageError, UserError

SIDE = 32
MAX_PIXELS = 2**30 // 12  # of one picture, 256 MiB: where Pillow begins to warn of decompression bombs
BUFFER = 2**16  # bytes: a small file in one reading, so that threads seldom wait for Python's lock: 1.4 times as fast
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow names them; EPS would start Ghostscript
FLOATS = "floating-point numbers, of which nobody knows which is white; convert them to bytes"
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `opened` refuses; a file is told of once
TURNED_OR_TRANSPARENT = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "transparency"}
"""Keys of Pillow's `info` with which even 32×32 RGB pixels are not yet those to be seen."""

Picture = Image.Image | np.ndarray | Tensor
"""What `to_pixels` takes."""


def decode_picture(path: Path) -> Tensor:
    """uint8 `[3, 32, 32]` of a PNG or JPEG file of any size and mode, turned as its EXIF data say.

    Raises:
        UserError: the file is not a picture that can be decoded.
    """
    try:
        with opened(path, ("PNG", "JPEG")) as picture:
            return _tensor(_pixels(picture))
    except PermissionError:
        raise  # the picture may be fine
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} can't be decoded as a PNG or JPEG image; replace or remove it") from error


def read_picture(path: Path) -> np.ndarray:
    """uint8 `[32, 32, 3]` of a file in any format that Pillow reads; of an animation, its first frame.

    Raises:
        UserError: it can't be read, with the reason.
    """
    with _opened_any(path) as picture:
        return _pixels(picture)


def thumbnail(path: Path, side: int) -> Tensor:
    """uint8 `[3, side, side]`: the whole picture, with its proportions, on white; a small one in square pixels.

    Raises:
        UserError: it can't be read, with the reason.
    """
    with _opened_any(path) as picture:
        picture.draft("RGB", (side, side))  # a JPEG's own smaller versions: eight times as fast
        small = _rgb(ImageOps.exif_transpose(picture))
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
        if not paths[0].exists():
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
    return _tensor(_pixels(picture))


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


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return ("JPEG", "PNG", *(name for name in Image.ID if name not in NO_PICTURES))  # tried in this order


def _search(folder: Path, unread: list[str]) -> list[Path]:
    """Pictures by their suffixes, sorted; os.walk, since Path.rglob says nothing of folders that it can't open."""
    suffixes = tuple(suffix for suffix, name in Image.registered_extensions().items() if name in _formats())
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


@contextmanager
def opened(source: Path | io.BytesIO, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """The picture in a file or in memory, for the length of a `with`, in which it is decoded.

    Raises:
        Image.DecompressionBombError: it has more than MAX_PIXELS.
        UnidentifiedImageError: it is in none of these formats.
        OSError: of the disk, with `strerror`.
        ValueError: it is cut short or damaged; Pillow's readers have a dozen errors for that.
    """
    try:
        with (
            source.open("rb", BUFFER) if isinstance(source, Path) else source as file,
            Image.open(file, formats=formats) as picture,
        ):
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield picture
    except (UserError, Image.DecompressionBombError, UnidentifiedImageError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise
        raise ValueError("it is cut short or damaged") from error


@contextmanager
def _opened_any(path: Path) -> Iterator[Image.Image]:
    """In any format that Pillow reads; whatever goes wrong becomes a UserError that names the file."""
    try:
        with opened(path, _formats()) as picture:
            if picture.mode == "F":
                raise UserError(f"{path} can't be read: its pixels are {FLOATS}")
            yield picture
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path} can't be read: it has more than {MAX_PIXELS / 1e6:.0f} million pixels; make it smaller"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} can't be read: it is no picture in a format that Pillow knows") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error


def _pixels(picture: Image.Image) -> np.ndarray:
    plain = picture.mode == "RGB" and picture.size == (SIDE, SIDE)
    if not plain or not TURNED_OR_TRANSPARENT.isdisjoint(picture.info):
        picture = _rgb(ImageOps.exif_transpose(picture))
        for size in ((SIDE, picture.height), (SIDE, SIDE)):  # in one call, the order depends on Pillow's version
            picture = picture.resize(size, Image.Resampling.BICUBIC)
    return np.array(picture)


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _rgb(picture: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits are scaled to 8, what is transparent becomes white.

    Raises:
        ValueError: its pixels are floating-point numbers.
    """
    if picture.mode == "F":
        raise ValueError(f"the pixels of a picture must be bytes, not {FLOATS}")
    if picture.mode.startswith("I"):
        values = np.asarray(picture, dtype=np.int64) >> 8
        picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")
