"""Picture files to 32×32 RGB, by Pillow alone: a process that only does this starts in 0.05 s.

A picture is squeezed to 32×32 whole, whatever its proportions, and never cut. What is too large is refused by its
header, before a byte of it is decoded.
"""

import io
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from lit_cifar.cli.process import leave_broken_pipe
from lit_cifar.errors import UserError

SIDE = 32
COMMON = ("JPEG", "PNG")
MAX_PIXELS = 2**30 // 12  # of one picture, 256 MiB: where Pillow begins to warn of decompression bombs
BUFFER = 2**16  # bytes: a small file in one reading, so that threads seldom wait for Python's lock: 1.4 times as fast
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow names them; EPS would start Ghostscript
FLOATS = "floating-point numbers, of which nobody knows which is white; convert them to bytes"
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `opened` refuses; a file is told of once
TURNED_OR_TRANSPARENT = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "transparency"}
"""Keys of Pillow's `info` with which even 32×32 RGB pixels are not yet those to be seen."""


class Decoded(NamedTuple):
    """What some files hold."""

    read: list[Path]
    """Those that could be decoded."""
    pixels: bytes
    """Theirs, as `[N, 32, 32, 3]`."""
    unread: list[str]
    """A sentence for each of the others."""


def decode_picture(path: Path) -> Image.Image:
    """32×32 RGB of a PNG or JPEG file of any size and mode, turned as its EXIF data say.

    Raises:
        UserError: the file is not a picture that can be decoded.
    """
    try:
        with opened(path, COMMON) as picture:
            return squeezed(picture)
    except PermissionError as error:  # the picture may be fine
        raise UserError(f"{path} can't be read ({error.strerror}); change its permissions, or remove it") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} can't be decoded as a PNG or JPEG image; replace or remove it") from error


def read_picture(path: Path) -> Image.Image:
    """32×32 RGB of a file in any format that Pillow reads; of an animation, its first frame.

    Raises:
        UserError: it can't be read, with the reason.
    """
    with opened_any(path) as picture:
        return squeezed(picture)


@contextmanager
def opened(source: Path | io.BytesIO, formats: tuple[str, ...] | None) -> Iterator[Image.Image]:
    """The picture in a file or in memory, for the length of a `with`, in which it is decoded; None is any format.

    Raises:
        Image.DecompressionBombError: it has more than MAX_PIXELS.
        UnidentifiedImageError: it is in none of these formats.
        OSError: of the disk, with `strerror`.
        ValueError: it is cut short or damaged; Pillow's readers have a dozen errors for that.
    """
    try:
        with (
            source.open("rb", BUFFER) if isinstance(source, Path) else source as file,
            _identified(file, formats) as picture,
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
def opened_any(path: Path) -> Iterator[Image.Image]:
    """In any format that Pillow reads; whatever goes wrong becomes a UserError that names the file."""
    try:
        with opened(path, None) as picture:
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


def squeezed(picture: Image.Image) -> Image.Image:
    """32×32 RGB, turned and in the colours in which it is to be seen.

    Raises:
        ValueError: its pixels are floating-point numbers.
    """
    picture.load()
    if picture.mode == "RGB" and picture.size == (SIDE, SIDE) and TURNED_OR_TRANSPARENT.isdisjoint(picture.info):
        return picture
    picture = rgb(ImageOps.exif_transpose(picture))
    for size in ((SIDE, picture.height), (SIDE, SIDE)):  # in one call, the order depends on Pillow's version
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return picture


def rgb(picture: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits are scaled to 8, what is transparent becomes white.

    Raises:
        ValueError: its pixels are floating-point numbers.
    """
    if picture.mode == "F":
        raise ValueError(f"the pixels of a picture must be bytes, not {FLOATS}")
    if picture.mode.startswith("I"):
        import numpy as np  # takes as long as all else here

        values = np.asarray(picture, dtype=np.int64) >> 8
        picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of those that are read."""
    Image.init()
    return tuple(name for name in Image.ID if name not in NO_PICTURES)


def _identified(file: IO[bytes], names: tuple[str, ...] | None) -> Image.Image:
    if names is not None:
        return Image.open(file, formats=names)
    try:
        return Image.open(file, formats=COMMON)
    except UnidentifiedImageError:  # Pillow's forty other readers take 0.05 s to import
        return Image.open(file, formats=formats())


READERS = {"any": read_picture, "png or jpeg": decode_picture}


def decode(reader: str, paths: Sequence[Path]) -> Decoded:
    """Reads files with one of READERS."""
    read, pixels, unread = [], [], []
    for path in paths:
        try:
            pixels.append(READERS[reader](path).tobytes())
            read.append(path)
        except UserError as error:
            unread.append(str(error))
    return Decoded(read, b"".join(pixels), unread)


def main(reader: str) -> None:
    """Reads a JSON list of paths a line; writes those that were read, sentences for the others, and the pixels."""
    warnings.filterwarnings("ignore")  # of metadata, and of sizes that are refused
    try:
        for line in sys.stdin.buffer:
            decoded = decode(reader, [Path(name) for name in json.loads(line)])
            head = json.dumps([[str(path) for path in decoded.read], decoded.unread])
            sys.stdout.buffer.write(head.encode() + b"\n" + decoded.pixels)
            sys.stdout.buffer.flush()
    except BrokenPipeError:  # nobody is left to take it
        leave_broken_pipe()


if __name__ == "__main__":
    main(sys.argv[1])
