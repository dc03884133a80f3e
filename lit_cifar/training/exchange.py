"""The exchange of a small net's gradients between processes, as one message.

DistributedDataParallel begins to send while the backward pass still runs, which pays for large nets. One whose
gradient fits its first message gains nothing by that, and pays for its threads, hooks and copies: 5 ms of a step of 36
on two cores.
"""

from collections.abc import Iterable

import torch
from torch import nn

SMALL = 2**20  # bytes, DistributedDataParallel's first message


class Exchange:
    """Makes every process's gradient that of the whole batch.

    Args:
        weights: of net and loss, the same on every process.
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self._weights = [weight for weight in weights if weight.requires_grad]

    def __call__(self, share: float) -> None:
        """Sums the gradients of all processes, each weighted by its share of the images; the shares' sum is 1."""
        weights = [weight for weight in self._weights if weight.grad is not None]
        flat = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None]).mul_(share)
        torch.distributed.all_reduce(flat)
        for weight, gradient in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
            weight.grad = gradient.view_as(weight)


def is_small(net: nn.Module) -> bool:
    """Whether its gradient is one small message, and nothing else has to be told, such as what its buffers hold."""
    return not list(net.buffers()) and sum(weight.nbytes for weight in net.parameters()) <= SMALL
