"""Evaluator: a Predictor that validates, tests and predicts batches, of its own data module or of a user's loaders."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.errors import UsageError, reason
from lit_cifar.evaluation import metrics as evaluation
from lit_cifar.evaluation.test_time_augmentation import Views
from lit_cifar.training.history import TrainingRecord
from lit_cifar.training.predictor import Predictor
from lit_cifar.training.step import Batch, Loss, hard, mean_loss
from lit_cifar.training.tested import Tested, Validated, fingerprint


class Evaluator(Predictor):
    """What LitClassifier does between trainings."""

    def __init__(self, net: nn.Module, loss: Loss, test_time_augmentation: Views, confidence_threshold: float) -> None:
        super().__init__(net, test_time_augmentation, confidence_threshold)
        self.loss = loss
        self.record = TrainingRecord()
        self.tested: Tested | None = None  # the checkpoint whose weights these are, if they were not trained last
        self._fingerprint: Tensor | None = None  # of the weights that are validated
        self.test_logits: list[Tensor] = []  # `[n, C]` of each batch of the last test: the share of this rank

    @property
    def datamodule(self) -> CIFAR10DataModule:
        return cast(CIFAR10DataModule, self.trainer.datamodule)  # type: ignore[attr-defined]

    @property
    def has_own_data(self) -> bool:
        """Whether the Trainer was given other data than a CIFAR10DataModule: nothing is known of them but batches."""
        return not isinstance(self.datamodule, CIFAR10DataModule)

    def know(self, classes: tuple[str, ...]) -> None:
        """Sets the classes, and makes the metrics for them."""
        self.classes = classes
        self.val_metrics, self.test_metrics = (evaluation.metrics(len(classes)).to(self.device) for _ in range(2))

    def know_images(self, data: CIFAR10DataModule, mean: Sequence[float] = (), std: Sequence[float] = ()) -> None:
        """Takes over classes, size and normalization of data, which compute no numbers if the network has some."""
        data.normalize_like(mean, std)
        self.classes, self.mean, self.std = data.classes, data.mean, data.std
        self.see(data.image_size, data.resize)

    def look_at(self, batch: Any) -> None:
        """Learns the classes from the first batch of data that a user brings: as many as the network has outputs.

        They are numbered unless the data module or the data set has `classes`. Raises UsageError if the batch isn't
        one of images and labels, or if the network can't take it.
        """
        if self.classes:
            return
        name = type(self.net).__name__
        is_pair = isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(x, Tensor) for x in batch)
        if not is_pair or not batch[0].is_floating_point() or not _are_labels(batch[1]):
            found = ", ".join(map(_described, batch)) if isinstance(batch, list | tuple) else _described(batch)
            sentence = "LitClassifier needs batches of images, float32 [N, C, H, W], and labels, int64 [N]"
            raise UsageError("data-unfit", f"{sentence}, but the data have {found}")
        images, labels = batch
        try:
            with torch.no_grad(), evaluation.evaluating(self):
                logits = self(images[:1])
        except Exception as error:  # a user's network may raise anything
            sentence = f"the network {name} can't take images {list(images.shape)} ({reason(error)})"
            raise UsageError("network-unfit", f"{sentence}; use another") from error
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise UsageError("network-unfit", f"the network {name} must return logits [N, classes]")
        largest = labels.shape[1] - 1 if labels.is_floating_point() else int(labels.max())
        if largest >= logits.shape[1]:
            sentence = f"The network has {logits.shape[1]} outputs, but there is the label {largest}"
            raise UsageError("network-classes", f"{sentence}; use a network with more outputs")
        loaders = (self.trainer.train_dataloader, self.trainer.val_dataloaders, self.trainer.test_dataloaders)
        named = (self.datamodule, *(getattr(loader, "dataset", None) for loader in loaders))
        known = (tuple(map(str, getattr(each, "classes", None) or ())) for each in named)
        numbered = tuple(map(str, range(logits.shape[1])))
        self.know(next((classes for classes in known if len(classes) == len(numbered)), numbered))

    def tested_weights(self) -> Tested:
        """Returns what is known of the present weights; only what was validated is known by its accuracy."""
        found = self.tested or Tested.of(None, self.record.trained, self.record.validated)
        is_same = found.validated and found.validated.fingerprint == int(fingerprint(self.net))
        return found if is_same else found._replace(validated=None)

    def on_validation_epoch_start(self) -> None:
        self._fingerprint = fingerprint(self.net)  # callbacks may have put others in for the validation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.look_at(batch)
        self._count(batch, self.val_metrics, self)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            self.val_metrics.reset()
            return
        self.val_results = self._log_metrics("val", self.val_metrics, self.global_step)
        if self.trainer.state.fn == "fit":
            for name in ("loss", "accuracy"):
                self.record.curves[f"{name}/val"].append((self.global_step, float(self.val_results[name])))
            matrix, weights = self.val_results["confusion_matrix"], self._fingerprint
            right, total = int(matrix.trace()), int(matrix.sum())
            self.record.validated = Validated(int(weights), right, total) if weights is not None else None

    def on_test_epoch_start(self) -> None:
        self.test_logits.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.look_at(batch)
        self.test_logits.append(self._count(batch, self.test_metrics, self.mean_logits))

    @property
    def step_of_test(self) -> int:
        """One step after the last of training: a run resumed from its end drops these points and logs them again."""
        return int(self.record.trained["steps"]) + 1

    def on_test_epoch_end(self) -> None:
        """Logs the test and, so that tables of runs show what belongs together, what validation gave these weights."""
        validated, seconds = self.tested_weights().validated, self.record.trained["seconds"]
        known = {"accuracy/val": validated.correct / validated.images} if validated else {}
        known |= {"fit_seconds": seconds} if seconds else {}
        for logger in self.loggers if known else ():
            logger.log_metrics(known, self.step_of_test)
        self.test_results = self._log_metrics("test", self.test_metrics, self.step_of_test)

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """Returns probabilities `[B, C]` of a batch of images, with or without labels."""
        images = batch[0] if isinstance(batch, list | tuple) else batch
        return self.mean_logits(images).softmax(1)

    def _count(self, batch: Batch, metrics: MetricCollection, net: Callable[[Tensor], Tensor]) -> Tensor:
        images, labels = batch
        if not len(labels):
            return images.new_empty(0, len(self.classes))  # an empty share of the last, short batch
        logits = net(images).float()
        loss, by = mean_loss(self.loss, logits, labels)
        if isinstance(by, int):  # new_full, because to copy a number would wait for the GPU
            loss, by = loss.expand(by), loss.new_full((), by)
        else:
            loss = loss * by
        metrics["loss"].update(loss)
        metrics["divisor"].update(by)
        metrics["confusion_matrix"].update(logits, hard(labels))
        return logits

    def _log_metrics(self, stage: str, metrics: MetricCollection, step: int) -> dict[str, Tensor]:
        values = evaluation.computed(metrics)
        named = {f"loss/{stage}": values["loss"], f"accuracy/{stage}": values["accuracy"]}
        per_class = zip(self.classes, values["class_accuracy"], strict=True)
        named |= {f"{stage}_class/{name}": accuracy for name, accuracy in per_class}
        if self.trainer.state.fn == "fit":
            self.log_dict(named, logger=False)
            for logger in self.loggers:
                logger.log_metrics({name: float(value) for name, value in named.items()}, step)
        else:  # what Trainer.test and Trainer.validate return; Lightning reads the step to log at from `step`
            self.log_dict(named | {"step": torch.tensor(float(step))})
        return values


def _are_labels(labels: Tensor) -> bool:
    """Returns whether these are labels or, such as torchvision's MixUp makes, probabilities."""
    return (labels.dtype, labels.ndim) == (torch.int64, 1) or (labels.is_floating_point() and labels.ndim == 2)


def _described(part: Any) -> str:
    if not isinstance(part, Tensor):
        return type(part).__name__
    return f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}"
