"""What Lightning's loggers get after a test: the figures, if they take pictures, and what the run was."""

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONSTANT = ("recipe", "dataset", "net", "parameters", "seed", "batch_size")  # in a run, however often it is resumed


def log_report(trainer: Trainer, report: dict[str, Any], drawn: dict[str, "Figure"], step: int) -> None:
    """Hands figures and hyperparameters to each logger."""
    from lit_cifar.report import figures

    plain = {name: value for name, value in report.items() if isinstance(value, str | int | float)}
    results = {f"hp/{name}": plain.pop(name, math.nan) for name in ("test_accuracy", "test_loss")}
    with figures.drawing(), tempfile.TemporaryDirectory() as folder:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, figure in drawn.items():
                    logger.experiment.add_figure(name, figure, step)
                logger.log_hyperparams(_hyperparameters(trainer, report), results, step)
            elif isinstance(logger, MLFlowLogger):
                for name, figure in drawn.items():
                    logger.experiment.log_figure(logger.run_id, figure, f"{name}.png")
                logger.log_hyperparams({name: plain[name] for name in CONSTANT})
            else:
                logger.log_hyperparams(plain)
                if hasattr(logger, "log_image"):  # Weights & Biases, and loggers like it
                    for name, figure in drawn.items():
                        path = figures.save(figure, Path(folder) / f"{name}.png")
                        logger.log_image(name, [str(path)], step=step)
            logger.save()


def _hyperparameters(trainer: Trainer, report: dict[str, Any]) -> dict[str, Any]:
    """Returns what TensorBoard's HPARAMS tab shows: the first five names of the alphabet, and then the results."""
    tried = {name: report[name] for name in ("batch_size", "epochs", "precision", "recipe", "seed")}
    tried["net"] = report["net"].rpartition(".")[2]
    for optimizer in trainer.optimizers:  # none where a checkpoint is tested
        group = optimizer.param_groups[0]
        tried |= {"lr": group.get("initial_lr", group["lr"]), "optimizer": type(optimizer).__name__}
    return tried
