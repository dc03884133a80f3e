"""What a run leaves for people: report.json, and the figures, tables and page that are drawn from it.

Every number is written once, in report.json. Nothing is measured here but the time of the test.
"""

import json
import math
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lit_cifar.data.files import write_whole, writing
from lit_cifar.evaluation.confidence import RANKED, Answers, describe, entries, read_answers
from lit_cifar.evaluation.metrics import class_scores
from lit_cifar.report import tables
from lit_cifar.report.loggers import log_report
from lit_cifar.runs.card import RunCard
from lit_cifar.training.classifier import LitClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGES = ("lit_cifar", "torch", "torchvision", "pytorch-lightning", "torchmetrics")


class RunReport(Callback):
    """Prints what a run trains on, and writes and prints the report after its test."""

    def __init__(self) -> None:
        self._test_started = 0.0
        self._trained = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = True
        if trainer.is_global_zero and isinstance(pl_module, LitClassifier):
            data = pl_module.datamodule
            train, validation = data.split()
            parameters = sum(parameter.numel() for parameter in pl_module.net.parameters())
            tables.print_drawn_box(data.images)
            tables.print_start(
                f"{data.title}, {len(data.classes)} classes: {len(train):,} images to train on,"
                f" {len(validation):,} held out, {len(data.images.test.labels):,} to test",
                f"{type(pl_module.net).__name__}, {parameters:,} parameters",
                f"{device_name(trainer)}, precision {trainer.precision}",
            )

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._test_started = time.perf_counter()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        test_seconds = time.perf_counter() - self._test_started
        folder = run_folder(trainer)
        if not isinstance(pl_module, LitClassifier):
            return
        logits = in_order(trainer, pl_module.test_logits)
        if trainer.is_global_zero:
            data = pl_module.datamodule
            answers = read_answers(logits, data.images.test.labels)
            report = make_report(trainer, pl_module, test_seconds, answers)
            written = _write(folder, trainer, pl_module, report, answers) if folder else []
            tables.print_report(report, data.title, self._trained)
            tables.print_drawn_box(data.images)
            if written:
                tables.print_run_folder(written)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints what `validate` measured. During training, the progress bar shows it."""
        if trainer.is_global_zero and isinstance(pl_module, LitClassifier) and trainer.state.fn == "validate":
            found, data = pl_module.val_results, pl_module.datamodule
            matrix, accuracy = found["confusion_matrix"], float(found["accuracy"])
            recall = class_scores(matrix, data.classes)["class_recall"]
            tables.print_accuracies("images held out of training", int(matrix.sum()), accuracy, recall, data.title)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes predictions.csv, with one line for each test image in their order."""
        folder = run_folder(trainer)
        probabilities = in_order(trainer, cast(list[Tensor], trainer.predict_loop.predictions))
        if trainer.is_global_zero and isinstance(pl_module, LitClassifier):
            path = (folder or Path(trainer.default_root_dir)) / "predictions.csv"
            data = pl_module.datamodule
            true = [data.classes[label] for label in data.images.test.labels[: len(probabilities)].tolist()]
            columns = {"image": range(len(true)), "class": true}
            tables.write_predictions(path, columns, probabilities, data.classes)
            tables.print_written(path, f"{len(probabilities):,} test images of {data.title}")


def run_folder(trainer: Trainer) -> Path | None:
    """Returns where this run writes, or None without a logger. Lightning broadcasts the name: call it on every rank."""
    return Path(trainer.log_dir) if trainer.loggers and trainer.log_dir else None


def in_order(trainer: Trainer, batches: Sequence[Tensor]) -> Tensor:
    """Returns one row for each image of a loader, in its order, on the CPU, from each rank's shares of the batches."""
    here = [share.cpu() for share in batches]
    shares = [here] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(shares, here)
    return torch.cat([share for batch in zip(*shares, strict=True) for share in batch])


def make_report(trainer: Trainer, module: LitClassifier, test_seconds: float, answers: Answers) -> dict[str, Any]:
    """Returns the content of report.json after a test."""
    data, results, trained = module.datamodule, module.test_results, module.record.trained
    card = cast(RunCard, module.card)  # known from setup on
    epochs, loss = float(trained["epochs"]), float(results["loss"])
    scores = class_scores(results["confusion_matrix"], data.classes)
    return {
        "recipe": card.recipe,
        "dataset": card.dataset,
        "data_root": None if card.dataset == "drawn" else str(data.root.resolve()),
        "drawn_because": data.images.why_drawn or None,
        "seed": card.seed,
        "net": card.net["class_path"],
        "parameters": sum(parameter.numel() for parameter in module.net.parameters()),
        "epochs": int(epochs) if epochs.is_integer() else epochs,
        "steps": trained["steps"],
        "batch_size": card.batch_size,
        "devices": trainer.world_size,
        "device_name": device_name(trainer),
        "precision": str(trainer.precision),
        "train_seconds": trained["seconds"],
        "test_seconds": test_seconds,
        "images_per_second": trained["images"] / trained["seconds"] if trained["seconds"] else None,
        "test_loss": loss if math.isfinite(loss) else None,
        "test_accuracy": float(results["accuracy"]),
        "class_accuracy": scores["class_recall"],
        "confusion_matrix": results["confusion_matrix"].tolist(),
        **scores,
        **describe(answers, data.classes),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def device_name(trainer: Trainer) -> str:
    """Returns the name of the hardware: `CPU (AMD EPYC), 2 threads`, `2 × NVIDIA A100`."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        name = f"Apple GPU ({platform.machine()})"
    else:
        name = f"CPU ({_processor()}), {tables.plural(torch.get_num_threads(), 'thread')}"
    return name if trainer.world_size == 1 else f"{trainer.world_size} × {name}"


def _processor() -> str:
    with suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _write(
    folder: Path, trainer: Trainer, module: LitClassifier, report: dict[str, Any], answers: Answers
) -> list[Path]:
    """Writes report.json, PNGs and report.html into the run folder and logs the figures; returns the paths."""
    from lit_cifar.report import figures, html

    write_whole(folder / "report.json", json.dumps(report, indent=2) + "\n")
    data = module.datamodule
    drawn = _draw(module, report, answers)
    paths = {name: figures.save(figure, folder / f"{name}.png") for name, figure in sorted(drawn.items())}
    config = folder / "config.yaml"  # written by the command line
    recipe = config.read_text(encoding="utf-8") if config.exists() else ""
    embedded = {name: path for name, path in paths.items() if name in ("confusion", "loss", "reliability")}
    write_whole(folder / "report.html", html.render(report, data.title, data.images.test.images, embedded, recipe))

    train, indices = data.images.train, data.split()[0]
    chosen = indices[_spread(len(indices))]
    captions = [data.classes[label] for label in train.labels[chosen]]
    drawn["training images"] = figures.image_grid(train.images[chosen], captions, f"Training images of {data.title}")
    step = report["steps"] + 1  # that of the test's curves: a run resumed from its end drops it and writes it again
    with writing(folder):
        log_report(trainer.loggers, report, cast(RunCard, module.card).optimizer, drawn, step)
    return [folder / "report.html", folder / "report.json", *paths.values()]


def _draw(module: LitClassifier, report: dict[str, Any], answers: Answers) -> dict[str, "Figure"]:
    from lit_cifar.report import charts
    from lit_cifar.report.figures import predictions

    data, title, curves = module.datamodule, module.datamodule.title, module.record.curves
    images, sample = data.images.test.images, entries(answers, data.classes, _spread(len(answers.labels)))
    mistakes, uncertain = report["confident_mistakes"], report["uncertain_images"]
    drawn = {
        "classes": charts.per_class(report, f"Precision, recall and F1 of each class on {title}"),
        "confusion": charts.confusion(report["confusion_matrix"], data.classes, f"Confusion matrix on {title}"),
        "mistakes": predictions(images, mistakes, f"Most confident mistakes on {title}", framed=False),
        "predictions": predictions(images, sample, f"Test images of {title}"),
        "reliability": charts.reliability(report, f"Accuracy against confidence on {title}"),
        "uncertain": predictions(images, uncertain, f"Least confident predictions on {title}"),
    }
    if curves["train/loss"] or curves["val/loss"]:
        drawn["loss"] = charts.loss(curves["train/loss"], curves["val/loss"], f"Loss of {report['recipe']} on {title}")
    return drawn


def _spread(count: int) -> Tensor:
    """Returns the places of up to 32 images from all over a set."""
    return torch.linspace(0, count - 1, min(RANKED, count)).long()
