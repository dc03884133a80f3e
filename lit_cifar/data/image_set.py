"""ImageSet: labelled images in memory, the form in which every source returns them."""

from typing import NamedTuple

from torch import Tensor

CIFAR10_CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class ImageSet(NamedTuple):
    """Labelled images as stored: bytes, not yet normalised."""

    images: Tensor
    """uint8 `[N, 3, H, W]`, RGB."""
    labels: Tensor
    """int64 `[N]`, indices into `classes`."""
    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
