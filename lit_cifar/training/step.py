"""One step of training: forward, loss, backward, optimizer.

A batch is shared out over processes, and each share goes through the network in slices. `LitClassifier.training_step`,
for Lightning's own loop, `DirectStep` and `RecordedStep` (recorded.py) all weigh and count shares as written here: the
loss of a batch is the sum over its shares of their mean loss, times what that divides by, divided by the same of the
whole batch.

Slices of 250 stay in the cache of a CPU; at batch 2,000, moving activations to memory takes a third of the time. Batch
normalization sees one slice at a time ("ghost batches", Hoffer et al., arXiv 1705.08741), over all processes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lit_cifar.data.loader import evenly, share_sizes
from lit_cifar.training.batch_norm import WholeBatchNorm

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # of a torch.nn.Module
FIRST_MESSAGE = 2**20  # bytes of gradients that DistributedDataParallel sends first


class Share(NamedTuple):
    """The part of a batch that one process trains on."""

    images: Tensor  # `[n, 3, H, W]`; n may be 0
    labels: Tensor  # int64 `[n]` or, of mixed images, probabilities, float32 `[n, C]`
    sizes: list[int]  # images in each slice, perhaps 0; all processes take the same number of slices
    whole: int  # images in the batch, over all processes
    divisor: int | Tensor  # of the loss of the whole batch
    processes: int = 1
    sync_batchnorm: bool = False  # whether batch normalization sees a slice's images on all processes


def take_share(
    batch: Batch, whole: Tensor, loss: Loss, slice_size: int = 0, rank: int = 0, processes: int = 1
) -> Share:
    """Makes a Share of the images and labels, perhaps none, that this process has loaded.

    Args:
        batch: Images and labels of this process, as BatchLoader gives them.
        whole: Labels of the batch, over all processes.
        loss: What is minimised.
        slice_size: Largest number of images that go through the network at once, over all processes; 0 for no limit.
        rank: The rank of this process.
        processes: The number of processes.
    """
    sizes = [size[rank] for size in share_sizes(len(whole), slice_size, processes)]
    return Share(*batch, sizes, len(whole), divisor(loss, whole), processes)


class Fewest(NamedTuple):
    """How few images of a batch go through a network at once."""

    normalized: int  # by the same mean and variance
    on_a_process: int


def fewest_images(batch: int, slice_size: int, processes: int, sync_batchnorm: bool) -> Fewest:
    """Returns the Fewest of a batch of so many images, over all its slices and shares."""
    slices = share_sizes(batch, slice_size, processes)
    share = max(1, min(chain(*slices)))  # a process without an image takes a black one
    return Fewest(min(map(sum, slices)) if sync_batchnorm else share, share)


def own_share(batch: Batch, labels: Sequence[Tensor], loss: Loss, slice_size: int = 0) -> Share:
    """Makes a Share of a batch that is not from BatchLoader, such as a DataLoader's.

    Args:
        batch: Images and labels of this process.
        labels: Those of each process, which together are the whole batch.
        loss: What is minimised.
        slice_size: As for `take_share`.
    """
    whole, most = torch.cat([*labels]), max(len(each) for each in labels)
    slices = len(share_sizes(most * len(labels), slice_size, 1))
    images, own = batch
    return Share(images, own, evenly(len(own), slices), len(whole), divisor(loss, whole), len(labels))


def divisor(loss: Loss, labels: Tensor) -> int | Tensor:
    """Returns what the mean loss of images with these labels divides by.

    That is their number, except for torch's cross-entropy and negative log-likelihood: they divide by the sum of the
    images' class weights, with label smoothing too, and leave out the label `ignore_index`. If labels are
    probabilities, torch's cross-entropy divides by the number of images, whatever their weights.
    """
    weight, ignored = None, -1
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        if type(loss).forward in (nn.CrossEntropyLoss.forward, nn.NLLLoss.forward):
            weight, ignored = loss.weight, loss.ignore_index
    elif isinstance(loss, partial) and loss.func in (F.cross_entropy, F.nll_loss):
        weight, ignored = loss.keywords.get("weight"), loss.keywords.get("ignore_index", -1)
    if labels.is_floating_point() or (weight is None and ignored < 0):
        return len(labels)
    counted = labels != ignored
    return (counted if weight is None else weight[labels] * counted).sum()


def moved(loss: Loss, device: torch.device) -> Loss:
    """Returns a loss whose class weights are on a device, if it is a `functools.partial`; Lightning moves modules."""
    if not isinstance(loss, partial):
        return loss
    weights = {name: each for name, each in loss.keywords.items() if isinstance(each, Tensor) and each.device != device}
    return partial(loss, **{name: each.to(device) for name, each in weights.items()}) if weights else loss


def mean_loss(loss: Loss, logits: Tensor, labels: Tensor) -> tuple[Tensor, int | Tensor]:
    """Returns the mean loss and what it divides by; both are 0 if no image counts."""
    by = divisor(loss, labels)
    if isinstance(by, int):
        return loss(logits, labels), by
    some = by > 0  # 0 / 0 is NaN, and so is its gradient
    return torch.where(some, loss(torch.where(some, logits, 0), labels), 0), by


@torch.no_grad()
def count(loss: Tensor, by: int | Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Returns `[2]`: the sum of the losses, whose mean divides it `by` this, and the number of correct predictions."""
    return torch.stack((loss.float() * by, (logits.argmax(1) == hard(labels)).sum()))


def hard(labels: Tensor) -> Tensor:
    """Returns the most probable class of each image, int64 `[N]`, from labels or probabilities."""
    return labels.argmax(1) if labels.is_floating_point() else labels


def slice_losses(
    share: Share, net: nn.Module, loss: Loss, context: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields for each slice of a share its part of the loss of the whole batch, and its `count`.

    These parts, of all slices and processes, add up to the loss. If a slice has no image, a black one goes through the
    network and counts as 0: every process must exchange gradients.
    """
    for images, labels in zip(share.images.split(share.sizes), share.labels.split(share.sizes), strict=True):
        norm = WholeBatchNorm(bool(len(labels))) if share.sync_batchnorm else nullcontext()
        with context(), norm:
            if len(labels):
                logits = net(images)
                mean, by = mean_loss(loss, logits, labels)
                part, counts = mean * _ratio(by, share.divisor), count(mean, by, logits, labels)
            else:
                part, counts = 0 * net(images.new_zeros(1, *images.shape[1:])).sum(), images.new_zeros(2)
                for weight in loss.parameters() if isinstance(loss, nn.Module) else ():
                    part = part + 0 * weight.sum()
        yield part, counts


def _ratio(by: int | Tensor, whole: int | Tensor) -> float | Tensor:
    return by / whole if isinstance(whole, int) else torch.nan_to_num(by / whole)  # 0 if no image of a batch counts


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

    def __call__(self, weight: float = 1.0) -> None:
        """Replaces the gradients by their sum over all processes, each times a weight of its own.

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
    loss: Loss  # mean loss of images
    optimizer: torch.optim.Optimizer
    exchange: GradientExchange | None = None  # with other processes
    context: Callable[[], AbstractContextManager[None]] = nullcontext  # of forward passes, such as autocast

    def serves(self, net: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer) -> bool:
        """Returns whether it trains this network by this loss and optimizer."""
        return self.net is net and self.loss is loss and self.optimizer is optimizer

    def __call__(self, share: Share) -> tuple[Tensor, Tensor]:
        """Trains on a share; returns a loss whose mean over the processes is that of the batch, and its `count`."""
        loss, counts = self.backward(share)
        self.optimizer.step()
        return loss, counts

    def backward(self, share: Share) -> tuple[Tensor, Tensor]:
        """Computes the gradient of the loss of the whole batch; returns the same as `__call__`."""
        self.optimizer.zero_grad()
        counts = torch.zeros(2, device=share.images.device)
        for part, counted in slice_losses(share, self.net, self.loss, self.context):
            part.backward()
            counts += counted
        if self.exchange is not None:
            self.exchange(1.0 if len(share.labels) else 0.0)
        return counts[0] * share.processes / share.divisor, counts


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Lets torch compute with so many threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
