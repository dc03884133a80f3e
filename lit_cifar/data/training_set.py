"""What research does to a training set: fewer images, a long tail, wrong labels.

The images for validation are held out first, by their true classes, so they are the same whatever is done to the rest,
and keep their true labels. Then it is chosen which of the rest are trained on, also by their true classes, and at last
what labels these get. All of it depends on the seed and the index of an image alone, by hashes: it is the same on any
number of devices, and a smaller fraction is part of a larger one.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_cifar.data.augmentation import draw
from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.label_file import path_and_name, read_labels
from lit_cifar.errors import UsageError, require

BEFORE_TRAINING = -1  # the epoch in which is drawn; those of the augmentation begin at 0


class TrainingSet(NamedTuple):
    """What a network is trained on."""

    images: ImageSet
    """All training images of a data set, with the labels that they are trained with."""
    indices: Tensor
    """int64, ascending: the images that are trained on."""
    changed: int
    """How many of these have another label than their true one."""
    described: dict[str, Any]
    """What was done, in numbers and words, for the card."""


@dataclass(frozen=True)
class TrainingChanges:
    """What to do to a training set; by default nothing. CIFAR10DataModule explains the arguments."""

    fraction: float = 1.0
    imbalance: float = 1.0
    label_noise: float = 0.0
    train_labels: str | None = None

    def __post_init__(self) -> None:
        shares = {"fraction": self.fraction, "imbalance": self.imbalance}
        for name, share in shares.items():
            require(0 < share <= 1, f"--data.{name} {share} must be a share above 0, and at most 1 (all images)")
        fine = 0 <= self.label_noise < 1
        require(fine, f"--data.label_noise {self.label_noise} must be a share of the images, at least 0 and below 1")
        if self.train_labels is not None:
            path_and_name(self.train_labels)

    def __call__(self, images: ImageSet, indices: Tensor, seed: int) -> TrainingSet:
        """Does it to the images at these indices. Raises UsageError if labels don't fit them."""
        true, described = images.labels, vars(self) | {}
        labels = true.clone()
        if self.train_labels is not None:
            given = read_labels(self.train_labels, true, images.classes)
            labels[indices] = given[indices]
            # without its folder, which may be another when the training is resumed
            described["train_labels"] = f"{Path(self.train_labels).name}, CRC-32 {zlib.crc32(given.numpy().data):08x}"
        if self.fraction < 1 or self.imbalance < 1:
            indices = self._chosen(true, indices, len(images.classes), seed)
        if self.label_noise:
            classes = len(images.classes)
            if classes < 2:
                raise UsageError("value-invalid", "--data.label_noise needs a second class, and there is only one")
            order, other = draw(seed, BEFORE_TRAINING, indices, (1, 1 << 40, 1 << 40))[1:]
            noisy = order.argsort(stable=True)[: round(self.label_noise * len(indices))]
            labels[indices[noisy]] = (labels[indices] + 1 + other % (classes - 1))[noisy] % classes
        changed = int((labels[indices] != true[indices]).sum())
        return TrainingSet(images._replace(labels=labels), indices, changed, described)

    def _chosen(self, labels: Tensor, indices: Tensor, classes: int, seed: int) -> Tensor:
        """Returns those of the images that are trained on: of each class, the first in an order drawn by lot."""
        counts = labels[indices].bincount(minlength=classes).tolist()
        counts = [round(self.fraction * count) or min(1, count) for count in counts]
        most, last = max(counts), max(1, classes - 1)
        # rounded down as by Cui et al. (arXiv 1901.05555), but not what is a whole number up to its last digit
        tail = [max(1, int(most * self.imbalance ** (label / last) + 1e-9)) for label in range(classes)]
        left = torch.tensor([*map(min, counts, tail)])
        (order,) = draw(seed, BEFORE_TRAINING, indices, (1 << 40,))
        sorted_by_lot = indices[order.argsort(stable=True)]
        chosen = torch.zeros(len(labels), dtype=torch.bool)
        for label, count in enumerate(left.tolist()):
            chosen[sorted_by_lot[labels[sorted_by_lot] == label][:count]] = True
        return chosen.nonzero().flatten()


def held_out(labels: Tensor, classes: int, count: int, seed: int) -> Tensor:
    """Returns bool `[N]`: which of the images with these labels are held out, the same share of each class."""
    counts = torch.bincount(labels, minlength=classes)
    # each class's share of the count, rounded down, and one more for the classes that lose most by rounding
    shares = counts * count / len(labels)
    of_class = shares.floor().long()
    lost = (shares - of_class) * torch.where(counts - of_class > 1, 1, 1e-3)  # the only image of a class comes last
    of_class[lost.argsort(descending=True, stable=True)[: count - int(of_class.sum())]] += 1
    generator = torch.Generator().manual_seed(seed)
    validation = torch.zeros(len(labels), dtype=torch.bool)
    for label, size in enumerate(of_class.tolist()):
        members = (labels == label).nonzero().flatten()
        validation[members[torch.randperm(len(members), generator=generator)[:size]]] = True
    return validation
