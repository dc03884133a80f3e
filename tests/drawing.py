"""What figures are drawn of in tests, and what is written on them."""

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
from lit_cifar.evaluation.failures import describe, read_answers
from lit_cifar.report import failure_figures, figures

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


def text_object(figure: Figure, content: str) -> Text:
    return next(text for text in figure.findobj(Text) if text.get_text() == content)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def overlapping(labels: list[Text]) -> list[tuple[str, str]]:
    boxes = [(label.get_text(), label.get_window_extent()) for label in labels if label.get_text()]
    assert len(boxes) > 1
    return [(a, b) for (a, box), (b, other) in combinations(boxes, 2) if box.overlaps(other)]


def curve(count: int) -> tuple[list[int], list[float]]:
    noise = np.random.default_rng(0).normal(0, 0.1, count)
    return list(range(1, count + 1)), (1 + 1.3 * np.exp(-np.arange(count) / 100) + noise).tolist()


def some_failures(names: tuple[str, ...] = CIFAR10_CLASSES) -> dict[str, Any]:
    """What report.json says of 40 images, most of them mistaken; the last class is never predicted."""
    labels = torch.arange(40) % len(names)
    guesses = torch.where(torch.arange(40) % 3 == 0, labels, (labels + 1) % len(names)).clamp(max=len(names) - 2)
    logits = torch.eye(len(names))[guesses] * torch.linspace(0.5, 9, 40)[:, None]
    matrix = torch.zeros(len(names), len(names)).index_put((labels, guesses), torch.ones(40), accumulate=True)
    return describe(read_answers(logits, labels), matrix, names)


def draw_one_of_each(folder: Path) -> list[Path]:
    labels = torch.arange(6)
    report = some_failures()
    drawn = {
        "mistakes": failure_figures.mistakes(some_images(40), report["confident_mistakes"], "Mistakes"),
        "uncertain": failure_figures.uncertain(some_images(40), report["uncertain_images"], "Uncertain"),
        "reliability": failure_figures.reliability(report, "Reliability"),
        "classes": failure_figures.per_class(report, "Classes"),
        "predictions": figures.predictions(some_images(6), labels, labels.roll(1), CIFAR10_CLASSES, "Predictions"),
        "confusion": figures.confusion([[3, 1], [1, 3]], ["a", "b"], "Confusion"),
        "loss": figures.loss(curve(150), ([150], [1.1]), "Loss"),
    }
    return [figures.save(figure, folder / f"{name}.png") for name, figure in drawn.items()]
