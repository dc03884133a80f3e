"""Random flips, crops and cut-outs on whole batches.

What is done to an image is a function of (seed, epoch, index of that image) alone: the numbers are drawn by hashing
those three, not from a generator whose state depends on what came before. So it does not matter on which device, in
which batch or after how many interruptions an image is augmented. No Python work per image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FLIP, CROP_Y, CROP_X, CUT_Y, CUT_X, TRANSFORM = range(6)  # one stream of numbers for each use


def draw(seed: int, epoch: int, indices: Tensor, stream: int, below: int) -> Tensor:
    """One uniform number in `[0, below)` for each image: int64 `[N]`, the same on every device.

    A hash of (seed, epoch, stream, index) by two rounds of SplitMix64's finalizer (Steele, Lea, Flood, "Fast
    splittable pseudorandom number generators", 2014). `below` up to 2^20 keeps the bias under 2^-20.
    """
    key = _mix(_mix(torch.tensor(seed) * 0x9E3779B1 + epoch) * 8 + stream)
    return (_mix(_mix(indices + key.to(indices.device))) >> 20 & 0xFFFFFFFFFF) % below


def _mix(x: Tensor) -> Tensor:
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47  # int64 wraps round; the mask makes >> a logical shift
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & 0x1FFFFFFFF)


@dataclass(frozen=True)
class Augmentation:
    """What to do to each training image, in this order; all off by default."""

    flip: bool = False
    """Mirror half of the images."""
    crop: int = 0
    """Pad by this many pixels on each side, reflected, and cut a window of the old size out at random."""
    cutout: int = 0
    """Side in pixels of a square of mean colour put at a random place (DeVries, Taylor, arXiv 1708.04552)."""
    transform: Callable[[Tensor], Tensor] | None = None
    """A transform of your own, torchvision's v2 for instance: takes and returns uint8 `[3, H, W]`. It is called
    image by image, under a seed that depends on (seed, epoch, index), before the others: exact, but slow."""

    def __call__(self, images: Tensor, indices: Tensor, seed: int, epoch: int) -> Tensor:
        """Augments uint8 `[N, 3, H, W]` images; `indices` are their int64 `[N]` places in the data set."""
        if not len(images):
            return images
        if self.transform is not None:
            images = self._transformed(images, indices, seed, epoch)
        if self.flip:
            mirrored = draw(seed, epoch, indices, FLIP, 2).bool()
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if self.crop:
            images = self._cropped(images, indices, seed, epoch)
        if self.cutout:
            images = self._cut(images, indices, seed, epoch)
        return images

    def _transformed(self, images: Tensor, indices: Tensor, seed: int, epoch: int) -> Tensor:
        assert self.transform is not None
        seeds = draw(seed, epoch, indices, TRANSFORM, 1 << 40).tolist()
        out = []
        with torch.random.fork_rng(devices=[]):
            for image, image_seed in zip(images.cpu(), seeds, strict=True):
                torch.manual_seed(image_seed)
                out.append(self.transform(image))
        return torch.stack(out).to(images.device)

    def _cropped(self, images: Tensor, indices: Tensor, seed: int, epoch: int) -> Tensor:
        """Cuts windows out of the padded images. One gather over a strided view: no copy of the 81 windows."""
        n, _, height, width = images.shape
        pad, places = self.crop, 2 * self.crop + 1
        rows, columns = _reflected(height, pad, images.device), _reflected(width, pad, images.device)
        padded = images[:, :, rows][:, :, :, columns]
        windows = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
        y, x = (draw(seed, epoch, indices, stream, places) for stream in (CROP_Y, CROP_X))
        return windows[torch.arange(n, device=images.device), y, x]

    def _cut(self, images: Tensor, indices: Tensor, seed: int, epoch: int) -> Tensor:
        """The square's centre is uniform over the image, so that it may stick out, as in the paper."""
        height, width = images.shape[2:]
        centre_y, centre_x = draw(seed, epoch, indices, CUT_Y, height), draw(seed, epoch, indices, CUT_X, width)
        top, left = centre_y - self.cutout // 2, centre_x - self.cutout // 2
        y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        in_rows = (y >= top[:, None]) & (y < top[:, None] + self.cutout)
        in_columns = (x >= left[:, None]) & (x < left[:, None] + self.cutout)
        square = (in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1)
        return images.masked_fill(square, 128)


def _reflected(size: int, pad: int, device: torch.device) -> Tensor:
    """Indices of a row padded by reflection: pad 2 of 4 pixels gives 2 1 | 0 1 2 3 | 2 1."""
    i = torch.arange(-pad, size + pad, device=device).abs()
    return torch.where(i < size, i, 2 * (size - 1) - i)
