"""Test-time augmentation: the logits of an image as the mean over several views of it."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Views = Literal["none", "flip", "flip-shift"]


def mean_logits(net: Callable[[Tensor], Tensor], images: Tensor, views: Views) -> Tensor:
    """float32 logits `[N, C]` of images `[N, 3, H, W]`.

    `flip` is the mean with the mirror image; `flip-shift` adds both, shifted by a pixel up and left, and down and
    right, which weigh half together: six passes, as in airbench (arXiv 2404.00498).
    """
    if views == "none":
        return net(images).float()
    logits = (net(images).float() + net(images.flip(-1)).float()) / 2
    if views == "flip-shift":
        padded = F.pad(images, (1, 1, 1, 1), "reflect")
        shifted = [mean_logits(net, part, "flip") for part in (padded[..., :-2, :-2], padded[..., 2:, 2:])]
        logits = logits / 2 + sum(shifted) / 4
    return logits
