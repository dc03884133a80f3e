"""CIFAR10DataModule: a data set as batches on the device, for Lightning or a loop of your own."""

import sys
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.cifar import Labels
from lit_cifar.data.image_files import LARGEST_SIZE, SMALLEST_SIZE, Resize, Scaling
from lit_cifar.data.loader import BatchLoader
from lit_cifar.data.normalization import Channels, Normalization, Normalize, normalization, require_normalize
from lit_cifar.data.sources import Dataset, Images, open_images
from lit_cifar.data.training_set import TrainingChanges, TrainingSet, held_out
from lit_cifar.errors import UsageError, require

EVAL_BATCH = 250  # images of 32 pixels
VAL_SHARE = 0.1  # 5,000 of CIFAR-10's training images


class CIFAR10DataModule(pl.LightningDataModule):
    """CIFAR-10, CIFAR-100, a folder of pictures, or synthetic images.

    Args:
        root: Folder of the images; if it has none, they are downloaded into it. It may hold pictures in train/<class>/,
            test/<class>/ and perhaps val/<class>/, or CIFAR-10 or CIFAR-100 as published (folder or archive).
        dataset: "cifar10", "cifar100", "folder" (pictures of any classes), "drawn" (synthetic images) or "auto".
            "cifar10" and "cifar100" use that data set, as published or as pictures of its classes. By default, the
            images in root are used, whatever they are, or CIFAR-10 if it has none; "auto" does the same, but uses
            synthetic images, of ten classes, if CIFAR-10 can't be downloaded.
        labels: Labels of CIFAR-100: "fine" for its 100 classes, "coarse" for its 20 superclasses.
        batch_size: Images per training batch, over all devices together.
        eval_batch_size: Images per batch of validation, test and prediction, over all devices together; by default 250,
            and fewer if they are larger than 32 pixels.
        val_size: Training images held out for validation, their number or their share (below 1); 0 for none. Of each
            class the same share is held out, chosen by the seed. If root has val/<class>/, those images are used.
        fraction: Share of the training images to train on, above 0 and up to 1, the same of each class.
        imbalance: Long tail: the last class has this share of the images of the first one, above 0 and up to 1, and
            those between fall exponentially (Cui et al., arXiv 1901.05555).
        label_noise: Share of the images to train on, at least 0 and below 1, that get the label of another class, each
            class with the same probability. Validation and test images keep their labels.
        train_labels: File with other labels for the training images, in their order: .npy, .csv or .pt, with the names
            or the numbers of classes. FILE:NAME is one of several, as in CIFAR-10_human.pt:worse_label of CIFAR-10N.
        image_size: Side in pixels, from 8 to 224, to which the pictures of a folder are scaled. The images of CIFAR-10
            and synthetic ones have 32.
        resize: How a picture that isn't square is scaled: "squeeze", "crop" or "pad". "squeeze" scales width and height
            to image_size, which changes the proportions; "crop" scales the square in the middle; "pad" scales the
            longer side and adds black borders.
        normalize: Mean and standard deviation by which images are normalized: "half", "data", "imagenet" or numbers.
            They are those of the channels red, green and blue, between 0 and 1. "half" is 0.5 for all, "data" computes
            them from the images to train on, "imagenet" is what torchvision's pretrained networks need, and numbers are
            [[mean], [standard deviation]].
        flip: Mirror half of the training images at random; "alternate" mirrors each image every second epoch.
        crop: Pixels by which training images are padded on each side (by reflection) before a random crop to their
            size; 0 for none.
        cutout: Side in pixels of a grey square that covers a random place of each training image; 0 for none.
        jitter: Random change of brightness and contrast of training images, between 0 (none) and 1. Adds up to ± this
            to the normalised values of an image, then multiplies them by 1 ± up to this.
        erase: Probability, from 0 to 1, that a random rectangle of a training image is filled with the mean colour. It
            is 2 to 33 % of the image (random erasing).
        mixup: Alpha of MixUp, which mixes training images in pairs; 0 for none, often 0.2 to 1. The share is drawn from
            Beta(alpha, alpha), and labels are mixed, too. The loss must take probabilities, as torch's does.
        cutmix: Alpha of CutMix, which puts a rectangle of another image into each; 0 for none, often 1. Its share of
            the area is drawn from Beta(alpha, alpha), and labels are mixed by it. With mixup too, each image gets one
            of both.
        mix_probability: Probability, from 0 to 1, that an image is mixed.
        mix_until: Share of the training, from 0 to 1, after which images are no longer mixed.
        trivial_augment: Apply a random operation, such as rotation or more contrast, to each training image. It is one
            of 14, of random strength (TrivialAugmentWide, arXiv 2103.10158), after flip and crop, before cutout.
        transform: Transform of single training images, such as one of torchvision.transforms.v2, that takes and returns
            uint8 [3, H, W]. Slower than the augmentations above, which work on whole batches.
        mirrors: URL of the archive to download, or several, tried in this order; by default, known mirrors.
        seed: Seed of the held-out images, the order and the augmentation (on the command line: --seed_everything).
    """

    def __init__(
        self,
        root: str = "data",
        dataset: Dataset | None = None,
        labels: Labels = "fine",
        batch_size: int = 4,
        eval_batch_size: int | None = None,
        val_size: int | float = VAL_SHARE,
        fraction: float = 1.0,
        imbalance: float = 1.0,
        label_noise: float = 0.0,
        train_labels: str | None = None,
        image_size: int = 32,
        resize: Resize = "squeeze",
        normalize: Normalize = "half",
        flip: bool | Literal["alternate"] = False,
        crop: int = 0,
        cutout: int = 0,
        jitter: float = 0.0,
        erase: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
        mix_until: float = 1.0,
        trivial_augment: bool = False,
        transform: nn.Module | Callable[[Tensor], Tensor] | None = None,
        mirrors: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if str(root) == "":
            raise UsageError("value-missing", "--data.root is empty; set it to the folder of the images")
        require(batch_size >= 1, f"--data.batch_size {batch_size} must be at least 1")
        fine = eval_batch_size is None or eval_batch_size >= 1
        require(fine, f"--data.eval_batch_size {eval_batch_size} must be at least 1")
        fine = val_size >= 0 if isinstance(val_size, int) else 0 <= val_size < 1
        require(fine, f"--data.val_size {val_size} must be a number of images, 0 or more, or a share below 1")
        fine = SMALLEST_SIZE <= image_size <= LARGEST_SIZE
        require(fine, f"--data.image_size {image_size} must be between {SMALLEST_SIZE} and {LARGEST_SIZE} pixels")
        require(resize in get_args(Resize), f"--data.resize {resize} must be squeeze, crop or pad")
        require(0 <= crop < image_size, f"--data.crop {crop} must be between 0 and {image_size - 1} pixels")
        require(0 <= cutout <= 2 * image_size, f"--data.cutout {cutout} must be between 0 and {2 * image_size} pixels")
        require(0 <= jitter < 1, f"--data.jitter {jitter} must be at least 0 and below 1")
        require_normalize(normalize)
        self.root = Path(root).expanduser()
        self.dataset: Dataset | None = dataset
        self.labels: Labels = labels
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or Scaling(image_size).images_like(EVAL_BATCH)
        self._asked_val_size = val_size
        labels_from = None if train_labels is None else str(train_labels)  # a Path, from Python
        self.changes = TrainingChanges(float(fraction), float(imbalance), float(label_noise), labels_from)
        self.image_size, self.resize, self.normalize = image_size, resize, normalize
        mixing = {"mixup": mixup, "cutmix": cutmix, "mix_probability": mix_probability, "mix_until": mix_until}
        self.augmentation = Augmentation(
            flip, crop, cutout, transform, jitter, erase, trivial_augment=trivial_augment, **mixing
        )
        self.mirrors = (mirrors,) if isinstance(mirrors, str) else mirrors
        self.seed = seed

    @cached_property
    def images(self) -> Images:
        """The data set, opened at the first use, and downloaded if necessary.

        Raises UsageError if there are no images, UserError if they can't be read.
        """
        scaling = Scaling(self.image_size, self.resize)
        return open_images(self.root, self.dataset, self.mirrors, self.labels, scaling)

    @cached_property
    def val_size(self) -> int:
        """The number of images to validate on: those in `val/`, or else those held out of the training images.

        A share is rounded, and leaves an image of each class to train on. Raises UsageError if no image is left.
        """
        asked, labels, val = self._asked_val_size, self.images.train.labels, self.images.val
        if val is not None:
            if asked not in (VAL_SHARE, len(val.labels)):
                _say_unused("val_size", asked, f"{self.root} has a folder of {len(val.labels):,} images to validate on")
            return len(val.labels)
        total = len(labels)
        if isinstance(asked, float):
            return min(round(asked * total), total - len(labels.unique()))
        require(asked < total, f"--data.val_size {asked} leaves none of {total:,} training images")
        return asked

    @cached_property
    def _normalization(self) -> Normalization:
        return normalization(self.normalize, self.images.train.images, self.split()[0])

    @property
    def mean(self) -> Channels:
        """Of each channel, subtracted from the images. If they are computed from images, these are opened."""
        return self._normalization.mean

    @property
    def std(self) -> Channels:
        """The standard deviation of each channel, by which images are divided."""
        return self._normalization.std

    def normalize_like(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Uses the numbers of a trained network in place of those of these images, if `normalize` is `data`."""
        if self.normalize == "data" and mean:
            self._normalization = Normalization(tuple(mean), tuple(std))

    @property
    def title(self) -> str:
        """The name of the data set in messages and reports. Only the published archive is called CIFAR-10."""
        cifar100 = "CIFAR-100" if self.labels == "fine" else "CIFAR-100 (coarse labels)"
        titles = {"cifar10": "CIFAR-10", "cifar100": cifar100, "folder": f"the folder {self.root}"}
        return titles.get(self.images.kind, "the synthetic data set")

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
        _ = self.val_size, self.mean  # opens the images, once per machine

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
        if not (self.augmentation.mixup or self.augmentation.cutmix):
            for name in ("mix_probability", "mix_until"):
                if (value := getattr(self.augmentation, name)) != getattr(Augmentation, name):
                    _say_unused(name, value, "neither --data.mixup nor --data.cutmix is above 0")
        options: dict[str, Any] = {"indices": indices, "shuffle": True, "augmentation": self.augmentation}
        if self.trainer is not None:
            module = self.trainer.lightning_module
            options["slice_size"] = getattr(module, "slice_size", 0)
            if self.augmentation.mix_until < 1 and not hasattr(module, "slice_size"):
                sentence = f"--data.mix_until {self.augmentation.mix_until} needs LitClassifier"
                raise UsageError(
                    "value-invalid", f"{sentence}, which knows how much of the training is done; set it to 1"
                )
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


def _say_unused(name: str, value: object, why: str) -> None:
    """Says on the first rank that a setting has no effect."""
    if not rank_zero_only.rank:  # type: ignore[attr-defined]
        print(f"--data.{name} {value} is not used, since {why}", file=sys.stderr)
