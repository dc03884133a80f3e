"""Synthetic images of ten classes: a stand-in for CIFAR-10 on a machine without data and network.

Each class has two drawings, written in a small language in `drawings.txt`. An image shows one of them at a random
place, size, angle and slant, mirrored or not, in random colours on a random background, with noise. Notable:
- Colours don't depend on the class, so what can be learned is shape.
- 12,000 images take about a second: each drawing is rendered once, and the rest is arithmetic on whole batches.
- The bytes depend on the seed and the number of images alone, not on the number of threads.
"""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Generator, Tensor
from torch.nn.functional import grid_sample

from lit_cifar.data.image_set import CIFAR10_CLASSES, ImageSet

PAINTS = {"body": (255, 0, 0), "accent": (0, 255, 0), "ink": (0, 0, 255)}


def draw(train: int = 10_000, test: int = 2_000, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Returns that many training and test images, equally many of each class (give or take one), in random order."""
    text = Path(__file__).with_name("drawings.txt").read_text(encoding="ascii")
    _language, *drawings = text.strip().split("\n\n")
    stencils = torch.stack([_stencil(drawing) for drawing in drawings])
    # each set has a generator of its own, so the size of one does not change the other
    return _draw(stencils, train, 2 * seed), _draw(stencils, test, 2 * seed + 1)


def _draw(stencils: Tensor, count: int, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % len(CIFAR10_CLASSES))[torch.randperm(count, generator=generator)]
    which = 2 * labels + torch.randint(2, (count,), generator=generator)
    images = torch.empty(count, 3, 32, 32, dtype=torch.uint8)
    for first in range(0, count, 500):  # 500 images are 6 MB as floats
        chunk = slice(first, first + 500)
        images[chunk] = _coloured(_posed(stencils[which[chunk]], generator), generator)
    return ImageSet(images, labels, CIFAR10_CLASSES)


def _stencil(drawing: str) -> Tensor:
    """Returns how much of each paint is at each point: `[3, 56, 56]`, the drawing with a margin of 6."""
    scale = 4  # drawn four times as large and reduced, since PIL's edges are not smooth
    canvas = Image.new("RGB", (112 * scale, 112 * scale))
    pen = ImageDraw.Draw(canvas)
    for line in drawing.splitlines()[1:]:
        paint, shapes = line.split(maxsplit=1)
        fill = PAINTS[paint]
        for text in shapes.split(","):
            shape, *words = text.split()
            numbers = [scale * float(word) for word in words]
            width = numbers.pop(0) if shape in ("line", "dots") else 0
            points = np.array(numbers).reshape(-1, 2) + 6 * scale
            if shape == "blob":
                pen.polygon(_smooth(points).flatten().tolist(), fill)
            elif shape == "poly":
                pen.polygon(points.flatten().tolist(), fill)
            elif shape == "line":
                pen.line(points.flatten().tolist(), fill, round(width), joint="curve")
            else:
                for x, y in points:
                    pen.ellipse((x - width, y - width, x + width, y + width), fill)
    paints = np.array(canvas.resize((56, 56), Image.Resampling.BOX))
    return torch.from_numpy(paints).permute(2, 0, 1) / 255


def _smooth(points: np.ndarray) -> np.ndarray:
    """Returns a closed Catmull-Rom curve through the points, in eight steps between two points."""
    before, after, beyond = (np.roll(points, shift, axis=0)[:, None] for shift in (1, -1, -2))
    here, t = points[:, None], np.linspace(0, 1, 8, endpoint=False)[:, None]
    bend = 2 * before - 5 * here + 4 * after - beyond + t * (3 * (here - after) + beyond - before)
    return (here + t / 2 * (after - before + t * bend)).reshape(-1, 2)


def _posed(stencils: Tensor, generator: Generator) -> Tensor:
    """Returns each stencil at a random place, size, angle and slant, mirrored or not: `[N, 3, 32, 32]`."""

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(stencils), 1, 1, generator=generator)

    # These ranges and the contrast below set the difficulty. The tutorial's network reaches 75 to 88 % in two epochs on
    # 9,000 images (eight seeds). With places within ±0.12 it reached 88 to 93 %, with contrasts from 0.3 33 to 62 %.
    x = torch.linspace(-1, 1, 32) - between(-0.18, 0.18)
    y = torch.linspace(-1, 1, 32)[:, None] - between(-0.18, 0.18)
    width, height = between(0.75, 1.1), between(0.75, 1.1)
    angle, slant = between(-0.3, 0.3), between(-0.2, 0.2)
    mirror = between(-1, 1) < 0
    # From a point of the image to that of the stencil. affine_grid would multiply matrices, and the last bit of such a
    # product may depend on the number of threads.
    u = angle.cos() * x + angle.sin() * y
    v = angle.cos() * y - angle.sin() * x
    across = (u + slant * v) / width
    return grid_sample(stencils, torch.stack([across.where(mirror, -across), v / height], dim=3), align_corners=False)


def _coloured(paints: Tensor, generator: Generator) -> Tensor:
    """Returns uint8 `[N, 3, 32, 32]`: the paints in random colours on a background that fades between two colours."""

    def rand(channels: int) -> Tensor:
        return torch.rand(len(paints), channels, 1, 1, generator=generator)

    def tint(brightness: Tensor) -> Tensor:
        hue = rand(3)
        return (brightness + 0.5 * (hue - hue.mean(1, keepdim=True))).clamp(0, 1)

    # The body is brighter than a dark ground and darker than a bright one, ink is as bright as the ground, and accent
    # is between the two: so no class is brighter than another, however much ink it has.
    ground = rand(1)
    contrast = 0.5 + 0.3 * rand(1)
    body = torch.where(ground < 0.5, ground + contrast, ground - contrast)
    accent = (ground + body) / 2 + 0.2 * (rand(1) - 0.5)

    direction = 2 * math.pi * rand(1)
    line = torch.linspace(-0.35, 0.35, 32)  # at most 0.35 * sqrt(2) = 0.5 from the centre
    shade = 0.5 + direction.cos() * line + direction.sin() * line[:, None]
    image = torch.lerp(tint(ground), tint(ground), shade) * (1 - paints.sum(1, keepdim=True))
    for layer, brightness in zip(paints.split(1, dim=1), (body, accent, ground), strict=True):
        image += layer * tint(brightness)
    image += 0.06 * torch.randn(image.shape, generator=generator)
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)
