"""One step of training: forward, loss, backward, optimizer.

A batch is shared out over processes, and each share goes through the network in slices. `LitClassifier.training_step`,
for Lightning's own loop, `DirectStep` and `RecordedStep` (recorded.py) all weigh and count shares as written here.

Slices of 250 stay in the cache of a CPU; at batch 2,000, moving activations to memory takes a third of the time. Batch
normalisation sees one slice at a time ("ghost batches", Hoffer et al., arXiv 1705.08741).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # of a torch.nn.Module
FIRST_MESSAGE = 2**20  # bytes of gradients that DistributedDataParallel sends first


class Share(NamedTuple):
    """The part of a batch that one process trains on."""

    images: Tensor  # `[n, 3, H, W]`; a single black image if it is empty: every process must exchange gradients
    labels: Tensor  # int64 `[n]`
    mine: int  # images in the share; 0 if it is empty
    whole: int  # images in the batch, over all processes
    slices: int  # parts in which the images go through the network

    def weight(self, processes: int = 1) -> float:
        """Returns the weight of the share's mean loss; pass the number of processes if gradients are averaged."""
        return self.mine * processes / self.whole


def take_share(batch: Batch, whole: int, processes: int = 1, slice_size: int = 0) -> Share:
    """Makes a Share of the images and labels, perhaps none, of a batch of `whole` images that this process has loaded.

    Slices have at most `slice_size` images, 0 for a single slice. They are as even as possible, because a small one
    would be a poor sample of the batch. All processes take the same number of them.
    """
    images, labels = batch
    mine = len(labels)
    if not mine:
        images, labels = images.new_zeros(1, *images.shape[1:]), labels.new_zeros(1)
    slices = min(len(labels), ceil(ceil(whole / processes) / slice_size)) if slice_size else 1
    return Share(images, labels, mine, whole, slices)


@torch.no_grad()
def count(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Returns `[2]`: the sum of the losses, and the number of correct predictions."""
    return torch.stack((loss.float() * len(labels), (logits.argmax(1) == labels).sum()))


class GradientExchange:
    """Makes the gradient of every process that of the whole batch, with one message.

    DistributedDataParallel sends during the backward pass, which pays for large networks. If all gradients fit into its
    first message, it only costs threads, hooks and copies: 5 ms of a step of 36 ms on two cores.
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:  # of network and loss, the same on every process
        self._weights = [*weights]

    @staticmethod
    def serves(net: nn.Module) -> bool:
        """Returns whether `net` has few weights, and no buffers to keep the same everywhere."""
        return not list(net.buffers()) and sum(weight.nbytes for weight in net.parameters()) <= FIRST_MESSAGE

    def __call__(self, weight: float) -> None:
        """Replaces the gradients by their sum over all processes, each times the weight of its share.

        A callback may freeze or unfreeze a weight at any step, on every process alike.
        """
        weights = [each for each in self._weights if each.grad is not None]
        flat = torch.cat([each.grad.flatten() for each in weights if each.grad is not None])
        flat = flat.mul_(weight) if weight else flat.zero_()  # the loss of a black image may be NaN, and NaN * 0 is NaN
        torch.distributed.all_reduce(flat)
        for each, gradient in zip(weights, flat.split([each.numel() for each in weights]), strict=True):
            each.grad = gradient.view_as(each)


@dataclass(eq=False)
class DirectStep:
    """A step without Lightning's part in it, with any optimizer that steps without a closure."""

    net: nn.Module  # turns images `[N, 3, H, W]` into logits `[N, C]`
    loss: Loss  # mean of a batch
    optimizer: torch.optim.Optimizer
    exchange: GradientExchange | None = None  # with other processes
    context: Callable[[], AbstractContextManager[None]] = nullcontext  # of forward passes, such as autocast

    def serves(self, net: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer) -> bool:
        """Returns whether it trains this network by this loss and optimizer."""
        return self.net is net and self.loss is loss and self.optimizer is optimizer

    def __call__(self, share: Share) -> tuple[Tensor, Tensor]:
        """Trains on a share; returns its mean loss and its `count`."""
        loss, counts = self.backward(share)
        if self.exchange is not None:
            self.exchange(share.weight())
        self.optimizer.step()
        return loss, counts

    def backward(self, share: Share) -> tuple[Tensor, Tensor]:
        """Computes the gradient of the share's mean loss, slice by slice; returns the loss and its `count`."""
        self.optimizer.zero_grad()
        counts = torch.zeros(2, device=share.images.device)
        slices = (tensor.tensor_split(share.slices) for tensor in (share.images, share.labels))
        for images, labels in zip(*slices, strict=True):
            with self.context():
                logits = self.net(images)
                loss = self.loss(logits, labels)
            (loss * (len(labels) / len(share.labels))).backward()
            counts += count(loss, logits, labels)
        return counts[0] / len(share.labels), counts


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Lets torch compute with so many threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
