"""Nets that are told of the training: shown its images before it begins, or how far it has come."""

from typing import Protocol, runtime_checkable

import pytorch_lightning as pl
from torch import Tensor, nn

from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.training.length import share_done

IMAGES = 5000  # that such a net is shown


@runtime_checkable
class Calibrated(Protocol):
    """A net some of whose weights are computed from images before training."""

    def calibrate(self, images: Tensor) -> None:
        """Is shown normalised images `[N, 3, H, W]`."""


@runtime_checkable
class Staged(Protocol):
    """A net that learns otherwise late in training than early."""

    def begin_epoch(self, done: float) -> None:
        """Is told which share of the training lies behind."""


def begin_epoch(net: nn.Module, trainer: pl.Trainer) -> None:
    """Tells a net that is `Staged` how far its training has come; leaves others alone."""
    if isinstance(net, Staged):
        net.begin_epoch(share_done(trainer, trainer.current_epoch))


def calibrate(net: nn.Module, datamodule: CIFAR10DataModule) -> None:
    """Shows training images, not augmented, to a net on the CPU that is `Calibrated`; leaves others alone."""
    if isinstance(net, Calibrated):
        loader = datamodule.train_dataloader()
        loader.augmentation = Augmentation()
        indices = datamodule.split()[0]  # of a folder, in the order of the classes: every one must have its share
        net.calibrate(loader.take(indices[:: max(1, len(indices) // IMAGES)])[0].cpu())
