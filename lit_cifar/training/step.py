"""A step without Lightning's part in it: forward, backward, and the optimizer; of large batches slice by slice.

A convolutional net at batch 2,000 spends a third of its time moving activations to memory and back; slices of 250
stay in the cache and save most of that. Batch normalisation sees a slice at a time ("ghost batches", Hoffer et al.,
arXiv 1705.08741).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from lit_cifar.training.exchange import Exchange
from lit_cifar.training.recorded import count


def slices(images: int, size: int) -> int:
    """The number of slices of a batch: as even as can be, for a small rest would be a poor sample of the batch."""
    return -(-images // size) if size else 1


class SlicedStep:
    """Computes loss and gradients slice by slice, and lets the optimizer step.

    Args:
        net: turns images `[N, 3, H, W]` into logits `[N, C]`.
        loss: mean loss of logits and labels `[N]`.
        optimizer: any that steps without a closure.
        size: images in a slice, at most.
        context: of forward passes, such as autocast.
        exchange: of gradients with other processes.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        size: int,
        context: Callable[[], AbstractContextManager[None]],
        exchange: Exchange | None = None,
    ) -> None:
        self._net, self._loss, self._optimizer = net, loss, optimizer
        self._size, self._context, self._exchange = size, context, exchange

    def __call__(self, images: Tensor, labels: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Trains on `share` of a batch: its mean loss, and `[2]` the sum of losses and the number of right answers."""
        self._optimizer.zero_grad()
        counts = torch.zeros(2, device=images.device)
        number = slices(len(labels), self._size)
        for part, part_labels in zip(images.tensor_split(number), labels.tensor_split(number), strict=True):
            with self._context():
                logits = self._net(part)
                loss = self._loss(logits, part_labels)
            (loss * (len(part_labels) / len(labels))).backward()
            counts += count(loss, logits, part_labels)
        if self._exchange is not None:
            self._exchange(share)
        self._optimizer.step()
        return counts[0] / len(labels), counts
