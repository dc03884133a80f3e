"""How sure a network is of its predictions: calibration, mistakes, confused pairs, least confident predictions.

Confidences are rounded to six digits, and equal ones are ranked by the order of the images: the last bits of logits
depend on how many images go through the network together, and so on the number of devices. Images whose probabilities
are NaN, because the training diverged, are counted and left out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

BINS = 15  # of the calibration error, as in Guo et al., arXiv 1706.04599
RANKED = 32  # images of a ranking: four rows of eight
PAIRS = 10  # of classes that are confused most
IMAGES_OF_A_PAIR = 8


class Answers(NamedTuple):
    """What was predicted for each of N test images."""

    labels: Tensor  # int64, the true classes
    predicted: Tensor  # int64
    confidence: Tensor  # float64, the probability of the predicted class, or NaN


def read_answers(logits: Tensor, labels: Tensor) -> Answers:
    """Returns the answers of logits `[N, C]` on the CPU to the first N of the labels."""
    confidence = logits.double().softmax(1).amax(1).round(decimals=6)
    return Answers(labels[: len(logits)], logits.argmax(1), confidence)


def describe(answers: Answers, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the keys of report.json about confidence."""
    known = answers.confidence.isfinite()
    wrong = known & (answers.labels != answers.predicted)
    falling, rising = (answers.confidence.argsort(descending=down, stable=True) for down in (True, False))
    bins = calibration(answers)
    error = sum(b["images"] * abs(b["accuracy"] - b["confidence"]) for b in bins if b["images"])
    return {
        "calibration_error": round(error / int(known.sum()), 6) if known.any() else None,
        "calibration": bins,
        "without_probability": int((~known).sum()),
        "confident_mistakes": entries(answers, classes, falling[wrong[falling]][:RANKED]),
        "uncertain_images": entries(answers, classes, rising[known[rising]][:RANKED]),
        "confused_pairs": confused_pairs(answers, classes, falling[wrong[falling]]),
    }


def confused_pairs(answers: Answers, classes: Sequence[str], mistakes: Tensor) -> list[dict[str, Any]]:
    """Returns the most frequent pairs of actual and predicted class among the mistakes, the surest mistakes first.

    Of each pair: the classes, how many `of` the images of its class were mistaken so, and its surest `images`.
    """
    pairs = answers.labels[mistakes] * len(classes) + answers.predicted[mistakes]
    found, counts = pairs.unique(return_counts=True)  # sorted, so that equal counts stand in the order of the classes
    of = torch.bincount(answers.labels, minlength=len(classes))
    most = counts.argsort(descending=True, stable=True)[:PAIRS]
    return [
        {
            "class": classes[pair // len(classes)],
            "predicted": classes[pair % len(classes)],
            "count": count,
            "of": int(of[pair // len(classes)]),
            "images": entries(answers, classes, mistakes[pairs == pair][:IMAGES_OF_A_PAIR]),
        }
        for pair, count in zip(found[most].tolist(), counts[most].tolist(), strict=True)
    ]


def calibration(answers: Answers) -> list[dict[str, Any]]:
    """Returns bounds, number of images, accuracy and mean confidence of equal bins of confidence; None if empty.

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


def entries(answers: Answers, classes: Sequence[str], images: Tensor) -> list[dict[str, Any]]:
    """Returns what report.json says about some of the images."""
    rows = zip(images.tolist(), *(values[images].tolist() for values in answers), strict=True)
    return [
        {"image": image, "class": classes[label], "predicted": classes[guess], "probability": confidence}
        for image, label, guess, confidence in rows
    ]
