"""What a run leaves for people: report.json, figures and tables, all drawn from the same values.

Every number is written once, in report.json; tables, PNGs and TensorBoard's figures are made from it. Nothing is
measured here but wall time.
"""

import csv
import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from lit_cifar import tables
from lit_cifar.classifier import LitClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 32  # images in a picture: four rows of eight
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
        if trainer.is_global_zero and isinstance(pl_module, LitClassifier):
            report = make_report(trainer, pl_module, test_seconds)
            written = _write(folder, trainer, pl_module, report) if folder else []
            tables.print_report(report, pl_module.datamodule.title, self._trained)
            tables.print_drawn_box(pl_module.datamodule.images)
            tables.print_paths(written)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints what `validate` measured; while training, the progress bar tells it."""
        if trainer.is_global_zero and isinstance(pl_module, LitClassifier) and trainer.state.fn == "validate":
            tables.print_accuracies(
                "images held out of training",
                len(pl_module.datamodule.split()[1]),
                float(trainer.callback_metrics["val/accuracy"]),
                {name: float(trainer.callback_metrics[f"val_class/{name}"]) for name in pl_module.datamodule.classes},
                pl_module.datamodule.title,
            )

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes predictions.csv: a line for each test image, in their order."""
        folder = run_folder(trainer)
        parts: list[Any] = [trainer.predict_loop.predictions] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(parts, trainer.predict_loop.predictions)
        if trainer.is_global_zero and isinstance(pl_module, LitClassifier):
            # each batch was shared out over the devices: put its parts together again
            probabilities = torch.cat([part.cpu() for batch in zip(*parts, strict=True) for part in batch])
            path = (folder or Path(trainer.default_root_dir)) / "predictions.csv"
            data = pl_module.datamodule
            write_predictions(path, probabilities, data.images.test.labels, data.classes)
            tables.print_written(path, f"{len(probabilities):,} test images of {data.title}")


def run_folder(trainer: Trainer) -> Path | None:
    """Where this run writes; None without a logger. Call it on every rank, since Lightning broadcasts the name."""
    return Path(trainer.log_dir) if trainer.loggers and trainer.log_dir else None


def write_predictions(path: Path, probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """A CSV file with image, true and predicted class, and the probability of each class `[N, C]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "class", "predicted", *classes])
        rows = zip(labels.tolist(), probabilities.argmax(1).tolist(), probabilities.tolist(), strict=True)
        for i, (label, predicted, values) in enumerate(rows):
            writer.writerow([i, classes[label], classes[predicted], *(f"{value:.6f}" for value in values)])


def make_report(trainer: Trainer, module: LitClassifier, test_seconds: float) -> dict[str, Any]:
    """The content of report.json, after a test. Its keys are documented in the README."""
    data, results = module.datamodule, module.test_results
    epochs = float(module.record.trained["epochs"])
    per_class = zip(data.classes, results["class_accuracy"].tolist(), strict=True)
    return {
        "recipe": module.recipe,
        "dataset": data.images.kind,
        "data_root": None if data.images.kind == "drawn" else str(data.root.resolve()),
        "drawn_because": data.images.why_drawn or None,
        "seed": data.seed,
        "net": module.net_config["class_path"],
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
        "test_loss": float(results["loss"]),
        "test_accuracy": float(results["accuracy"]),
        "class_accuracy": dict(per_class),
        "confusion_matrix": results["confusion_matrix"].tolist(),
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
        name = f"CPU ({_processor()}), {torch.get_num_threads()} threads"
    return name if trainer.world_size == 1 else f"{trainer.world_size} × {name}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _parameters(module: LitClassifier) -> int:
    return sum(parameter.numel() for parameter in module.net.parameters())


def _write(folder: Path, trainer: Trainer, module: LitClassifier, report: dict[str, Any]) -> list[Path]:
    """Writes report.json and the PNGs into the run folder, and the same to TensorBoard; the paths, in order."""
    from lit_cifar import figures

    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "report.json.part"
    part.write_text(json.dumps(report, indent=2) + "\n")
    part.replace(folder / "report.json")

    data = module.datamodule
    drawn = {"confusion": figures.confusion(report["confusion_matrix"], data.classes, f"Confusion on {data.title}")}
    test = data.images.test
    chosen = torch.linspace(0, len(test.labels) - 1, min(SHOWN, len(test.labels))).long()
    predicted = module.predict_indices(chosen)
    drawn["predictions"] = figures.predictions(
        test.images[chosen], test.labels[chosen], predicted, data.classes, f"Test images of {data.title}"
    )
    if module.record.curves["train/loss"] or module.record.curves["val/loss"]:
        drawn["loss"] = figures.loss(
            _axes(module, "train/loss"), _axes(module, "val/loss"), f"Loss of {report['recipe']} on {data.title}"
        )
    paths = [figures.save(figure, folder / f"{name}.png") for name, figure in sorted(drawn.items())]

    indices = data.split()[0]
    chosen = indices[torch.linspace(0, len(indices) - 1, min(SHOWN, len(indices))).long()]
    captions = [data.classes[label] for label in data.images.train.labels[chosen]]
    drawn["training images"] = figures.image_grid(
        data.images.train.images[chosen], captions, f"Training images of {data.title}"
    )
    _to_tensorboard(trainer, report, drawn)
    return [folder / "report.json", *paths]


def _axes(module: LitClassifier, name: str) -> tuple[list[int], list[float]]:
    return [step for step, _ in module.record.curves[name]], [value for _, value in module.record.curves[name]]


def _to_tensorboard(trainer: Trainer, report: dict[str, Any], drawn: dict[str, "Figure"]) -> None:
    step = report["steps"] + 1  # that of the test's curves: a run resumed from its end drops it and writes it again
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, figure in drawn.items():
                logger.experiment.add_figure(name, figure, step)
            plain = {name: value for name, value in report.items() if isinstance(value, str | int | float)}
            results = {name: plain.pop(name) for name in ("test_loss", "test_accuracy")}
            logger.log_hyperparams(plain, {f"hp/{name}": value for name, value in results.items()}, step)
            logger.save()
