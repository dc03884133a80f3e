"""What Lightning's loggers get of a run beside its curves: hyperparameters, and the figures of its report."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from matplotlib.figure import Figure
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger

from lit_cifar.report import figures
from lit_cifar.report.hyperparameters import hyperparameters
from lit_cifar.runs.card import RunCard, describe
from lit_cifar.runs.folder import RunLogger, settings_summary
from lit_cifar.training.classifier import LitClassifier

OF_TRAINING = {"training": "train/curves", "training images": "train/images"}
"""Figures that don't belong to the test, and the names under which loggers show them."""


def planned_epochs(trainer: Trainer) -> float:
    """Returns how many epochs are to be trained, such as 1.25; infinite if only time ends the training."""
    batches, most = trainer.num_training_batches, math.inf
    if trainer.max_steps >= 0 and batches and math.isfinite(batches):
        most = trainer.max_steps / math.ceil(batches / trainer.accumulate_grad_batches)
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else math.inf
    return round(min(epochs, most), 2)


def log_hyperparameters(trainer: Trainer, module: LitClassifier, epochs: float) -> None:
    """Hands the settings of a run of so many epochs to each logger."""
    if not trainer.is_global_zero or not trainer.loggers:
        return
    data, card = module.datamodule, cast(RunCard, module.card)
    if trainer.optimizers and "<lambda>" in card.optimizer["class_path"]:
        card = replace(card, optimizer=describe(trainer.optimizers[0]))
    more: dict[str, Any] = {"parameters": sum(parameter.numel() for parameter in module.net.parameters())}
    if card.dataset == "folder":
        more["dataset"] = f"folder {data.root.resolve().name}"
    if math.isfinite(epochs):
        more["epochs"] = int(epochs) if epochs == int(epochs) else epochs
    settings = hyperparameters(card) | more
    for logger in trainer.loggers:
        known: Mapping[str, str] = {}
        if isinstance(logger, MLFlowLogger):  # a run that goes on may have some, and MLflow refuses other values
            known = logger.experiment.get_run(logger.run_id).data.params
        given = {name: value for name, value in settings.items() if name not in known}
        if isinstance(logger, TensorBoardLogger) and not isinstance(logger, RunLogger):
            logger.log_hyperparams(given, {})  # for hparams.yaml; by default, it logs a metric without meaning
            logger.experiment.file_writer.add_summary(settings_summary(given))
        else:
            logger.log_hyperparams(given)


def log_figures(loggers: Sequence[Logger], drawn: Mapping[str, Figure], step: int) -> None:
    """Hands the figures to the loggers that take any, in the groups `test` and `train`."""
    with figures.drawing(), tempfile.TemporaryDirectory() as folder:
        for name, figure in drawn.items():
            name = OF_TRAINING.get(name, f"test/{name}")
            for logger in loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_figure(name, figure, step)
                elif isinstance(logger, MLFlowLogger):
                    logger.experiment.log_figure(logger.run_id, figure, f"{name}.png")
                elif hasattr(logger, "log_image"):  # Weights & Biases, and loggers like it
                    path = figures.save(figure, Path(folder) / f"{name.replace('/', ' ')}.png")
                    logger.log_image(name, [str(path)], step=step)
        for logger in loggers:
            logger.save()
