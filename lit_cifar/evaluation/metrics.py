"""What validation and test measure: loss and confusion matrix, from which all other figures follow."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix


def metrics(classes: int) -> MetricCollection:
    """Loss and confusion matrix, summed over all devices; updating more metrics took as long as the net."""
    confusion = MulticlassConfusionMatrix(classes, validate_args=False)
    return MetricCollection(
        {"loss": MeanMetric(nan_strategy="disable"), "confusion_matrix": confusion}, compute_groups=False
    )


def computed(measured: MetricCollection) -> dict[str, Tensor]:
    """`loss`, `confusion_matrix` `[C, C]`, `accuracy` and `class_accuracy` `[C]`; then it begins anew."""
    values = measured.compute()
    measured.reset()
    matrix = torch.atleast_2d(values["confusion_matrix"])  # of a single class, torchmetrics makes it a vector
    right, total = matrix.diagonal(), matrix.sum(1)
    values["confusion_matrix"] = matrix
    return values | {"accuracy": right.sum() / total.sum(), "class_accuracy": right / total.clamp(min=1)}


def percent(fraction: float) -> str:
    """`54.2 %`; what is not quite all is never called 100."""
    return ">99.9 %" if 0.9995 <= fraction < 1 else f"{fraction * 100:.1f} %"


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode, and each of its parts back into the mode that it had."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
