"""What a run leaves for people: report.json, figures and tables, all drawn from the same values.

Every number is written once, in report.json; tables, PNGs and TensorBoard's figures are made from it. Nothing is
measured here but wall time.
"""

import json
import math
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lit_cifar.evaluation import failures
from lit_cifar.evaluation.failures import SHOWN, Answers
from lit_cifar.files import write_whole, writing
from lit_cifar.report import tables
from lit_cifar.report.loggers import log_report
from lit_cifar.report.predictions import write_predictions
from lit_cifar.training.classifier import LitClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGES = ("lit_cifar", "torch", "torchvision", "pytorch-lightning", "torchmetrics")


class RunReport(Callback):
    """Says what a run trains on, and after its test writes and prints the report."""

    def __init__(self) -> None:
        self._test_started = 0.0
        self._trained = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what trains on what."""
        self._trained = True
        if trainer.is_global_zero and isinstance(pl_module, LitClassifier):
            data = pl_module.datamodule
            train, validation = data.split()
            tables.print_drawn_box(data.images)
            tables.print_start(
                f"{data.title}, {len(data.classes)} classes: {len(train):,} images to train on,"
                f" {len(validation):,} held out, {len(data.images.test.labels):,} to test",
                f"{type(pl_module.net).__name__}, {_parameters(pl_module):,} parameters",
                f"{device_name(trainer)}, precision {trainer.precision}",
            )

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._test_started = time.perf_counter()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes and prints the report."""
        test_seconds = time.perf_counter() - self._test_started
        folder = run_folder(trainer)
        if not isinstance(pl_module, LitClassifier):
            return
        logits = in_order(trainer, pl_module.test_logits)
        if trainer.is_global_zero:
            answers = failures.read_answers(logits, pl_module.datamodule.images.test.labels)
            report = make_report(trainer, pl_module, test_seconds, answers)
            written = _write(folder, trainer, pl_module, report, answers) if folder else []
            tables.print_report(report, pl_module.datamodule.title, self._trained)
            tables.print_drawn_box(pl_module.datamodule.images)
            tables.print_paths(written)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints what `validate` measured; while training, the progress bar tells it."""
        if trainer.is_global_zero and isinstance(pl_module, LitClassifier) and trainer.state.fn == "validate":
            found, classes = pl_module.val_results, pl_module.classes
            images = found["confusion_matrix"].sum(1).tolist()
            accuracies = zip(classes, found["class_accuracy"].tolist(), images, strict=True)
            tables.print_accuracies(
                "images held out of training",
                sum(images),
                float(found["accuracy"]),
                {name: accuracy for name, accuracy, count in accuracies if count},
                pl_module.datamodule.title,
            )

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes predictions.csv: a line for each test image, in their order."""
        folder = run_folder(trainer)
        probabilities = in_order(trainer, cast(list[Tensor], trainer.predict_loop.predictions))
        if trainer.is_global_zero and isinstance(pl_module, LitClassifier):
            path = (folder or Path(trainer.default_root_dir)) / "predictions.csv"
            data = pl_module.datamodule
            true = [data.classes[label] for label in data.images.test.labels[: len(probabilities)].tolist()]
            write_predictions(path, {"image": range(len(true)), "class": true}, probabilities, data.classes)
            tables.print_written(path, f"{len(probabilities):,} test images of {data.title}")


def run_folder(trainer: Trainer) -> Path | None:
    """Where this run writes; None without a logger. Call it on every rank, since Lightning broadcasts the name."""
    return Path(trainer.log_dir) if trainer.loggers and trainer.log_dir else None


def in_order(trainer: Trainer, batches: Sequence[Tensor]) -> Tensor:
    """On the CPU, a row for each image of a loader in its order, from this rank's parts of its batches.

    Each batch was shared out over the devices; call it on all of them to put the parts together again.
    """
    here = [part.cpu() for part in batches]
    parts = [here] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(parts, here)
    return torch.cat([part for batch in zip(*parts, strict=True) for part in batch])


def make_report(trainer: Trainer, module: LitClassifier, test_seconds: float, answers: Answers) -> dict[str, Any]:
    """The content of report.json, after a test. Its keys are documented in the README."""
    data, results = module.datamodule, module.test_results
    epochs, loss = float(module.record.trained["epochs"]), float(results["loss"])
    seen = results["confusion_matrix"].sum(1).tolist()
    per_class = zip(data.classes, results["class_accuracy"].tolist(), seen, strict=True)
    return {
        "recipe": module.recipe,
        "dataset": data.images.kind,
        "data_root": None if data.images.kind == "drawn" else str(data.root.resolve()),
        "drawn_because": data.images.why_drawn or None,
        "seed": data.seed,
        "net": module.net_description["class_path"],
        "parameters": _parameters(module),
        "epochs": int(epochs) if epochs.is_integer() else epochs,
        "steps": module.record.trained["steps"],
        "batch_size": module.record.trained["batch_size"],
        "devices": trainer.world_size,
        "device_name": device_name(trainer),
        "precision": str(trainer.precision),
        "train_seconds": module.record.trained["seconds"],
        "test_seconds": test_seconds,
        "images_per_second": module.record.trained["images"] / module.record.trained["seconds"]
        if module.record.trained["seconds"]
        else None,
        "test_loss": loss if math.isfinite(loss) else None,
        "test_accuracy": float(results["accuracy"]),
        "class_accuracy": {name: accuracy if count else None for name, accuracy, count in per_class},
        "confusion_matrix": results["confusion_matrix"].tolist(),
        **failures.describe(answers, results["confusion_matrix"], data.classes),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def device_name(trainer: Trainer) -> str:
    """What computes, by name: `CPU (AMD EPYC), 2 threads`, `2 × NVIDIA A100`."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        name = f"Apple GPU ({platform.machine()})"
    else:
        name = f"CPU ({_processor()}), {tables.plural(torch.get_num_threads(), 'thread')}"
    return name if trainer.world_size == 1 else f"{trainer.world_size} × {name}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _parameters(module: LitClassifier) -> int:
    return sum(parameter.numel() for parameter in module.net.parameters())


def _write(
    folder: Path, trainer: Trainer, module: LitClassifier, report: dict[str, Any], answers: Answers
) -> list[Path]:
    """Writes report.json, the PNGs and report.html into the run folder, and figures to the loggers; the paths."""
    from lit_cifar.report import figures, page

    write_whole(folder / "report.json", json.dumps(report, indent=2) + "\n")
    data = module.datamodule
    drawn = _draw(module, report, answers)
    paths = {name: figures.save(figure, folder / f"{name}.png") for name, figure in sorted(drawn.items())}
    config = folder / "config.yaml"  # written by the command line
    embedded = {name: path for name, path in paths.items() if name in ("confusion", "loss", "reliability")}
    recipe = config.read_text(encoding="utf-8") if config.exists() else ""
    write_whole(folder / "report.html", page.render(report, data.title, data.images.test.images, embedded, recipe))

    indices = data.split()[0]
    chosen = indices[torch.linspace(0, len(indices) - 1, min(SHOWN, len(indices))).long()]
    captions = [data.classes[label] for label in data.images.train.labels[chosen]]
    drawn["training images"] = figures.image_grid(
        data.images.train.images[chosen], captions, f"Training images of {data.title}"
    )
    step = report["steps"] + 1  # that of the test's curves: a run resumed from its end drops it and writes it again
    with writing(folder):
        log_report(trainer, report, drawn, step)
    return [folder / "report.html", folder / "report.json", *paths.values()]


def _draw(module: LitClassifier, report: dict[str, Any], answers: Answers) -> dict[str, "Figure"]:
    """The figures of a test, by the names of their files."""
    from lit_cifar.report import failure_figures, figures

    data, title = module.datamodule, module.datamodule.title
    images = data.images.test.images
    chosen = torch.linspace(0, len(answers.labels) - 1, min(SHOWN, len(answers.labels))).long()
    sample = images[chosen], answers.labels[chosen], answers.predicted[chosen]
    drawn = {
        "classes": failure_figures.per_class(report, f"Precision, recall and F1 of each class on {title}"),
        "confusion": figures.confusion(report["confusion_matrix"], data.classes, f"Confusion on {title}"),
        "mistakes": failure_figures.mistakes(images, report["confident_mistakes"], f"Surest mistakes on {title}"),
        "predictions": figures.predictions(*sample, data.classes, f"Test images of {title}"),
        "reliability": failure_figures.reliability(report, f"Accuracy against confidence on {title}"),
        "uncertain": failure_figures.uncertain(images, report["uncertain_images"], f"Least sure images of {title}"),
    }
    if module.record.curves["train/loss"] or module.record.curves["val/loss"]:
        curves = _axes(module, "train/loss"), _axes(module, "val/loss")
        drawn["loss"] = figures.loss(*curves, f"Loss of {report['recipe']} on {title}")
    return drawn


def _axes(module: LitClassifier, name: str) -> tuple[list[int], list[float]]:
    return [step for step, _ in module.record.curves[name]], [value for _, value in module.record.curves[name]]
