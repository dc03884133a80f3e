"""What the page shows around a picture: a gallery of test images, and what is known of the run."""

from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lit_cifar.data.sources import TITLES, open_found, open_images
from lit_cifar.errors import UserError
from lit_cifar.evaluation.statistics import wilson
from lit_cifar.evaluation.wording import interval, judged_on_page, percent
from lit_cifar.nets import net_name
from lit_cifar.report.tables import plural, printable
from lit_cifar.runs.card import RunCard
from lit_cifar.runs.catalog import LARGEST_REPORT
from lit_cifar.runs.checkpoint import Checkpoint
from lit_cifar.runs.state import is_share, read_json
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.tested import Tested

SHOWN = 1000  # images of the gallery, of 32 pixels, drawn by lot from all test images


class Gallery(NamedTuple):
    """Test images, uint8 `[N, 3, H, W]`, with labels and predictions, int64 `[N]`, and their probabilities `[N]`."""

    title: str
    images: Tensor
    labels: Tensor
    predicted: Tensor
    probability: Tensor

    def described(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Returns what the page is told of it."""
        columns = (self.labels.tolist(), self.predicted.tolist(), self.probability.tolist())
        rows = zip(*columns, strict=True)
        return {
            "title": self.title,
            "labels": columns[0],
            "predicted": columns[1],
            "probability": self.probability.nan_to_num().tolist(),
            "captions": [judged_on_page(classes[guess], sure, classes[label]) for label, guess, sure in rows],
        }


def make_gallery(classifier: LitClassifier, root: Path) -> tuple[Gallery | None, str]:
    """Returns a gallery of the test images in `root`, or else of synthetic ones, and a note for the page, or ""."""
    assert classifier.card is not None  # it was loaded
    card, drawn = classifier.card, classifier.card.dataset == "drawn"
    there = None if drawn else open_found(root, card.dataset, card.labels, classifier.scaling)
    where = printable(str(root))  # its name may be none that JSON can hold
    test = (there or open_images(root, "drawn")).test
    if test.classes != classifier.classes:
        others = f"the test images in {where} have other classes than the network"
        return None, f"No gallery: {others if there else f'there are no images in {where}'}."
    if not len(test.labels):
        return None, f"No gallery: there are no test images in {where}."
    note = "" if there else f"There are no test images in {where}, so the gallery shows synthetic ones."
    if drawn:
        note = "The gallery shows synthetic images, on which this network was trained."
    total = len(test.labels)
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(0))[
        : max(100, classifier.scaling.images_like(SHOWN))
    ]
    console = Console(stderr=True)
    parts = track(chosen.split(100), "Predicting", console=console, transient=True, disable=not console.is_terminal)
    probability, predicted = torch.cat([classifier.predict(test.images[part]) for part in parts]).max(1)
    title = f"{len(chosen):,} of {total:,} test images" if len(chosen) < total else "Test images"
    return Gallery(title, test.images[chosen], test.labels[chosen], predicted, probability), note


def describe_run(checkpoint: Checkpoint) -> dict[str, str]:
    """Returns run, network, data and accuracy as the page's header says them. Files beside it are not trusted."""
    card, path = checkpoint.card, checkpoint.path.resolve()
    folder = path.parents[1] if path.parent.name == "checkpoints" else None
    epochs = checkpoint.trained["epochs"]
    after = f" after {plural(int(epochs) if epochs % 1 == 0 else round(epochs, 2), 'epoch')}" if epochs else ""
    run = f"{folder.parent.name}/{folder.name}" if folder else card.recipe
    return {
        "run": printable(f"{run}, {path.name}{after}"),
        "net": net_name(card.net),
        "data": _data(card),
        "accuracy": _accuracy(checkpoint, folder),
    }


def _data(card: RunCard) -> str:
    title = "images of your own" if card.dataset == "own" else TITLES[card.dataset]
    title = "a folder of pictures" if card.dataset == "folder" else title
    coarse = " (coarse labels)" if card.labels == "coarse" else ""
    images = f", {card.train_size:,} training images" if card.train_size > 0 else ""
    return f"{title}{coarse}: {len(card.classes)} classes{images}"


def _accuracy(checkpoint: Checkpoint, folder: Path | None) -> str:
    """Returns the accuracy on the test images, if the run's report is about the checkpoint, or on validation images."""
    report = _report_of(checkpoint, folder) if folder else {}
    if is_share(report.get("test_accuracy")):
        bounds, known = report.get("test_accuracy_interval"), ""
        if isinstance(bounds, list) and len(bounds) == 2 and all(map(is_share, bounds)):
            known = f" (95 % interval: {interval(*bounds)})"
        return f"{percent(report['test_accuracy'])} of the test images{known}"
    validated = Tested.of(None, checkpoint.trained, checkpoint.history.get("validated")).validated
    if validated:
        found, total = validated.correct, validated.images
        bounds = interval(*wilson(found, total))
        return f"{percent(found / total)} of {total:,} validation images (95 % interval: {bounds})"
    return "not measured"


def _report_of(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """Returns what report.json of the run in `folder` says, or {} if it is about other weights or damaged."""
    path = checkpoint.path.resolve()
    with suppress(UserError):
        report = read_json(folder / "report.json", LARGEST_REPORT) or {}
        if "checkpoint_step" not in report:  # of version 0.2, which wrote no run.json
            others = path.name != "best.ckpt" and path.with_name("best.ckpt").exists()
            return {} if others or (folder / "run.json").exists() else report
        tested = PurePath(str(report.get("checkpoint") or path)).name  # None: weights in memory, after the last step
        return report if (tested, report["checkpoint_step"]) == (path.name, checkpoint.trained["steps"]) else {}
    return {}
