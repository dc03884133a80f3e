"""A visitor's file becomes pixels, or a sentence that names the file. Sizes are checked before anything is decoded.

TIFF can hold more than pictures need, and its readers had many faults: of one, only the first page is read, only from a
classic header, in five common compressions, and with tags and tiles no larger than the file and the picture.
"""

import io
import struct
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lit_cifar.data.image_files import FLOATS, Scaling, opened, rgb
from lit_cifar.data.pictures import to_pixels
from lit_cifar.errors import UserError, either
from lit_cifar.report.tables import printable

PIXELS = 50_000_000  # of a picture: 150 MB decoded
SCANS = 100  # of a JPEG, each of which is a pass over all its pixels; a camera's has 10
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
NAMED = either(FORMATS)
MIME_TYPES = ",".join(f"image/{name.lower()}" for name in FORMATS)
LONGEST_NAME = 64  # characters of a file's name
PREVIEW = 480  # pixels of the longer side at which a picture is shown
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # of a classic TIFF, by its first bytes
TAG_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)  # of one value of each type of TIFF's tags
COMPRESSIONS = {"raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg"}
TILE = (322, 323)  # tags of width and height


class Reading(NamedTuple):
    """What was read of a picture."""

    pixels: Tensor
    """What the network sees, uint8 `[3, side, side]`."""
    preview: Image.Image
    """The whole picture in RGB, smaller if it is large."""
    size: tuple[int, int]
    """Width and height in pixels, as the picture is turned."""


def shown_name(name: str) -> str:
    """Returns a file's name as sentences show it."""
    name = printable(name).strip() or "This file"
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-half:]}"


def read(content: bytes | bytearray, name: str, scaling: Scaling) -> Reading:
    """Reads a picture's file, or raises UserError that names it."""
    is_tiff = bytes(content[:4]) in BYTE_ORDERS
    try:
        if is_tiff:
            _check_tags(content)
        with opened(io.BytesIO(content), FORMATS if is_tiff else FORMATS[:-1]) as picture:
            _check(picture, content, name)
            turned = rgb(ImageOps.exif_transpose(picture))
            picture.close()  # its memory is free before `turned` is copied
            size, pixels = turned.size, to_pixels(turned, scaling)
            turned.thumbnail((PREVIEW, PREVIEW))
            return Reading(pixels, turned, size)
    except Image.DecompressionBombError as error:
        raise UserError("picture-too-large", _too_large(name)) from error
    except UnidentifiedImageError as error:
        raise UserError("picture-unreadable", _unread(content, name)) from error
    except (OSError, ValueError, struct.error) as error:
        raise UserError("picture-unreadable", _damaged(name)) from error


def _check(picture: Image.Image, content: bytes | bytearray, name: str) -> None:
    """Raises UserError for a picture that would take too much memory or time, by its header."""
    if picture.width * picture.height > PIXELS:
        raise UserError("picture-too-large", _too_large(name))
    if picture.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > SCANS:
        sentence = f"{name} is stored in more than {SCANS} passes. Save it as PNG, and send that."
        raise UserError("picture-too-large", sentence)
    if picture.format == "TIFF":
        width, height = (getattr(picture, "tag_v2", {}).get(tag, 0) for tag in TILE)
        if width * height > PIXELS:  # of a tile, which is decoded whole
            raise UserError("picture-too-large", _too_large(name))
        if picture.info.get("compression") not in COMPRESSIONS:
            sentence = f"{name} is a TIFF in a rare compression. Save it as PNG, and send that."
            raise UserError("picture-unreadable", sentence)
        if picture.mode == "F":
            raise UserError("picture-unreadable", f"{name} can't be read: its pixels are {FLOATS}.")


def _check_tags(content: bytes | bytearray) -> None:
    """Raises ValueError if the tags of a TIFF hold more bytes than it: many may point to the same, read each time."""
    order = BYTE_ORDERS[bytes(content[:4])]
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    tags = struct.iter_unpack(f"{order}HHII", content[start + 2 : start + 2 + 12 * count])
    if sum(TAG_BYTES[kind] * number for _, kind, number, _ in tags if kind < len(TAG_BYTES)) > len(content):
        raise ValueError("its tags are larger than the file")


def _too_large(name: str) -> str:
    return f"{name} has more than {PIXELS // 10**6} million pixels. Send a smaller version."


def _damaged(name: str) -> str:
    return f"{name} is damaged or was cut short. Send another copy of it."


def _unread(content: bytes | bytearray, name: str) -> str:
    """Returns the sentence on a file that no reader takes: it may be a picture all the same."""
    if not content:
        return f"{name} is empty. Send a picture: {NAMED}."
    head, kind = bytes(content[:1024]), ""
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP"):
        return _damaged(name)
    if head[:4] in BYTE_ORDERS:  # its pixels may be of a kind that Pillow lacks
        return f"{name} is damaged, or a rare kind of TIFF. Save it as PNG, and send that."
    if head[4:8] == b"ftyp":  # ISO 14496-12: a box with its length, then names of what it is compatible with
        brands = head[8 : int.from_bytes(head[:4], "big")]
        kind = "an AVIF" if b"avi" in brands else "a HEIC" if b"hei" in brands or b"mif1" in brands else ""
    elif b"<svg" in head.lower():
        kind = "an SVG"
    elif head.startswith((b"II+\0", b"MM\0+")):
        kind = "a BigTIFF"
    if kind:
        return f"{name} is {kind} picture, which this page can't read. Save it as JPEG, and send that."
    return f"{name} is not an image. Use {NAMED}."
