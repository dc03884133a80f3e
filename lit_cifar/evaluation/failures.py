"""Where a network fails: the numbers that follow from its answers to the test images, for report.json.

What was predicted, and how sure of it the network was, is known once for each image, in their order. Confidences are
rounded to six digits, and equal ones ranked by the images' order: logits differ in their last bits with the number of
images that go through the net together, and so with the number of devices. Probabilities that are not numbers, of a
net that has diverged, are counted and left out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

BINS = 15  # of the calibration error, as in Guo et al., arXiv 1706.04599
SHOWN = 32  # images of a ranking: four rows of eight


class Answers(NamedTuple):
    """What was predicted for each test image."""

    labels: Tensor
    """int64 `[N]`, the true classes."""
    predicted: Tensor
    """int64 `[N]`."""
    confidence: Tensor
    """float64 `[N]`, the probability of the class that was predicted, or NaN."""


def read_answers(logits: Tensor, labels: Tensor) -> Answers:
    """The answers that logits `[N, C]` on the CPU are; there may be more labels than were tested."""
    confidence = logits.double().softmax(1).amax(1).round(decimals=6)
    return Answers(labels[: len(logits)], logits.argmax(1), confidence)


def describe(answers: Answers, matrix: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """The keys of report.json that tell where a network fails, given its confusion matrix `[C, C]`, rows true."""
    known = answers.confidence.isfinite()
    wrong = answers.labels != answers.predicted
    mistakes = _ranked(answers.confidence, wrong & known, descending=True)
    uncertain = _ranked(answers.confidence, known, descending=False)
    bins = calibration(answers)
    error = sum(b["images"] * abs(b["accuracy"] - b["confidence"]) for b in bins if b["images"])
    return {
        **per_class(matrix, classes),
        "calibration_error": round(error / int(known.sum()), 6) if known.any() else None,
        "calibration": bins,
        "without_probability": int((~known).sum()),
        "confident_mistakes": [_entry(answers, classes, i) for i in mistakes],
        "uncertain_images": [_entry(answers, classes, i) for i in uncertain],
    }


def per_class(matrix: Tensor, classes: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Precision, recall and F1 of each class; None where they are not defined.

    There is no precision of a class that was never predicted, no recall of one without images, and no F1 of one that
    is both.
    """
    right, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    shares = {"precision": (right, predicted), "recall": (right, true), "f1": (2 * right, true + predicted)}
    return {
        f"class_{name}": {
            c: a / b if b else None for c, a, b in zip(classes, part.tolist(), all_.tolist(), strict=True)
        }
        for name, (part, all_) in shares.items()
    }


def calibration(answers: Answers) -> list[dict[str, Any]]:
    """Of equal bins of confidence: bounds, number of images, and their accuracy and mean confidence, None if empty.

    torchmetrics' calibration error puts a confidence of 1 into a sixteenth bin of its own, and counts NaN as 0.
    """
    known = answers.confidence.isfinite()
    confidence = answers.confidence[known]
    right = (answers.labels == answers.predicted)[known].double()
    places = (confidence * BINS).long().clamp(max=BINS - 1)
    counts, rights, sums = (torch.bincount(places, weights, BINS).tolist() for weights in (None, right, confidence))
    return [
        {
            "from": i / BINS,
            "to": (i + 1) / BINS,
            "images": int(counts[i]),
            "accuracy": rights[i] / counts[i] if counts[i] else None,
            "confidence": round(sums[i] / counts[i], 6) if counts[i] else None,
        }
        for i in range(BINS)
    ]


def _ranked(confidence: Tensor, among: Tensor, descending: bool) -> list[int]:
    """The first images by confidence."""
    places = among.nonzero().flatten()
    order = confidence[places].argsort(descending=descending, stable=True)
    chosen: list[int] = places[order][:SHOWN].tolist()
    return chosen


def _entry(answers: Answers, classes: Sequence[str], image: int) -> dict[str, Any]:
    return {
        "image": image,
        "class": classes[int(answers.labels[image])],
        "predicted": classes[int(answers.predicted[image])],
        "probability": float(answers.confidence[image]),
    }
