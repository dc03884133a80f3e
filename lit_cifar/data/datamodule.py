"""CIFAR10DataModule: hands images, as batches on the device, to Lightning."""

import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.cifar import MIRRORS
from lit_cifar.data.loader import BatchLoader
from lit_cifar.data.sources import Dataset, Images, open_images
from lit_cifar.errors import UsageError

LARGEST = 1e6  # of a mean, or a standard deviation or its inverse


class CIFAR10DataModule(pl.LightningDataModule):
    """CIFAR-10, a folder of pictures laid out like it, or drawn stand-ins.

    Args:
        root: Folder with cifar-10-batches-py/, cifar-10-python.tar.gz, or train/<class>/ and test/<class>/ with PNG or
            JPEG files; where it is empty or missing, CIFAR-10 is downloaded into it.
        dataset: real (what lies in the root, else CIFAR-10, downloaded), drawn (ten classes drawn by code) or auto
            (real, but drawn where nothing is there and nothing can be downloaded).
        batch_size: Images in a training batch, over all devices together.
        eval_batch_size: Images in a batch of validation, test and prediction, over all devices together.
        val_size: Training images held out for validation, the same share of each class, chosen by the seed; 0 for none.
        mean: Mean of each channel, of values between 0 and 1, subtracted from the images.
        std: Standard deviation of each channel by which the images are divided.
        flip: Mirror half of the training images; alternate mirrors each in every second epoch.
        crop: Pad training images by this many pixels (reflected) and crop them at random to their size; 0 for none.
        cutout: Side in pixels of a square cut out of each training image at random; 0 for none.
        jitter: Add up to this to all normalised values of a training image, then multiply them by up to this more or
            less than 1: other light, other contrast; 0 for none.
        transform: A transform of training images of your own, such as one of torchvision.transforms.v2: takes and
            returns uint8 [3, H, W], one image at a time, so it is slower than the above.
        mirrors: URL of cifar-10-python.tar.gz, or several, tried in this order.
        seed: Of the held-out images, the order and the augmentation (on the command line: --seed_everything).
    """

    def __init__(
        self,
        root: str = "data",
        dataset: Dataset = "real",
        batch_size: int = 4,
        eval_batch_size: int = 250,
        val_size: int = 5000,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        flip: bool | Literal["alternate"] = False,
        crop: int = 0,
        cutout: int = 0,
        jitter: float = 0.0,
        transform: nn.Module | Callable[[Tensor], Tensor] | None = None,
        mirrors: str | Sequence[str] = MIRRORS,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _require(batch_size >= 1, f"--data.batch_size {batch_size} must be at least 1")
        _require(eval_batch_size >= 1, f"--data.eval_batch_size {eval_batch_size} must be at least 1")
        _require(str(root) != "", "--data.root is empty; name the folder of the images")
        _require(val_size >= 0, f"--data.val_size {val_size} must be 0 or more")
        _require(0 <= crop < 32, f"--data.crop {crop} must be between 0 and 31 pixels")
        _require(0 <= cutout <= 64, f"--data.cutout {cutout} must be between 0 and 64 pixels")
        _require(0 <= jitter < 1, f"--data.jitter {jitter} must be 0 or more, and below 1")
        _require(
            len(mean) == 3 and all(abs(value) <= LARGEST for value in mean),
            f"--data.mean {list(mean)} must have three finite values, for red, green and blue",
        )
        _require(
            len(std) == 3 and all(1 / LARGEST <= value <= LARGEST for value in std),
            f"--data.std {list(std)} must have three finite values above 0, for red, green and blue",
        )
        self.root = Path(root).expanduser()
        self.dataset: Dataset = dataset
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.augmentation = Augmentation(flip, crop, cutout, transform, jitter)
        self.mirrors = (mirrors,) if isinstance(mirrors, str) else tuple(mirrors)
        self.seed = seed
        self._images: Images | None = None
        self._checksum: int | None = None

    @property
    def images(self) -> Images:
        """The data set; opened, and downloaded where it must be, at the first use.

        Raises:
            UsageError: there are no images, or fewer than `val_size`.
            UserError: they can't be downloaded or read.
        """
        if self._images is None:
            self._images = open_images(self.root, self.dataset, self.mirrors)
            total = len(self._images.train.labels)
            _require(
                self.val_size < total,
                f"--data.val_size {self.val_size} leaves nothing to train on:"
                f" {self.title} has {total:,} training images",
            )
        return self._images

    @property
    def title(self) -> str:
        """What to call the data set before people: CIFAR-10 is the published archive alone."""
        return {"cifar10": "CIFAR-10", "folder": f"the folder {self.root}", "drawn": "the drawn stand-ins"}[
            self.images.kind
        ]

    @property
    def checksum(self) -> int:
        """CRC-32 of all training and test images and labels (0.2 s), by which a resumed run knows its data again."""
        if self._checksum is None:
            self._checksum = 0
            for images in (self.images.train, self.images.test):
                for tensor in (images.images, images.labels):
                    self._checksum = zlib.crc32(tensor.numpy().data, self._checksum)
        return self._checksum

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self.images.train.classes

    def prepare_data(self) -> None:
        """Downloads and decodes, once a machine."""
        _ = self.images

    def split(self) -> tuple[Tensor, Tensor]:
        """int64 indices, ascending, of the training images trained on, and of those held out for validation."""
        labels = self.images.train.labels
        counts = torch.bincount(labels, minlength=len(self.classes))
        # each class's share of val_size, rounded down, and one more for those that lose most by that
        shares = counts * self.val_size / len(labels)
        held_out = shares.floor().long()
        lost = (shares - held_out).argsort(descending=True, stable=True)
        held_out[lost[: self.val_size - int(held_out.sum())]] += 1
        generator = torch.Generator().manual_seed(self.seed)
        validation = torch.zeros(len(labels), dtype=torch.bool)
        for label, count in enumerate(held_out.tolist()):
            members = (labels == label).nonzero().flatten()
            validation[members[torch.randperm(len(members), generator=generator)[:count]]] = True
        return (~validation).nonzero().flatten(), validation.nonzero().flatten()

    def train_dataloader(self) -> BatchLoader:
        """Batches of the training images that are not held out: shuffled and augmented."""
        train, _ = self.split()
        return self._loader(
            self.images.train, self.batch_size, indices=train, shuffle=True, augmentation=self.augmentation
        )

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Batches of the images held out; none if `val_size` is 0."""
        if self.val_size == 0:
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")  # as it should be
            return []
        _, validation = self.split()
        return self._loader(self.images.train, self.eval_batch_size, indices=validation)

    def test_dataloader(self) -> BatchLoader:
        """Batches of the test images, in their order."""
        return self._loader(self.images.test, self.eval_batch_size)

    def predict_dataloader(self) -> BatchLoader:
        """The batches of the test images."""
        return self.test_dataloader()

    def _loader(self, images: Any, batch_size: int, **options: Any) -> BatchLoader:
        """A loader for this process, on its device; on the CPU where there is no Trainer."""
        if self.trainer is not None:
            options["device"] = self.trainer.strategy.root_device
            options["rank"], options["world_size"] = self.trainer.global_rank, self.trainer.world_size
        return BatchLoader(images, batch_size, seed=self.seed, mean=self.mean, std=self.std, **options)


def _require(fine: bool, sentence: str) -> None:
    if not fine:
        raise UsageError(sentence)
