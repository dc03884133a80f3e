"""What every evaluation of a classifier does: logits of each batch, loss and confusion matrix of all of them.

Every image counts once on any number of devices: a process without an image in the last, short batch adds nothing.
"""

from collections.abc import Callable, Sequence
from typing import cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.loader import BatchLoader
from lit_cifar.data.pictures import Picture, to_batch
from lit_cifar.errors import UsageError
from lit_cifar.evaluation import metrics as evaluation
from lit_cifar.evaluation.test_time_augmentation import Views, mean_logits
from lit_cifar.training.history import TrainingRecord

Batch = tuple[Tensor, Tensor]


class EvaluatedModule(pl.LightningModule):
    """The half of LitClassifier that validates, tests and predicts."""

    net: nn.Module
    loss: nn.Module | Callable[[Tensor, Tensor], Tensor]
    test_time_augmentation: Views
    confidence_threshold: float
    record: TrainingRecord

    def __init__(self) -> None:
        super().__init__()
        self.classes: tuple[str, ...] = ()
        """Class names, in the order of the labels; known once it is trained, tested or loaded."""
        self.mean: tuple[float, ...] = ()
        """Of each channel, of values between 0 and 1, subtracted from the images that the net sees."""
        self.std: tuple[float, ...] = ()
        """By which they are divided."""
        self.test_logits: list[Tensor] = []
        """`[n, C]` of each batch of the last test: the part of this rank."""

    def begin_metrics(self) -> None:
        """Makes the metrics of validation and test."""
        self.val_metrics = evaluation.metrics(len(self.classes))
        self.test_metrics = evaluation.metrics(len(self.classes))

    @property
    def datamodule(self) -> CIFAR10DataModule:
        """The Trainer's."""
        return cast(CIFAR10DataModule, self.trainer.datamodule)  # type: ignore[attr-defined]

    @property
    def _in_training(self) -> bool:
        return self.trainer.state.fn == "fit" and not self.trainer.sanity_checking

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, C]` of normalised images `[N, 3, 32, 32]`."""
        return self.net(images)

    @torch.no_grad()
    def predict(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Probabilities `[N, C]` of the classes for one image or several, in the order of `classes`.

        Args:
            images: PIL images of any mode, arrays uint8 `[H, W]` (grey), `[H, W, 3]` or `[H, W, 4]` (RGBA), or tensors
                uint8 `[3, H, W]`, of any size; or a whole batch as an array `[N, H, W, 3]` or a tensor `[N, 3, H, W]`.

        Raises:
            ValueError: an image is of another shape or type, such as floating-point numbers.
            UsageError: the classifier was neither trained nor loaded.
        """
        pixels = to_batch(images)
        if not len(pixels):
            return torch.empty(0, len(self.classes))
        if not self.classes:
            raise UsageError("The classifier knows no classes yet; train it, or take load_from_checkpoint")
        labels = torch.zeros(len(pixels), dtype=torch.int64)
        batches = BatchLoader(
            ImageSet(pixels, labels, self.classes), 250, mean=self.mean, std=self.std, device=self.device
        )
        layout = torch.channels_last  # convolutions on a CPU take three quarters of the time
        with evaluation.evaluating(self):
            logits = [self._mean_logits(batch.to(memory_format=layout)) for batch, _ in batches]
        return torch.cat(logits).softmax(1).cpu()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts a batch."""
        self._count(batch, self.val_metrics, self)

    def on_validation_epoch_end(self) -> None:
        """Logs loss and accuracy, whole and per class."""
        if self.trainer.sanity_checking:
            self.val_metrics.reset()
            return
        self.val_results = self._log_metrics("val", self.val_metrics, self.global_step)
        if self._in_training:
            self.record.curves["val/loss"].append((self.global_step, float(self.val_results["loss"])))

    def on_test_epoch_start(self) -> None:
        """Forgets the test before."""
        self.test_logits.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts a batch, and keeps its logits for the report."""
        self.test_logits.append(self._count(batch, self.test_metrics, self._mean_logits))

    def on_test_epoch_end(self) -> None:
        """Logs loss and accuracy, whole and per class, and keeps them for the report."""
        # one step after the last of training: a run resumed from its end drops these points and logs them again
        self.test_results = self._log_metrics("test", self.test_metrics, self.record.trained["steps"] + 1)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities `[B, C]` of a batch."""
        return self._mean_logits(batch[0]).softmax(1)

    def _mean_logits(self, images: Tensor) -> Tensor:
        return mean_logits(self, images, self.test_time_augmentation, self.confidence_threshold)

    def _count(self, batch: Batch, metrics: MetricCollection, net: Callable[[Tensor], Tensor]) -> Tensor:
        images, labels = batch
        if not len(labels):
            return images.new_empty(0, len(self.classes))  # this device has no image in the last, short batch
        logits = net(images).float()
        metrics["loss"].update(self.loss(logits, labels), weight=len(labels))
        metrics["confusion_matrix"].update(logits, labels)
        return logits

    def _log_metrics(self, stage: str, metrics: MetricCollection, step: int) -> dict[str, Tensor]:
        values = evaluation.computed(metrics)
        named = {f"{stage}/loss": values["loss"], f"{stage}/accuracy": values["accuracy"]}
        per_class = zip(self.datamodule.classes, values["class_accuracy"], strict=True)
        named |= {f"{stage}_class/{name}": accuracy for name, accuracy in per_class}
        if self._in_training:
            self.log_dict(named, logger=False)
            for logger in self.loggers:
                logger.log_metrics({name: float(value) for name, value in named.items()}, step)
        else:  # what Trainer.test and Trainer.validate return; Lightning takes the step that is logged for its own
            self.log_dict(named | {"step": torch.tensor(float(step))})
        return values
