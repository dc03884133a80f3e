"""What validation and test measure: loss and confusion matrix, and the accuracies and scores that follow from it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection, SumMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from lit_cifar.evaluation.statistics import wilson


def metrics(classes: int) -> MetricCollection:
    """Returns sums over all devices; updating more metrics took as long as the network.

    They are `loss`, the sum of losses, `divisor`, what turns it into the mean, and `confusion_matrix`.
    """
    confusion = MulticlassConfusionMatrix(classes, validate_args=False)
    # without "disable", the CPU would wait for each batch, to look for NaN
    loss, divisor = (SumMetric(nan_strategy="disable") for _ in range(2))
    return MetricCollection({"loss": loss, "divisor": divisor, "confusion_matrix": confusion}, compute_groups=False)


def computed(measured: MetricCollection) -> dict[str, Tensor]:
    """Returns `loss`, `confusion_matrix` `[C, C]`, `accuracy` and `class_accuracy` `[C]`, and resets the metrics."""
    values = measured.compute()
    measured.reset()
    matrix = torch.atleast_2d(values["confusion_matrix"])  # torchmetrics returns a vector for a single class
    right, total = matrix.diagonal(), matrix.sum(1)
    values["confusion_matrix"] = matrix
    values["loss"] = values["loss"] / values.pop("divisor")
    return values | {"accuracy": right.sum() / total.sum(), "class_accuracy": right / total.clamp(min=1)}


def class_scores(matrix: Tensor, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns precision, recall and F1 of each class from a confusion matrix `[C, C]` whose rows are true classes.

    None stands for the precision of a class that was never predicted, the recall of a class without images, and the F1
    of a class that is both. Recall, which is the accuracy on a class, has its 95 % interval, too.
    """
    right, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    shares = {"precision": (right, predicted), "recall": (right, true), "f1": (2 * right, true + predicted)}
    scores: dict[str, dict[str, Any]] = {}
    for score, (parts, wholes) in shares.items():
        rows = zip(classes, parts.tolist(), wholes.tolist(), strict=True)
        scores[f"class_{score}"] = {name: part / whole if whole else None for name, part, whole in rows}
    rows = zip(classes, right.int().tolist(), true.int().tolist(), strict=True)
    scores["class_accuracy_interval"] = {name: wilson(part, whole) if whole else None for name, part, whole in rows}
    return scores


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode, and afterwards each of its parts back into the mode it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
