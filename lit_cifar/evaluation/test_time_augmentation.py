"""Test-time augmentation: the logits of an image are the mean over several views of it."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Views = Literal["none", "flip", "flip-shift"]


def mean_logits(net: Callable[[Tensor], Tensor], images: Tensor, views: Views, confidence: float = 1.0) -> Tensor:
    """Returns float32 logits `[N, C]` of images `[N, 3, H, W]`.

    `flip` is the mean over the image and its mirror image. `flip-shift` also takes both of them shifted by one pixel up
    and left and by one pixel down and right, six views in total as in airbench (arXiv 2404.00498); the unshifted views
    have half of the weight. An image whose class has at least the probability `confidence` in the first view gets no
    further views: with 0.6, the mean falls from six passes to two and a half.
    https://github.com/hiverge/cifar10-speedrun takes the least sure quarter instead, which depends on the other images.
    """
    logits = net(images).float()
    if views == "none":
        return logits
    unsure = torch.ones(len(images), dtype=torch.bool, device=images.device)
    if confidence < 1:
        unsure = logits.softmax(1).amax(1) < confidence
        if not unsure.any():
            return logits
    images, first = images[unsure], logits[unsure]
    mean = (first + net(images.flip(-1)).float()) / 2
    if views == "flip-shift":
        padded = F.pad(images, (1, 1, 1, 1), "reflect")
        shifted = [padded[..., :-2, :-2], padded[..., 2:, 2:]]
        mean = mean / 2 + sum(net(part).float() + net(part.flip(-1)).float() for part in shifted) / 8
    return logits.index_put((unsure,), mean)
