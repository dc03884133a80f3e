"""TrivialAugmentWide (Müller, Hutter, arXiv 2103.10158), on whole batches: one of 14 operations on each image.

Operations, magnitudes and arithmetic are those of torchvision.transforms.v2.TrivialAugmentWide with its defaults: 31
magnitudes, nearest interpolation, black where there is no image. Where pixels come from is looked up in a table that is
made on the CPU, so pixels move alike on every device.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

MAGNITUDES = 31
SIGNED = 2 * MAGNITUDES  # settings of an operation: its magnitudes, each followed by its negative
SETTINGS = 14 * SIGNED  # operations that have no sign or no magnitude do the same in several settings
FRACTIONS, ANGLES, SHIFTS, THRESHOLDS = (  # as torchvision's: in float32
    torch.linspace(first, last, MAGNITUDES).tolist() for first, last in ((0, 0.99), (0, 135), (0, 32), (1, 0))
)


class Tables(NamedTuple):
    """What the settings do."""

    sources: Tensor
    """int32 `[5 * SIGNED, H * W]`: for each setting of `_move` where a pixel comes from, H * W if it becomes black."""
    curves: Tensor
    """uint8 `[3 * SIGNED, 256]`: for each setting of `_map` what becomes of each value."""
    magnitudes: Tensor
    """float32 `[SIGNED]`, from -0.99 to 0.99, for `_away_from`."""


def trivial_augment(images: Tensor, settings: Tensor, grouped: bool) -> Tensor:
    """Returns uint8 `[N, 3, H, W]`, each image changed according to its setting, int64 `[N]`, below SETTINGS.

    If `grouped`, each operation is applied to its own images alone. That is for CPUs: a GPU would have to tell the CPU
    how many these are. Otherwise all operations are applied to all images, and each image takes one of the results.
    """
    tables = _tables(images.shape[2], images.shape[3], images.device)
    if grouped:
        order = settings.argsort()
        settings = settings[order]
        ends = torch.searchsorted(settings, settings.new_tensor([SIGNED * end for _, end, _ in CHANGES])).tolist()
        parts = list(images.index_select(0, order).tensor_split(ends))
        for i, (first, _, change) in enumerate(CHANGES):
            if len(parts[i]):
                parts[i] = change(parts[i], settings[ends[i] - len(parts[i]) : ends[i]] - first * SIGNED, tables)
        return torch.cat(parts).index_select(0, order.argsort())
    out = images
    for first, end, change in CHANGES:
        numbers = settings - first * SIGNED
        changed = change(images, numbers.clamp(0, (end - first) * SIGNED - 1), tables)
        chosen = (numbers >= 0) & (settings < end * SIGNED)
        out = torch.where(chosen[:, None, None, None], changed, out)
    return out


def _move(images: Tensor, numbers: Tensor, tables: Tables) -> Tensor:
    sources = tables.sources.index_select(0, numbers).long()
    pixels = F.pad(images.flatten(2), (0, 1))  # one black pixel more
    return pixels.gather(2, sources[:, None].expand(-1, 3, -1)).view_as(images)


def _map(images: Tensor, numbers: Tensor, tables: Tables) -> Tensor:
    return _apply(tables.curves.index_select(0, numbers)[:, None], images)


def _apply(curves: Tensor, images: Tensor) -> Tensor:
    return curves.expand(-1, 3, -1).gather(2, images.flatten(2).long()).view_as(images)


def _saturate(images: Tensor, numbers: Tensor, tables: Tables) -> Tensor:
    return _away_from(_grey(images), images, numbers, tables)


def _contrast(images: Tensor, numbers: Tensor, tables: Tables) -> Tensor:
    return _away_from(_grey(images).mean((1, 2, 3), keepdim=True), images, numbers, tables)


def _sharpen(images: Tensor, numbers: Tensor, tables: Tables) -> Tensor:
    values = images.short()
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    squares = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * values[..., 1:-1, 1:-1]
    blurred = images.float()  # its edge stays as it is
    blurred[..., 1:-1, 1:-1] = (squares / 13).round_()
    return _away_from(blurred, images, numbers, tables)


def _grey(images: Tensor) -> Tensor:
    """Returns whole numbers, float32 `[N, 1, H, W]`. The half keeps rounding from making 41.999 of 42."""
    red, green, blue = images.float().split(1, dim=1)
    return red.mul(2989).add_(green * 5870).add_(blue * 1140).add_(0.5).mul_(1e-4).floor_()


def _away_from(plain: Tensor, images: Tensor, numbers: Tensor, tables: Tables) -> Tensor:
    """Moves each value away from that of a plainer image by the magnitude, or, if that is negative, towards it."""
    magnitudes = tables.magnitudes[numbers][:, None, None, None]
    return (images - plain).mul_(magnitudes).add_(images).clamp_(0, 255).byte()


def _autocontrast(images: Tensor, _: Tensor, __: Tables) -> Tensor:
    values = images.float()
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    same = low == high  # a channel of a single value stays as it is
    scale = torch.where(same, 1, (high - low) * (1 / 255))
    return values.sub_(torch.where(same, 0, low)).div_(scale).clamp_(0, 255).byte()


def _equalize(images: Tensor, _: Tensor, __: Tables) -> Tensor:
    """As Pillow's ImageOps.equalize does: the pixels at a channel's highest value don't count."""
    values = images.flatten(2).long()
    counts = torch.zeros((*values.shape[:2], 256), dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, values, torch.ones((), dtype=torch.int32, device=images.device).expand_as(values))
    highest = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - highest) // 255
    below = counts.cumsum(2, dtype=torch.int32) - counts
    curves = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    same = torch.arange(256, dtype=torch.int32, device=images.device)
    return _apply(torch.where(step == 0, same, curves).byte(), images)


CHANGES: tuple[tuple[int, int, Callable[[Tensor, Tensor, Tables], Tensor]], ...] = (
    (0, 5, _move),  # shear and translation along x and y, rotation
    (5, 8, _map),  # brightness, posterize, solarize
    (8, 9, _saturate),
    (9, 10, _contrast),
    (10, 11, _sharpen),
    (11, 12, _autocontrast),
    (12, 13, _equalize),
)
"""For each function its first operation and the one after its last. The 14th operation leaves an image as it is."""


@lru_cache(maxsize=4)  # made in 30 ms for 32×32 pixels, which takes 1.3 MB
def _tables(height: int, width: int, device: torch.device) -> Tables:
    with torch.device("cpu"), torch.autocast("cpu", enabled=False):  # in full precision, whoever asks first
        values = torch.arange(256, dtype=torch.uint8)
        curves = [values.mul(1 + fraction).clamp_(0, 255).byte() for fraction in _signed(FRACTIONS)]
        for i in range(SIGNED):
            curves.append(values >> round(i // 2 / 5) << round(i // 2 / 5))
        for i in range(SIGNED):
            curves.append(torch.where(values >= 255 * THRESHOLDS[i // 2], ~values, values))
        tables = _sources(height, width), torch.stack(curves), torch.tensor(_signed(FRACTIONS))
    return Tables(*(each.to(device) for each in tables))


def _signed(magnitudes: list[float]) -> list[float]:
    return [each for magnitude in magnitudes for each in (magnitude, -magnitude)]


def _sources(height: int, width: int) -> Tensor:
    """Returns `Tables.sources`, found by torchvision's arithmetic on an image whose pixels are their own places.

    Coordinates are exactly between two pixels so often that only the same roundings make the same choices.
    """
    x, y = (torch.linspace((1 - size) * 0.5, (size - 1) * 0.5, size) for size in (width, height))
    points = torch.stack((*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width)), -1).view(1, -1, 3)
    size = torch.tensor((0.5 * width, 0.5 * height))
    places = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
    found = []
    for matrix in _matrices(height, width):
        grid = points.bmm(torch.tensor(matrix).view(1, 2, 3).transpose(1, 2) / size).view(1, height, width, 2)
        place = F.grid_sample(places, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        found.append(place.int().flatten())
    sources = torch.stack(found)
    return torch.where(sources == 0, height * width, sources - 1)


def _matrices(height: int, width: int) -> list[tuple[float, ...]]:
    """Returns for each setting of MOVING the matrix `[2, 3]` that leads from a pixel to its source, from the centre."""
    shears = [math.tan(math.radians(math.degrees(math.atan(each)))) for each in _signed(FRACTIONS)]
    shifts = [float(int(each)) for each in _signed(SHIFTS)]
    turns = [(math.cos(math.radians(each)), math.sin(math.radians(each))) for each in _signed(ANGLES)]
    return [
        *((1.0, shear, shear * height * 0.5, 0.0, 1.0, 0.0) for shear in shears),  # the top left corner stays in place
        *((1.0, 0.0, 0.0, shear, 1.0, shear * width * 0.5) for shear in shears),
        *((1.0, 0.0, -shift, 0.0, 1.0, 0.0) for shift in shifts),
        *((1.0, 0.0, 0.0, 0.0, 1.0, -shift) for shift in shifts),
        *((cos, -sin, 0.0, sin, cos, 0.0) for cos, sin in turns),
    ]
