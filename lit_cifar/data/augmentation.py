"""Random flips, crops, cut-outs, light and contrast on whole batches.

What is done to an image is a function of (seed, epoch, index of that image) alone: the numbers are drawn by hashing
those three, not from a generator whose state depends on what came before. So it does not matter on which device, in
which batch or after how many interruptions an image is augmented. No Python work per image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from lit_cifar.errors import UsageError

STEPS = 2**20  # in which a range is divided


def draw(seed: int, epoch: int, indices: Tensor, below: Sequence[int]) -> list[Tensor]:
    """For each i, a uniform number in `[0, below[i])` for each image: int64 `[N]`, the same on every device.

    A hash of (seed, epoch, i, index) by two rounds of SplitMix64's finalizer (Steele, Lea, Flood, "Fast splittable
    pseudorandom number generators", 2014). `below` up to 2^20 keeps the bias under 2^-20.
    """
    streams = torch.arange(len(below), device=indices.device)  # there, and not copied to: a GPU need not be waited for
    keys = _mix(_mix(torch.tensor(seed) * 0x9E3779B1 + epoch) * 8 + streams)
    numbers = _mix(_mix(indices + keys[:, None])) >> 20 & 0xFFFFFFFFFF
    return [row % limit for row, limit in zip(numbers, below, strict=True)]


def _mix(x: Tensor) -> Tensor:
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47  # int64 wraps round; the mask makes >> a logical shift
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & 0x1FFFFFFFF)


@dataclass(frozen=True)
class Augmentation:
    """What to do to each training image, in this order; all off by default."""

    flip: bool | Literal["alternate"] = False
    """Mirror half of the images; `alternate` mirrors an image in every second epoch (airbench, arXiv 2404.00498)."""
    crop: int = 0
    """Pad by this many pixels on each side, reflected, and cut a window of the old size out at random."""
    cutout: int = 0
    """Side in pixels of a square of middle grey put at a random place (DeVries, Taylor, arXiv 1708.04552)."""
    transform: Callable[[Tensor], Tensor] | None = None
    """A transform of your own, torchvision's v2 for instance: takes and returns uint8 `[3, H, W]`. It is called
    image by image, under a seed that depends on (seed, epoch, index), before the others: exact, but slow."""
    jitter: float = 0.0
    """Of normalised values: an offset up to this, then a factor up to this away from 1, drawn for each image; light
    and contrast differ from photograph to photograph (https://github.com/hiverge/cifar10-speedrun)."""

    def __call__(self, images: Tensor, indices: Tensor, seed: int, epoch: int) -> Tensor:
        """Augments uint8 `[N, 3, H, W]` images; `indices` are their int64 `[N]` places in the data set."""
        if self == Augmentation() or not len(images):
            return images
        windows, (height, width) = 2 * self.crop + 1, images.shape[2:]
        mirrored, down, right, centre_y, centre_x, seeds = draw(
            seed, epoch, indices, (2, windows, windows, height, width, 1 << 40)
        )
        if self.flip == "alternate":
            mirrored = draw(seed, 0, indices, (2,))[0] ^ (epoch & 1)
        if self.transform is not None:
            images = self._transformed(images, seeds)
        if self.flip or self.crop:
            images = self._moved(images, mirrored, down, right)
        if self.cutout:
            images = self._cut(images, centre_y, centre_x)
        return images

    def light(self, indices: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Of each image, the offset and then the factor of its normalised values: float32 `[N, 1, 1, 1]` each."""
        numbers = draw(seed, epoch, indices, (1,) * 6 + (STEPS, STEPS))[6:]  # the first six are taken, above
        offset, factor = (
            self.jitter * (2 / (STEPS - 1) * number.float() - 1)[:, None, None, None] for number in numbers
        )
        return offset, 1 + factor

    def _transformed(self, images: Tensor, seeds: Tensor) -> Tensor:
        assert self.transform is not None
        out = []
        with torch.random.fork_rng(devices=[]):
            for image, image_seed in zip(images.cpu(), seeds.tolist(), strict=True):
                torch.default_generator.manual_seed(image_seed)  # torch.manual_seed would seed the GPU's as well
                out.append(self.transform(image))
                if out[-1].dtype != torch.uint8 or out[-1].shape != image.shape:
                    raise UsageError(
                        f"--data.transform must return uint8 {list(image.shape)},"
                        f" but returned {str(out[-1].dtype).removeprefix('torch.')} {list(out[-1].shape)}"
                    )
        return torch.stack(out).to(images.device)

    def _moved(self, images: Tensor, mirrored: Tensor, down: Tensor, right: Tensor) -> Tensor:
        """Flips and crops by one gather: for each pixel, the place of the one that comes there; nothing is padded."""
        windows = _windows(self.crop, *images.shape[2:], images.device)
        side = 2 * self.crop + 1
        window = down * side + right
        pixels = windows.index_select(0, window + mirrored * side**2 if self.flip else window)
        return images.flatten(2).gather(2, pixels[:, None].expand(-1, images.shape[1], -1)).view_as(images)

    def _cut(self, images: Tensor, centre_y: Tensor, centre_x: Tensor) -> Tensor:
        """The square's centre is uniform over the image, so that it may stick out, as in the paper."""
        square = _squares(self.cutout, *images.shape[2:], images.device)
        square = square.index_select(0, centre_y * images.shape[3] + centre_x)
        return images & ~square | square & 128  # a third of the time of masked_fill, which goes byte by byte


@lru_cache(maxsize=4)  # to look a window up takes a quarter of the time of computing it; crop 4: 1.3 MB
def _windows(crop: int, height: int, width: int, device: torch.device) -> Tensor:
    """int64 `[2 * (2 * crop + 1) ** 2, H * W]`: of every window, then of each mirrored, the pixels in their order."""
    offsets = torch.arange(2 * crop + 1, device=device)[:, None] - crop
    y, x = (_reflected(torch.arange(size, device=device) + offsets, size) for size in (height, width))
    both = torch.stack((x, width - 1 - x))
    return (y[None, :, None, :, None] * width + both[:, None, :, None, :]).reshape(-1, height * width)


@lru_cache(maxsize=4)
def _squares(side: int, height: int, width: int, device: torch.device) -> Tensor:
    """uint8 `[H * W, 1, H, W]`: 255 inside the square around each centre, 0 outside."""
    rows, columns = (
        (distance >= 0) & (distance < side)
        for distance in (
            torch.arange(n, device=device) - torch.arange(n, device=device)[:, None] + side // 2
            for n in (height, width)
        )
    )
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(-1, 1, height, width).byte() * 255


def _reflected(i: Tensor, size: int) -> Tensor:
    """Places in a row padded by reflection: -2 to 5 in a row of 4 pixels are 2 1 | 0 1 2 3 | 2 1."""
    i = i.abs()
    return torch.minimum(i, 2 * (size - 1) - i)
