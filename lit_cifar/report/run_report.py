"""What a run leaves for people: report.json, and the figures, tables and page that are drawn from it.

Every number is written once, in report.json. Nothing is measured here but the time of the test.
"""

import json
import math
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lit_cifar.data.files import write_whole, writing
from lit_cifar.errors import UsageError, UserError
from lit_cifar.evaluation.confidence import RANKED, Answers, describe, entries, read_answers
from lit_cifar.evaluation.metrics import class_scores
from lit_cifar.evaluation.statistics import wilson
from lit_cifar.nets import net_name
from lit_cifar.report import charts, curves, figures, notebook, tables
from lit_cifar.report.loggers import log_figures, log_hyperparameters, planned_epochs
from lit_cifar.report.page import render_page
from lit_cifar.report.settings import changed_settings, known_settings
from lit_cifar.runs.card import RunCard
from lit_cifar.runs.state import read_state
from lit_cifar.training.classifier import LitClassifier

PAIRS = "Each row shows the surest of these mistakes, with the probability of the predicted class."
MISTAKES = "The wrong predictions with the highest probability, highest first."
SAMPLE = "Evenly spaced over the whole test set."
UNCERTAIN = "The predictions with the lowest probability, lowest first."
PACKAGES = ("lit_cifar", "torch", "torchvision", "pytorch-lightning", "torchmetrics")


class RunReport(Callback):
    """Prints what a run trains on, and writes and prints the report after its test."""

    _test_started = 0.0
    _trained = False

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Raises UsageError for data or a module of which too little is known."""
        if not isinstance(pl_module, LitClassifier) or pl_module.has_own_data:
            raise UsageError("data-unfit", "RunReport needs a LitClassifier and a CIFAR10DataModule; leave it out")

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._trained = True
        if trainer.is_global_zero:
            data = pl_module.datamodule
            parameters = sum(parameter.numel() for parameter in pl_module.net.parameters())
            card, all_images = pl_module.card, len(data.images.train.labels) - (data.images.val is None) * data.val_size
            of_all = "" if card.train_size == all_images else f"of {all_images:,} "
            changed = f" ({card.changed_labels:,} with another label)" if card.changed_labels else ""
            resize = data.resize if data.images.kind == "folder" else ""  # nothing else is scaled
            classes = tables.plural(len(data.classes), "class")
            tables.print_drawn_box(data.images)
            tables.print_start(
                f"{data.title}, {classes}: {card.train_size:,} {of_all}images to train on{changed},"
                f" {data.val_size:,} {'held out' if data.images.val is None else 'to validate on'},"
                f" {len(data.images.test.labels):,} to test",
                tables.described_images(data.image_size, resize, data.mean, data.std),
                f"{net_name(card.net)}, {tables.plural(parameters, 'parameter')}",
                f"{device_name(trainer)}, precision {trainer.precision}",
            )

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        log_hyperparameters(trainer, pl_module, planned_epochs(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and not trainer.interrupted:
            trained = pl_module.record.trained
            tables.print_finished(trained["epochs"], trained["steps"], trained["seconds"])

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        if not self._trained:
            log_hyperparameters(trainer, pl_module, pl_module.record.trained["epochs"])
        if trainer.is_global_zero:
            weights = describe_weights(pl_module, None)
            tables.print_weights("Testing", weights)
            tables.print_validation(weights)
        self._test_started = time.perf_counter()

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        test_seconds = time.perf_counter() - self._test_started
        folder = run_folder(trainer)
        logits = in_order(trainer, pl_module.test_logits)
        if trainer.is_global_zero:
            data = pl_module.datamodule
            answers = read_answers(logits, data.images.test.labels)
            report = make_report(trainer, pl_module, test_seconds, answers, folder)
            written = _write(folder, pl_module, report, answers, logits, self._trained) if folder else []
            tables.print_accuracies("test image", report["confusion_matrix"], report, data.title)
            tables.print_drawn_box(data.images)
            if written:
                tables.print_run_folder(written[0].parent)
            weights = describe_weights(pl_module, None)
            tables.print_result("Tested", "test image", report["confusion_matrix"], weights)
            if folder:
                notebook.show(folder)
        self._trained = False

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and trainer.state.fn == "validate":
            tables.print_weights("Validating", describe_weights(pl_module, None))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Prints what `validate` measured. During training, the progress bar shows it."""
        if trainer.is_global_zero and trainer.state.fn == "validate":
            data, matrix = pl_module.datamodule, pl_module.val_results["confusion_matrix"]
            scores, rows = class_scores(matrix, data.classes), matrix.tolist()
            tables.print_accuracies("validation image", rows, scores, data.title)
            tables.print_result("Validated", "validation image", rows, describe_weights(pl_module, None))

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            tables.print_weights("Predicting with", describe_weights(pl_module, None))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Writes predictions.csv, with one line for each test image in their order."""
        folder = run_folder(trainer)
        probabilities = in_order(trainer, cast(list[Tensor], trainer.predict_loop.predictions))
        if trainer.is_global_zero:
            path = (folder or Path(trainer.default_root_dir)) / "predictions.csv"
            data = pl_module.datamodule
            true = [data.classes[label] for label in data.images.test.labels[: len(probabilities)].tolist()]
            columns = {"image": range(len(true)), "class": true}
            tables.write_predictions(path, columns, probabilities, data.classes)
            tables.print_written(path, f"{tables.plural(len(probabilities), 'test image')} of {data.title}")


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


def make_report(
    trainer: Trainer, module: LitClassifier, test_seconds: float, answers: Answers, folder: Path | None
) -> dict[str, Any]:
    """Returns the content of report.json after a test, which is written into this folder."""
    data, results, trained = module.datamodule, module.test_results, module.record.trained
    card = cast(RunCard, module.card)  # known from setup on
    epochs, loss = float(trained["epochs"]), float(results["loss"])
    matrix = results["confusion_matrix"]
    scores, right, total = class_scores(matrix, data.classes), int(matrix.trace()), int(matrix.sum())
    weights = describe_weights(module, folder)
    tested = weights["checkpoint_step"]
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "note": _note(folder),
        "recipe": card.recipe,
        "dataset": card.dataset,
        "data_root": None if card.dataset == "drawn" else str(data.root.resolve()),
        "drawn_because": data.images.why_drawn or None,
        "image_size": card.image_size,
        "resize": card.resize,
        "mean": card.mean,
        "std": card.std,
        "seed": card.seed,
        "net": card.net["class_path"],
        "net_name": net_name(card.net),
        "parameters": sum(parameter.numel() for parameter in module.net.parameters()),
        "epochs": int(epochs) if epochs.is_integer() else epochs,
        "steps": trained["steps"],
        "steps_per_epoch": trained.get("steps_per_epoch", 0) or (round(trained["steps"] / epochs) if epochs else 0),
        "batch_size": card.batch_size,
        "train_size": card.train_size or None,
        "changed_labels": card.changed_labels,
        **card.training_set,
        "devices": trainer.world_size,
        "device_name": device_name(trainer),
        "precision": str(trainer.precision),
        "train_seconds": trained["seconds"],
        "test_seconds": test_seconds,
        "images_per_second": trained["images"] / trained["seconds"] if trained["seconds"] else None,
        "test_loss": loss if math.isfinite(loss) else None,
        "test_size": total,
        "test_accuracy": float(results["accuracy"]),
        "test_accuracy_interval": wilson(right, total),
        **weights,
        "class_accuracy": scores["class_recall"],
        "confusion_matrix": matrix.tolist(),
        **scores,
        **describe(answers, data.classes),
        "curves": {name: curves.thinned(name, curve, tested) for name, curve in module.record.curves.items()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def _note(folder: Path | None) -> str | None:
    """Returns what the user wrote about the run that was trained in this folder."""
    with suppress(UserError):
        state = read_state(folder) if folder else None
        return state.note if state else None
    return None


def describe_weights(module: LitClassifier, folder: Path | None) -> dict[str, Any]:
    """Returns the keys of report.json about the weights that are measured; paths in this folder are relative to it."""
    path, epochs, step, validated = module.tested_weights()
    chosen = {"best.ckpt": tables.VALIDATED, "last.ckpt": tables.LAST}.get(path.name if path else "last.ckpt")
    if path and folder and path.resolve().is_relative_to(folder.resolve()):
        path = path.resolve().relative_to(folder.resolve())
    elif path:
        path = path.resolve()
    return {
        "checkpoint": path and path.as_posix(),
        "checkpoint_epoch": int(epochs) if float(epochs).is_integer() else epochs,
        "checkpoint_step": step,
        "chosen_by": chosen or "named by the user",
        "val_size": validated.images if validated else cast(RunCard, module.card).val_size,
        "val_accuracy": validated.correct / validated.images if validated else None,
        "val_accuracy_interval": wilson(validated.correct, validated.images) if validated else None,
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
    folder: Path, module: LitClassifier, report: dict[str, Any], answers: Answers, logits: Tensor, trained: bool
) -> list[Path]:
    """Writes report.json, PNGs and report.html into the run folder and logs the figures; returns the paths.

    After a training, config.yaml has its settings; after `test`, the checkpoint's card.
    """
    write_whole(folder / "report.json", json.dumps(report, indent=2) + "\n")
    data, title, recorded = module.datamodule, module.datamodule.title, report["curves"].values()
    images, sample = data.images.test.images, entries(answers, data.classes, _spread(len(answers.labels)))
    mistakes, pairs, uncertain = (report[key] for key in ("confident_mistakes", "confused_pairs", "uncertain_images"))
    drawn = {
        "classes": charts.per_class(report, f"Precision, recall and F1 of each class on {title}"),
        "confused": figures.confused_pairs(images, pairs, f"Most confused pairs of classes on {title}\n{PAIRS}"),
        "confusion": charts.confusion(report["confusion_matrix"], data.classes, f"Confusion matrix on {title}"),
        "mistakes": figures.predictions(images, mistakes, f"Most confident mistakes on {title}\n{MISTAKES}"),
        "predictions": figures.predictions(images, sample, f"Test images of {title}\n{SAMPLE}"),
        "reliability": charts.reliability(report, f"Accuracy against confidence on {title}"),
        "uncertain": figures.predictions(images, uncertain, f"Least confident predictions on {title}\n{UNCERTAIN}"),
    }
    if any(recorded):
        drawn["training"] = curves.training(report, f"Training of {report['recipe']} on {title}")
    paths = {name: figures.save(figure, folder / f"{name}.png") for name, figure in sorted(drawn.items())}
    config = folder / "config.yaml"  # written by the command line
    recipe = config.read_text(encoding="utf-8") if config.exists() else ""
    settings = changed_settings(recipe) if trained and recipe else known_settings(cast(RunCard, module.card))
    page = render_page(report, images, logits, title, "/".join(folder.parts[-2:]), settings, recipe)
    write_whole(folder / "report.html", page)

    train, indices, *_ = data.training_set
    chosen = indices[_spread(len(indices))]
    captions = [data.classes[label] for label in train.labels[chosen]]
    drawn["training images"] = figures.image_grid(train.images[chosen], captions, f"Training images of {title}")
    with writing(folder):
        log_figures(module.trainer.loggers, drawn, module.step_of_test)
    return [folder / "report.html", folder / "report.json", *paths.values()]


def _spread(count: int) -> Tensor:
    """Returns the places of up to 32 images from all over a set."""
    return torch.linspace(0, count - 1, min(RANKED, count)).long()
