"""CIFAR10DataModule: a data set as batches on the device, for Lightning or a loop of your own."""

import sys
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.cifar import MIRRORS
from lit_cifar.data.loader import BatchLoader
from lit_cifar.data.sources import Dataset, Images, open_images
from lit_cifar.data.training_set import TrainingChanges, TrainingSet, held_out
from lit_cifar.errors import UsageError, require

VAL_SHARE = 0.1  # 5,000 of CIFAR-10's training images
LARGEST = 1e6  # of a mean, a standard deviation, and its inverse


class CIFAR10DataModule(pl.LightningDataModule):
    """CIFAR-10, a folder of pictures with the same layout, or synthetic images.

    Args:
        root: Folder of the images: cifar-10-batches-py/, cifar-10-python.tar.gz, or pictures in train/<class>/,
            test/<class>/ and perhaps val/<class>/. CIFAR-10 is downloaded into it if it is empty or missing.
        dataset: "real" uses the images in root, "drawn" synthetic images of ten classes, and "auto" synthetic images
            only if root has none and they can't be downloaded.
        batch_size: Images per training batch, over all devices together.
        eval_batch_size: Images per batch of validation, test and prediction, over all devices together.
        val_size: Training images held out for validation, their number or their share (below 1); 0 for none. Of each
            class the same share is held out, chosen by the seed. If root has val/<class>/, those images are used.
        fraction: Share of the training images to train on, above 0 and up to 1, the same of each class.
        imbalance: Long tail: the last class has this share of the images of the first one, above 0 and up to 1, and
            those between fall exponentially (Cui et al., arXiv 1901.05555).
        label_noise: Share of the images to train on, at least 0 and below 1, that get the label of another class, each
            class with the same probability. Validation and test images keep their labels.
        train_labels: File with other labels for the training images, in their order: .npy, .csv or .pt, with the names
            or the numbers of classes. FILE:NAME is one of several, as in CIFAR-10_human.pt:worse_label of CIFAR-10N.
        mean: Mean of each channel (red, green, blue), between 0 and 1, which is subtracted from the images.
        std: Standard deviation of each channel (red, green, blue), by which the images are divided.
        flip: Mirror half of the training images at random; "alternate" mirrors each image every second epoch.
        crop: Pixels by which training images are padded on each side (by reflection) before a random crop to their
            size; 0 for none.
        cutout: Side in pixels of a grey square that covers a random place of each training image; 0 for none.
        jitter: Random change of brightness and contrast of training images, between 0 (none) and 1. Adds up to ± this
            to the normalised values of an image, then multiplies them by 1 ± up to this.
        transform: Transform of single training images, such as one of torchvision.transforms.v2, that takes and returns
            uint8 [3, H, W]. Slower than the augmentations above, which work on whole batches.
        mirrors: URL of cifar-10-python.tar.gz, or several, tried in this order.
        seed: Seed of the held-out images, the order and the augmentation (on the command line: --seed_everything).
    """

    def __init__(
        self,
        root: str = "data",
        dataset: Dataset = "real",
        batch_size: int = 4,
        eval_batch_size: int = 250,
        val_size: int | float = VAL_SHARE,
        fraction: float = 1.0,
        imbalance: float = 1.0,
        label_noise: float = 0.0,
        train_labels: str | None = None,
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
        if str(root) == "":
            raise UsageError("value-missing", "--data.root is empty; set it to the folder of the images")
        require(batch_size >= 1, f"--data.batch_size {batch_size} must be at least 1")
        require(eval_batch_size >= 1, f"--data.eval_batch_size {eval_batch_size} must be at least 1")
        fine = val_size >= 0 if isinstance(val_size, int) else 0 <= val_size < 1
        require(fine, f"--data.val_size {val_size} must be a number of images, 0 or more, or a share below 1")
        require(0 <= crop < 32, f"--data.crop {crop} must be between 0 and 31 pixels")
        require(0 <= cutout <= 64, f"--data.cutout {cutout} must be between 0 and 64 pixels")
        require(0 <= jitter < 1, f"--data.jitter {jitter} must be at least 0 and below 1")
        fine = len(mean) == 3 and all(abs(value) <= LARGEST for value in mean)
        require(fine, f"--data.mean {list(mean)} must have three finite values, for red, green and blue")
        fine = len(std) == 3 and all(1 / LARGEST <= value <= LARGEST for value in std)
        require(fine, f"--data.std {list(std)} must have three finite values above 0, for red, green and blue")
        self.root = Path(root).expanduser()
        self.dataset: Dataset = dataset
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self._asked_val_size = val_size
        labels_from = None if train_labels is None else str(train_labels)  # a Path, from Python
        self.changes = TrainingChanges(float(fraction), float(imbalance), float(label_noise), labels_from)
        self.mean, self.std = tuple(mean), tuple(std)
        self.augmentation = Augmentation(flip, crop, cutout, transform, jitter)
        self.mirrors = (mirrors,) if isinstance(mirrors, str) else tuple(mirrors)
        self.seed = seed

    @cached_property
    def images(self) -> Images:
        """The data set, opened at the first use, and downloaded if necessary.

        Raises UsageError if there are no images, UserError if they can't be read.
        """
        return open_images(self.root, self.dataset, self.mirrors)

    @cached_property
    def val_size(self) -> int:
        """The number of images to validate on: those in `val/`, or else those held out of the training images.

        A share is rounded, and leaves an image of each class to train on. Raises UsageError if no image is left.
        """
        asked, labels, val = self._asked_val_size, self.images.train.labels, self.images.val
        if val is not None:
            if asked not in (VAL_SHARE, len(val.labels)) and not rank_zero_only.rank:  # type: ignore[attr-defined]
                why = f"{self.root} has a folder of {len(val.labels):,} images to validate on"
                print(f"--data.val_size {asked} is not used, since {why}", file=sys.stderr)
            return len(val.labels)
        total = len(labels)
        if isinstance(asked, float):
            return min(round(asked * total), total - len(labels.unique()))
        require(asked < total, f"--data.val_size {asked} leaves none of {total:,} training images")
        return asked

    @property
    def title(self) -> str:
        """The name of the data set in messages and reports. Only the published archive is called CIFAR-10."""
        titles = {"cifar10": "CIFAR-10", "folder": f"the folder {self.root}", "drawn": "the synthetic data set"}
        return titles[self.images.kind]

    @cached_property
    def checksum(self) -> int:
        """CRC-32 of all images and labels (0.2 s), by which a resumed run recognises its data."""
        checksum = 0
        for images in filter(None, (self.images.train, self.images.test, self.images.val)):
            for tensor in (images.images, images.labels):
                checksum = zlib.crc32(tensor.numpy().data, checksum)
        if self.training_set.changed:
            checksum = zlib.crc32(self.training_set.images.labels.numpy().data, checksum)
        return checksum

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self.images.train.classes

    def prepare_data(self) -> None:
        _ = self.val_size  # opens the images, once per machine

    @cached_property
    def _held_out(self) -> Tensor:
        """Bool `[N]`: which training images are held out for validation; none if there are others in `val/`."""
        val_size = self.val_size if self.images.val is None else 0
        return held_out(self.images.train.labels, len(self.classes), val_size, self.seed)

    @cached_property
    def training_set(self) -> TrainingSet:
        """What is trained on: images, and the labels that they are trained with.

        Raises UsageError if a file of labels doesn't fit, UserError if it can't be read.
        """
        return self.changes(self.images.train, (~self._held_out).nonzero().flatten(), self.seed)

    def split(self) -> tuple[Tensor, Tensor]:
        """Returns the indices of the images to train on and of those held out for validation, int64, ascending."""
        return self.training_set.indices, self._held_out.nonzero().flatten()

    def train_dataloader(self) -> BatchLoader:
        images, indices, *_ = self.training_set
        options: dict[str, Any] = {"indices": indices, "shuffle": True, "augmentation": self.augmentation}
        if self.trainer is not None:
            options["slice_size"] = getattr(self.trainer.lightning_module, "slice_size", 0)
        return self._loader(images, self.batch_size, **options)

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        if self.val_size == 0:
            return []
        if self.images.val is not None:
            return self._loader(self.images.val, self.eval_batch_size)
        return self._loader(self.images.train, self.eval_batch_size, indices=self._held_out.nonzero().flatten())

    def test_dataloader(self) -> BatchLoader:
        if not len(self.images.test.labels):
            sentence = f"there are no images to test: {self.root} has no folder test; add test/<class>/"
            raise UsageError("data-missing", sentence)
        return self._loader(self.images.test, self.eval_batch_size)

    def predict_dataloader(self) -> BatchLoader:
        return self.test_dataloader()

    def _loader(self, images: Any, batch_size: int, **options: Any) -> BatchLoader:
        """Returns a loader for this process on its device, or on the CPU if there is no Trainer."""
        if self.trainer is not None:
            options["device"] = self.trainer.strategy.root_device
            options["rank"], options["world_size"] = self.trainer.global_rank, self.trainer.world_size
        return BatchLoader(images, batch_size, seed=self.seed, mean=self.mean, std=self.std, **options)
