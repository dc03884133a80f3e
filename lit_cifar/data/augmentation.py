"""Random flips, crops, TrivialAugment, cutouts, erasing and jitter, on whole batches; mixing.py mixes what results.

What is done to an image depends on (seed, epoch, index of the image) alone: random numbers are hashes of these three,
not taken from a generator with a state. So the device, the batch and interruptions make no difference.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from lit_cifar.data.trivial_augment import SETTINGS, trivial_augment
from lit_cifar.errors import UsageError, require

STEPS = 2**20  # a random number in a range is one of this many
SCALES, RATIOS = (0.02, 0.33), (0.3, 3.3)  # of random erasing: shares of the image, and heights over widths
ERASING, MIXING, TRIVIAL = 16, 24, 40  # where the random numbers of erasing, mixing and TrivialAugment begin


def draw(seed: int, epoch: int, indices: Tensor, below: Sequence[int], first: int = 0) -> list[Tensor]:
    """Returns for each i a uniform number in `[0, below[i])` per image, int64 `[N]`, the same on every device.

    The number is a hash of (seed, epoch, first + i, index), by two rounds of SplitMix64's finalizer (Steele, Lea,
    Flood, "Fast splittable pseudorandom number generators", 2014). With `below` up to 2^20, the bias is under 2^-20.
    """
    # made on the device: a copy would wait for the GPU
    streams = torch.arange(first, first + len(below), device=indices.device)
    keys = _mix(_mix(torch.tensor(seed) * 0x9E3779B1 + epoch) * 8 + streams)
    numbers = _mix(_mix(indices + keys[:, None])) >> 20 & 0xFFFFFFFFFF
    return [row % limit for row, limit in zip(numbers, below, strict=True)]


def _mix(x: Tensor) -> Tensor:
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47  # int64 wraps around; the mask makes >> a logical shift
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & 0x1FFFFFFFF)


@dataclass(frozen=True)
class Augmentation:
    """What to do to each training image. Everything is off by default.

    The order is: transform, flip and crop, TrivialAugment, cutout, erase; then the image is normalised and jittered,
    and in the end mixed with a partner to which the same was done.
    """

    flip: bool | Literal["alternate"] = False
    """Mirror half of the images; `alternate` mirrors each image every second epoch (airbench, arXiv 2404.00498)."""
    crop: int = 0
    """Pad each side by this many pixels, by reflection, and crop a random window of the original size."""
    cutout: int = 0
    """Side in pixels of a grey square that covers a random place (DeVries, Taylor, arXiv 1708.04552)."""
    transform: Callable[[Tensor], Tensor] | None = None
    """Called with uint8 `[3, H, W]` of each image, before the others, with torch seeded by (seed, epoch, index)."""
    jitter: float = 0.0
    """Change brightness and contrast: add up to ± this to the normalised values of an image, then multiply them by 1 ±
    up to this (https://github.com/hiverge/cifar10-speedrun). BatchLoader applies it, since it normalises."""
    erase: float = 0.0
    """Probability that a random rectangle is filled with the mean colour (random erasing, arXiv 1708.04896)."""
    mixup: float = 0.0
    """Mix each image with another by a share from Beta(alpha, alpha), with this alpha (arXiv 1710.09412)."""
    cutmix: float = 0.0
    """Paste a rectangle of another image, of a share from Beta(alpha, alpha), with this alpha (arXiv 1905.04899)."""
    mix_probability: float = 1.0
    """Probability that an image is mixed. With both MixUp and CutMix, half of the mixed images get either."""
    mix_until: float = 1.0
    """Share of the training after which nothing is mixed. LitClassifier tells BatchLoader, which mixes."""
    trivial_augment: bool = False
    """Apply one of 14 operations of random strength (TrivialAugmentWide, arXiv 2103.10158), after flip and crop."""

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            wanted = "the alpha of a Beta distribution, a finite number above 0, or 0 for none"
            require(0 <= alpha < math.inf, f"--data.{name} {alpha} must be {wanted}")
        for name in ("erase", "mix_probability", "mix_until"):
            require(0 <= getattr(self, name) <= 1, f"--data.{name} {getattr(self, name)} must be between 0 and 1")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed at all, so that labels are probabilities."""
        return bool((self.mixup or self.cutmix) and self.mix_probability and self.mix_until)

    def __call__(
        self, images: Tensor, indices: Tensor, seed: int, epoch: int, mean_colour: Tensor | int = 128
    ) -> Tensor:
        """Augments uint8 `[N, 3, H, W]` images, without jitter and mixing.

        Args:
            images: Images as stored.
            indices: int64 `[N]`, their data set indices.
            seed: The seed of all random numbers.
            epoch: The epoch.
            mean_colour: uint8 `[3, 1, 1]`, with which `erase` fills; by default, grey.
        """
        if self == Augmentation() or not len(images):
            return images
        windows, (height, width) = 2 * self.crop + 1, images.shape[2:]
        below = 2, windows, windows, height, width, 1 << 40
        mirrored, down, right, centre_y, centre_x, seeds = draw(seed, epoch, indices, below)
        if self.flip == "alternate":
            mirrored = draw(seed, 0, indices, (2,))[0] ^ (epoch & 1)
        if self.transform is not None:
            images = self._transformed(images, seeds)
        if self.flip or self.crop:
            rows = _windows(self.crop, height, images.device).index_select(0, down)
            columns = _windows(self.crop, width, images.device)
            columns = columns.index_select(0, right + mirrored * windows if self.flip else right)
            pixels = (rows[:, :, None] * width + columns[:, None]).flatten(1)
            images = images.flatten(2).gather(2, pixels[:, None].expand(-1, images.shape[1], -1)).view_as(images)
        if self.trivial_augment:
            (settings,) = draw(seed, epoch, indices, (SETTINGS,), TRIVIAL)
            images = trivial_augment(images, settings, grouped=images.device.type == "cpu")
        if self.cutout:
            rows = _spans(self.cutout, height, images.device).index_select(0, centre_y)
            columns = _spans(self.cutout, width, images.device).index_select(0, centre_x)
            square = (rows[:, :, None] & columns[:, None])[:, None]
            images = images & ~square | square & 128  # a third of the time of masked_fill
        if self.erase:
            inside = self._erased(indices, seed, epoch, height, width)
            images = images & ~inside | inside & mean_colour
        return images

    def _erased(self, indices: Tensor, seed: int, epoch: int, height: int, width: int) -> Tensor:
        """Returns uint8 `[N, 1, H, W]`: 255 inside the rectangle of each image, which may be none, and 0 outside."""
        chance, size, down, right = draw(seed, epoch, indices, (STEPS, 1 << 40, 1 << 40, 1 << 40), ERASING)
        sizes = _erased_sizes(height, width, indices.device)
        high, wide = sizes.index_select(0, size % len(sizes)).unbind(1)
        top, left = down % (height - high + 1), right % (width - wide + 1)
        high = high * (chance < self.erase * STEPS)
        return rectangles(top, top + high, left, left + wide, height, width)

    def draw_jitter(self, indices: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Returns the offset and the factor of each image's normalised values, float32 `[N, 1, 1, 1]` each."""
        numbers = draw(seed, epoch, indices, (1,) * 6 + (STEPS, STEPS))[6:]  # __call__ uses the first six
        offset, factor = (self.jitter * (2 / (STEPS - 1) * each.float() - 1)[:, None, None, None] for each in numbers)
        return offset, 1 + factor

    def _transformed(self, images: Tensor, seeds: Tensor) -> Tensor:
        assert self.transform is not None
        out = []
        with torch.random.fork_rng(devices=[]):
            for image, image_seed in zip(images.cpu(), seeds.tolist(), strict=True):
                torch.default_generator.manual_seed(image_seed)  # torch.manual_seed would seed the GPU too
                out.append(self.transform(image))
                found, wanted = (f"{each.dtype} {list(each.shape)}" for each in (out[-1], image))
                if found != wanted:
                    raise UsageError("transform-unfit", f"--data.transform must return {wanted}, not {found}")
        return torch.stack(out).to(images.device)


@lru_cache(maxsize=4)  # rows and columns, of two settings
def _windows(crop: int, size: int, device: torch.device) -> Tensor:
    """Returns int64 `[2 * (2 * crop + 1), size]`: the rows or columns of each window, then of each mirrored window."""
    x = (torch.arange(size, device=device) + torch.arange(2 * crop + 1, device=device)[:, None] - crop).abs()
    x = x.minimum(2 * size - 2 - x)  # -2 to 5 of 4 pixels: 2 1 | 0 1 2 3 | 2 1
    return torch.cat((x, size - 1 - x))


@lru_cache(maxsize=4)
def _spans(side: int, size: int, device: torch.device) -> Tensor:
    """Returns uint8 `[size, size]`: 255 for the rows, or columns, of the square around each centre, 0 for others."""
    places = torch.arange(size, device=device)
    distance = places - places[:, None] + side // 2
    return ((distance >= 0) & (distance < side)).byte() * 255


@lru_cache(maxsize=4)
def _erased_sizes(height: int, width: int, device: torch.device) -> Tensor:
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
    """Returns uint8 `[N, 1, H, W]`: 255 inside one rectangle per image, without its `bottom` and `right`; 0 outside."""
    spans = (height, top[:, None], bottom[:, None]), (width, left[:, None], right[:, None])
    places = ((torch.arange(size, device=top.device), first, last) for size, first, last in spans)
    # bytes, because torch is three times as slow with bool
    rows, columns = (((place >= first) & (place < last)).byte() * 255 for place, first, last in places)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
