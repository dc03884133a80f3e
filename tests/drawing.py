"""What the tests draw, and what they read from figures."""

from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

from lit_cifar.data.image_set import CIFAR10_CLASSES
from lit_cifar.evaluation.confidence import describe, read_answers
from lit_cifar.evaluation.metrics import class_scores
from lit_cifar.report import charts, curves, figures

LONG_NAMES = (
    "Siberian husky",
    "Alaskan malamute",
    "Chesapeake Bay retriever",
    "Rhodesian ridgeback",
    "West Highland white terrier",
    "n02110185_Siberian_husky_of_the_north",
    "Donaudampfschifffahrtsgesellschaftskapitänshund",
    "Old English sheepdog",
    "$5 & $6",
    "Pug",
)


def some_images(count: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()


def texts(figure: Figure) -> list[str]:
    """What is written in a figure, with the lines of each text joined."""
    return [text.get_text().replace("\n", " ") for text in figure.findobj(Text) if text.get_text()]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def overlapping(labels: list[Text]) -> list[tuple[str, str]]:
    boxes = [(label.get_text(), label.get_window_extent()) for label in labels if label.get_text()]
    assert len(boxes) > 1
    return [(a, b) for (a, box), (b, other) in combinations(boxes, 2) if box.overlaps(other)]


def curve(count: int) -> list[tuple[int, float]]:
    noise = np.random.default_rng(0).normal(0, 0.1, count)
    return list(enumerate((1 + 1.3 * np.exp(-np.arange(count) / 100) + noise).tolist(), 1))


def trained(
    train: Sequence[tuple[int, float | None]], val: Sequence[tuple[int, float | None]], epochs: float = 2
) -> dict[str, Any]:
    """What report.json says about a training with these losses."""
    curves: dict[str, Any] = {"lr": [(step, 0.1 / step) for step, _ in train]}
    for name, losses in (("train", train), ("val", val)):
        curves[f"loss/{name}"] = losses
        curves[f"accuracy/{name}"] = [(step, loss and 1 / (1 + loss)) for step, loss in losses]
    return {
        "curves": curves,
        "steps": max(step for step, _ in [(1, 0), *train, *val]),
        "epochs": epochs,
        "steps_per_epoch": max(step for step, _ in [(1, 0), *train, *val]) / epochs if epochs else 0,
        "checkpoint_epoch": epochs / 2,
        "checkpoint_step": max(step for step, _ in [(1, 0), *train, *val]) / 2,
        "chosen_by": "validation accuracy",
        "val_accuracy": 0.865,
    }


def some_answers(names: tuple[str, ...] = CIFAR10_CLASSES) -> dict[str, Any]:
    """What report.json says about 40 images, most of them mistaken; the last class is never predicted."""
    labels = torch.arange(40) % len(names)
    guesses = torch.where(torch.arange(40) % 3 == 0, labels, (labels + 1) % len(names)).clamp(max=len(names) - 2)
    logits = torch.eye(len(names))[guesses] * torch.linspace(0.5, 9, 40)[:, None]
    matrix = torch.zeros(len(names), len(names)).index_put((labels, guesses), torch.ones(40), accumulate=True)
    return describe(read_answers(logits, labels), names) | class_scores(matrix, names)


def entry(image: int, actual: str, predicted: str, probability: float = 0.5) -> dict[str, Any]:
    return {"image": image, "class": actual, "predicted": predicted, "probability": probability}


def described(logits: Tensor, labels: Tensor, names: list[str]) -> dict[str, Any]:
    """What a test on such images would put into report.json."""
    answers = read_answers(logits, labels)
    matrix = torch.zeros(len(names), len(names), dtype=torch.int64)
    for label, guess in zip(answers.labels.tolist(), answers.predicted.tolist(), strict=True):
        matrix[label, guess] += 1
    return (
        describe(answers, names)
        | class_scores(matrix, names)
        | {
            "confusion_matrix": matrix.tolist(),
            "recipe": "tutorial",
            "dataset": "folder",
            "data_root": "data",
            "net": "lit_cifar.nets.tutorial.Net",
            "net_name": "Net",
            "parameters": 1,
            "epochs": 1,
            "steps": 1,
            "batch_size": 1,
            "image_size": 32,
            "resize": "squeeze",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "seed": 0,
            "precision": "32-true",
            "device_name": "CPU",
            "train_seconds": 1.0,
            "test_seconds": 1.0,
            "images_per_second": None,
            "test_loss": 1.0,
            "test_accuracy": 0.5,
            "test_accuracy_interval": [0.4, 0.6],
            "date": "2026-11-28T12:00:00+01:00",
            "checkpoint": None,
            "checkpoint_epoch": 1,
            "chosen_by": "last weights",
            "val_accuracy": None,
            "versions": {},
        }
    )


def draw_one_of_each(folder: Path) -> list[Path]:
    report = some_answers()
    drawn = {
        "mistakes": figures.predictions(some_images(40), report["confident_mistakes"], "Mistakes"),
        "uncertain": figures.predictions(some_images(40), report["uncertain_images"], "Uncertain"),
        "reliability": charts.reliability(report, "Reliability"),
        "classes": charts.per_class(report, "Classes"),
        "confusion": charts.confusion([[3, 1], [1, 3]], ["a", "b"], "Confusion"),
        "confused": figures.confused_pairs(some_images(40), report["confused_pairs"], "Pairs"),
        "training": curves.training(trained(curve(150), [(150, 1.1)]), "Training"),
        "learning rates": curves.learning_rates([0.01, 0.1], [2.0, 1.0], 0.01),
    }
    return [figures.save(figure, folder / f"{name}.png") for name, figure in drawn.items()]


class Page(HTMLParser):
    """What a browser would find in a page: its tags with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data
