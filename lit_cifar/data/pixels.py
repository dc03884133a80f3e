"""Operations on the pixels of a whole batch, which augmentation.py and mixing.py choose and draw numbers for.

They compute with bytes, and on a CPU with some hundred images at a time. What they need in between then stays in the
cache, and glibc doesn't return it to the system after each batch: page faults took as long as all else.
"""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

PIECE = 128  # images at a time on a CPU
SCALES, RATIOS = (0.02, 0.33), (0.3, 3.3)  # of random erasing: shares of the image, and heights over widths


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yields parts of tensors `[N, ...]` that are small enough to work on at a time; those of `[1, ...]` repeat."""
    count = len(tensors[0])
    size = PIECE if tensors[0].device.type == "cpu" else max(1, count)
    return zip(*(each.expand(count, *each.shape[1:]).split(size) for each in tensors), strict=True)


def normalised(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Returns float32 `[N, 3, H, W]`: images, uint8, times `scale` plus `shift`, which are `[N or 1, 3, 1, 1]`."""
    normalised = torch.empty(images.shape, device=images.device)
    for image, factor, term, out in pieces(images, scale, shift, normalised):
        out.copy_(image).mul_(factor).add_(term)
    return normalised


def pasted(images: Tensor, others: Tensor | int, inside: Tensor) -> Tensor:
    """Returns images with bytes of others where `inside` is 255 and not 0: a fifth of the time of torch.where."""
    return (images ^ others).bitwise_and_(inside).bitwise_xor_(images)


def windows(images: Tensor, crop: int, down: Tensor, right: Tensor) -> Tensor:
    """Returns a window of each image, which is padded by `crop` pixels, by reflection.

    Its place is int64 `[N]`: `down` and `right`, from 0 to 2 * crop; a larger `right` is in the mirrored image.
    """
    (height, width), windows = images.shape[2:], torch.empty_like(images)
    rows, columns = (_window_table(crop, size, images.device) for size in (height, width))
    for image, row, column, out in pieces(images, down, right, windows):
        y, x = rows.index_select(0, row), columns.index_select(0, column)
        places = (y[:, :, None] * width + x[:, None]).flatten(1)
        torch.gather(image.flatten(2), 2, places[:, None].expand(-1, images.shape[1], -1), out=out.flatten(2))
    return windows


@lru_cache(maxsize=4)  # rows and columns, of two settings
def _window_table(crop: int, size: int, device: torch.device) -> Tensor:
    """Returns int64 `[2 * (2 * crop + 1), size]`: the rows or columns of each window, then of each mirrored window."""
    x = (torch.arange(size, device=device) + torch.arange(2 * crop + 1, device=device)[:, None] - crop).abs()
    x = x.minimum(2 * size - 2 - x)  # -2 to 5 of 4 pixels: 2 1 | 0 1 2 3 | 2 1
    return torch.cat((x, size - 1 - x))


@lru_cache(maxsize=4)
def erased_sizes(height: int, width: int, device: torch.device) -> Tensor:
    """Returns int64 `[n, 2]`: equally likely heights and widths of erased rectangles.

    They are those of torchvision's RandomErasing for 256 areas and 256 ratios. It draws again if a rectangle does not
    fit, so those that don't are left out. A table holds the same numbers for every device.
    """
    steps = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
    area = height * width * (SCALES[0] + (SCALES[1] - SCALES[0]) * steps)[:, None]
    ratio = RATIOS[0] * (RATIOS[1] / RATIOS[0]) ** steps
    high, wide = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (high < height) & (wide < width)
    return torch.stack((high[fits], wide[fits]), 1).long().to(device)


def rectangles(top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, height: int, width: int) -> Tensor:
    """Returns uint8 `[N, 1, H, W]`: 255 inside one rectangle per image, without its `bottom` and `right`; 0 outside.

    A rectangle may extend beyond the image.
    """
    spans = (height, top[:, None], bottom[:, None]), (width, left[:, None], right[:, None])
    places = ((torch.arange(size, device=top.device), first, last) for size, first, last in spans)
    # bytes, because torch is three times as slow with bool
    rows, columns = (((place >= first) & (place < last)).byte() * 255 for place, first, last in places)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
