"""MixUp and CutMix on whole batches: each image is mixed with a partner, and so is its label.

Partner, share and rectangle of an image depend on (seed, epoch, index of the image) alone, and the partner, taken from
all training images, is augmented as it is for itself in that epoch. So the device, the batch and interruptions make no
difference. Formulas are those of the papers (MixUp: arXiv 1710.09412, CutMix: arXiv 1905.04899) and of torchvision. As
in timm, an image gets one or the other if both are on.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lit_cifar.data.augmentation import MIXING, STEPS, Augmentation, draw, rectangles

QUANTILES = 2**16  # a share is one of this many, all equally likely


class Mix(NamedTuple):
    """How each image of a batch is mixed with its partner."""

    partners: Tensor
    """int64 `[N]`, the partners' data set indices."""
    blend: Tensor | None
    """float32 `[N]`, the image's share of each pixel outside the rectangle; None if all are 1."""
    box: tuple[Tensor, Tensor, Tensor, Tensor] | None
    """int64 `[N]` each: top, bottom, left and right of the rectangle that is the partner's; None if all are empty."""
    share: Tensor
    """float32 `[N]`, the image's share of the label; the rest is the partner's."""

    def images(self, images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Normalises and mixes; returns float32 `[N, 3, H, W]`.

        Args:
            images: uint8 `[2N, 3, H, W]`, the images and then their partners.
            scale: float32 `[2N or 1, 3, 1, 1]`, by which images are multiplied to normalise them.
            shift: The same, what is added then.
        """
        count, is_common = len(images) // 2, len(scale) == 1
        (images, others), (scale, other_scale), (shift, other_shift) = (
            each.expand(2 * count, -1, -1, -1).tensor_split(2) for each in (images, scale, shift)
        )
        if self.box is not None:
            inside = rectangles(*self.box, *images.shape[2:])
            images = images & ~inside | others & inside
            if not is_common:  # jitter is that of the image which a pixel is from
                scale, shift = (
                    torch.where(inside > 0, other, own) for own, other in ((scale, other_scale), (shift, other_shift))
                )
        if self.blend is None:
            return images.float().mul_(scale).add_(shift)
        own = self.blend[:, None, None, None]
        rest = 1 - own  # numbers per image are multiplied first: a quarter of the time of mixing normalised images
        mixed = images.float().mul_(scale * own).add_(shift * own + other_shift * rest)
        return mixed.add_(others.float().mul_(other_scale * rest))

    def labels(self, labels: Tensor, partners: Tensor, classes: int) -> Tensor:
        """Returns float32 `[N, classes]`, the probabilities of the classes, from int64 `[N]` each."""
        each, share = torch.arange(classes, device=labels.device), self.share[:, None]
        return share * (labels[:, None] == each) + (1 - share) * (partners[:, None] == each)


def draw_mix(
    augmentation: Augmentation, indices: Tensor, candidates: Tensor, seed: int, epoch: int, height: int, width: int
) -> Mix:
    """Returns how to mix images of these data set indices, int64 `[N]`, with partners among the candidates."""
    below = STEPS, 2, len(candidates), QUANTILES, height, width
    chance, switch, partner, quantile, y, x = draw(seed, epoch, indices, below, MIXING)
    mixes = chance < augmentation.mix_probability * STEPS
    cuts = mixes & (switch == 1) if augmentation.mixup else mixes
    share, blend, box = torch.ones(len(indices), device=indices.device), None, None
    if augmentation.mixup:
        blends = mixes & ~cuts if augmentation.cutmix else mixes
        share = blend = torch.where(blends, shares(augmentation.mixup, indices.device)[quantile], 1.0)
    if augmentation.cutmix:
        high, wide = (
            _half_sides(augmentation.cutmix, side, indices.device)[quantile] * cuts for side in (height, width)
        )
        top, bottom = (y - high).clamp(min=0), (y + high).clamp(max=height)
        left, right = (x - wide).clamp(min=0), (x + wide).clamp(max=width)
        box = top, bottom, left, right
        share = torch.where(cuts, 1 - (bottom - top) * (right - left) / (height * width), share)
    return Mix(candidates[partner], blend, box, share)


@lru_cache(maxsize=4)
def shares(alpha: float, device: torch.device) -> Tensor:
    """Returns float32 `[QUANTILES]`: the quantiles of Beta(alpha, alpha) in the middles of as many equal parts.

    With x = 1 / (1 + exp(-t)), the density of t is a constant times cosh(t/2)^(-2 alpha): smooth for every alpha. It is
    summed by the trapezoidal rule from where x counts as 0, or where nothing is left, to the middle, and inverted.
    """
    reach = min(40.0, 12 * math.sqrt(2 / alpha))  # 1 / (1 + exp(40)) is 4e-18; sqrt(2 / alpha) the standard deviation
    t = np.linspace(-reach, 0, 2**16 + 1)
    density = np.exp(-alpha * (2 * np.log1p(2 * np.sinh(t / 4) ** 2)))
    # what lies before is density[0] / alpha, as exp(alpha * t) has it
    below = np.append(0, np.cumsum((density[1:] + density[:-1]) / 2)) * (alpha * reach / 2**16) + density[0]
    middles = (np.arange(QUANTILES // 2) + 0.5) / QUANTILES
    lower = 1 / (1 + np.exp(-np.interp(middles, below / below[-1] / 2, t)))
    return torch.from_numpy(np.concatenate((lower, 1 - lower[::-1]))).float().to(device)


@lru_cache(maxsize=8)
def _half_sides(alpha: float, side: int, device: torch.device) -> Tensor:
    """Returns int64 `[QUANTILES]`: half the side of CutMix's rectangle for each of the shares, rounded down."""
    return (0.5 * (1 - shares(alpha, torch.device("cpu")).double()).sqrt() * side).long().to(device)
