"""ImageSet: labelled images in memory, the one form in which every source hands them on; and how a batch is shared."""

from typing import NamedTuple

from torch import Tensor

CIFAR10_CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class ImageSet(NamedTuple):
    """Labelled images as they are stored: bytes, not yet normalised."""

    images: Tensor
    """uint8 `[N, 3, 32, 32]`, RGB."""
    labels: Tensor
    """int64 `[N]`, indices into `classes`."""
    classes: tuple[str, ...]
    """Class names, in the order of the labels."""


def share(count: int, rank: int, world_size: int) -> slice:
    """The part of a batch of `count` that a rank takes: as even as can be, the first ranks one more."""
    each, more = divmod(count, world_size)
    first = rank * each + min(rank, more)
    return slice(first, first + each + (rank < more))
