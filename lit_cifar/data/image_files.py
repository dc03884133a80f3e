"""One picture file to a square of RGB, by Pillow alone, so that a process that only decodes starts in 0.05 s.

A picture that is too large is refused by its header, before it is decoded.
"""

import io
import os
import pickle
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Literal, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from lit_cifar.errors import UserError

Formats = tuple[str, ...] | None  # Pillow's names of formats to read; None for all
Resize = Literal["squeeze", "crop", "pad"]
SIDE = 32  # of CIFAR-10's images
SMALLEST_SIZE, LARGEST_SIZE = 8, 224  # sides to which pictures can be scaled
COMMON_FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 2**30 // 12  # of one picture, 256 MiB: where Pillow begins to warn of decompression bombs
MAX_SIDE = 2**16  # of one picture, in pixels; 1 by 89 million would be scaled to 224 by 89 million at first
BUFFER = 2**16  # bytes; one read for a small file, so threads seldom wait for Python's lock: 1.4 times as fast
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # known to Pillow; EPS would start Ghostscript
FLOATS = "floating-point numbers without a known range; convert them to bytes"
TURNED_OR_TRANSPARENT = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "transparency"}
"""Keys of Pillow's `info` with which RGB pixels of the right size still have to be turned or laid on white."""


class Scaling(NamedTuple):
    """How a picture of any size becomes a square."""

    side: int = SIDE
    """In pixels."""
    way: Resize = "squeeze"
    """`squeeze` scales width and height to the side, so proportions change. The others keep them: `crop` scales the
    square in the middle, and `pad` scales the longer side, and adds black borders along it."""

    def images_like(self, count: int) -> int:
        """Returns how many images take the memory of `count` images of 32 pixels; at least one, at most `count`."""
        return max(1, min(count, count * SIDE**2 // self.side**2))


TO_32 = Scaling()  # as CIFAR-10's images are


class Decoded(NamedTuple):
    """Of several files: those that could be decoded, their pixels `[N, side, side, 3]`, a sentence for each other."""

    read: list[Path]
    pixels: bytes
    unread: list[str]


def read_picture(path: Path, formats: Formats = None, scaling: Scaling = TO_32) -> Image.Image:
    """Returns RGB of a file (of an animation, its first frame) in one of these formats, or raises UserError."""
    with opened_file(path, formats) as picture:
        return scaled(picture, scaling)


@contextmanager
def opened(source: Path | io.BytesIO, formats: Formats) -> Iterator[Image.Image]:
    """Opens the picture in a file or in memory, for decoding inside the `with`.

    Raises:
        Image.DecompressionBombError: The picture has more than MAX_PIXELS, or a side of more than MAX_SIDE.
        UnidentifiedImageError: The picture is in none of these formats.
        OSError: The disk failed; `strerror` says how.
        ValueError: The picture is cut short or damaged, for which Pillow's readers raise a dozen errors.
    """
    try:
        file: IO[bytes] = source.open("rb", BUFFER) if isinstance(source, Path) else source
        with file, _identified(file, formats) as picture:
            if picture.width * picture.height > MAX_PIXELS or max(picture.size) > MAX_SIDE:
                raise Image.DecompressionBombError
            yield picture
    except Exception as error:
        known = isinstance(error, UserError | Image.DecompressionBombError | UnidentifiedImageError)
        if known or getattr(error, "strerror", None):
            raise
        raise ValueError("it is cut short or damaged") from error


@contextmanager
def opened_file(path: Path, formats: Formats = None) -> Iterator[Image.Image]:
    """Opens the picture in a file, like `opened`; every failure becomes a UserError that names the file."""
    try:
        with opened(path, formats) as picture:
            if picture.mode == "F":
                raise UserError("picture-unreadable", f"{path} can't be read: its pixels are {FLOATS}")
            yield picture
            return
    except Image.DecompressionBombError:
        why = f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels, or {MAX_SIDE:,} in a row; make it smaller"
    except UnidentifiedImageError:
        why = f"it is not a picture in {' or '.join(formats or ['a format that Pillow knows'])}"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise UserError("picture-unreadable", f"{path} can't be read: {why}")


def scaled(picture: Image.Image, scaling: Scaling) -> Image.Image:
    """Returns a square of RGB, turned as the EXIF data say, or raises ValueError if the pixels are floats."""
    picture.load()
    side, way = scaling
    if picture.mode == "RGB" and picture.size == (side, side) and TURNED_OR_TRANSPARENT.isdisjoint(picture.info):
        return picture
    picture = rgb(ImageOps.exif_transpose(picture))
    (width, height), shortest, longest = picture.size, min(picture.size), max(picture.size)
    if way == "crop":
        left, top = (width - shortest) // 2, (height - shortest) // 2
        picture = picture.crop((left, top, left + shortest, top + shortest))
    across = down = side
    if way == "pad":  # rounded, halves up
        across, down = (max(1, (2 * side * length + longest) // (2 * longest)) for length in (width, height))
    for size in ((across, picture.height), (across, down)):  # in one call, the order depends on Pillow's version
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    if picture.size != (side, side):
        square = Image.new("RGB", (side, side))
        square.paste(picture, ((side - across) // 2, (side - down) // 2))
        return square
    return picture


def rgb(picture: Image.Image) -> Image.Image:
    """Returns RGB: 16 bits are scaled to 8, and what is transparent becomes white. Floats raise ValueError."""
    if picture.mode == "F":
        raise ValueError(f"the pixels of a picture must be bytes, not {FLOATS}")
    if picture.mode.startswith("I"):
        import numpy as np  # its import takes as long as all others here

        values = np.asarray(picture) >> 8  # integers of 16 or 32 bits
        picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


@cache
def known_formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that are read."""
    Image.init()
    return tuple(name for name in Image.ID if name not in NO_PICTURES)


@cache
def suffixes() -> tuple[str, ...]:
    """Returns the suffixes of these formats, such as `.jpeg`."""
    return tuple(suffix for suffix, name in Image.registered_extensions().items() if name in known_formats())


def is_picture(path: Path) -> bool:
    """Returns whether a file should be a picture, by its suffix or else by its content; unreadable ones should be."""
    if path.name.lower().endswith(suffixes()):
        return True
    try:
        with opened(path, None):
            return True
    except (UnidentifiedImageError, ValueError):
        return False
    except (Image.DecompressionBombError, OSError):
        return True


def _identified(file: IO[bytes], formats: Formats) -> Image.Image:
    with suppress(UnidentifiedImageError):
        return Image.open(file, formats=formats or COMMON_FORMATS)
    return Image.open(file, formats=formats or known_formats())  # Pillow's forty other readers take 0.05 s to import


def decode(formats: Formats, scaling: tuple[int, Resize], paths: Sequence[Path]) -> Decoded:
    """Decodes files of these formats."""
    read, pixels, unread = [], [], []
    for path in paths:
        try:
            pixels.append(read_picture(path, formats, Scaling(*scaling)).tobytes())
            read.append(path)
        except UserError as error:
            unread.append(str(error))
    return Decoded(read, b"".join(pixels), unread)


if __name__ == "__main__":  # for another process: pickled arguments of `decode` in, the fields of Decoded out
    warnings.filterwarnings("ignore")  # about metadata, and sizes that are refused anyway
    try:
        while True:
            pickle.dump(tuple(decode(*pickle.load(sys.stdin.buffer))), sys.stdout.buffer)
            sys.stdout.buffer.flush()
    except (EOFError, BrokenPipeError):
        os._exit(0)  # the other process is done or gone; a normal exit might fail at flushing stdout
