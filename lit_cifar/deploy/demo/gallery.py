"""The gallery of the demo page: test images with what they are and what the network predicts."""

from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lit_cifar.data.sources import holds_images, open_images
from lit_cifar.training.classifier import LitClassifier

SHOWN = 1000  # images, drawn by lot from all test images


class Gallery(NamedTuple):
    """Test images, uint8 `[N, 3, 32, 32]`, with their labels and predictions, int64 `[N]`."""

    title: str
    images: Tensor
    labels: Tensor
    predicted: Tensor


def make_gallery(classifier: LitClassifier, root: Path) -> tuple[Gallery | None, str]:
    """Returns the gallery, and a note about it for the page, which may be empty. Downloads nothing.

    The images are those in `root`; if it contains none or the network was trained on synthetic images, synthetic ones.
    """
    assert classifier.card is not None  # it was loaded
    drawn, there = classifier.card.dataset == "drawn", holds_images(root)
    test = open_images(root, "real" if there and not drawn else "drawn").test
    if test.classes != classifier.classes:
        return None, f"No gallery: the test images in {root} have other classes than the network."
    note = "" if there else f"There are no test images in {root}, so the gallery shows synthetic ones."
    if drawn:
        note = "The gallery shows synthetic images, on which this network was trained."
    total = len(test.labels)
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:SHOWN]
    console = Console(stderr=True)
    parts = track(chosen.split(100), "Predicting", console=console, transient=True, disable=not console.is_terminal)
    predicted = torch.cat([classifier.predict(test.images[part]).argmax(1) for part in parts])
    title = f"{len(chosen):,} of {total:,} test images" if len(chosen) < total else "Test images"
    return Gallery(title, test.images[chosen], test.labels[chosen], predicted), note
