"""What Lightning's loggers get of a report: its header and results, and the figures."""

import math
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger

from lit_cifar.report import figures
from lit_cifar.runs.card import Description

CONSTANT = ("recipe", "dataset", "net", "net_name", "parameters", "seed", "batch_size")
"""What stays the same in a run, however often it is resumed."""
TRIED = ("batch_size", "epochs", "lr", "net", "optimizer", "precision", "recipe", "seed")
"""What TensorBoard's HPARAMS tab shows: the first five of these, and then the results."""


def log_report(loggers: list[Logger], report: dict[str, Any], optimizer: Description, drawn: dict[str, Figure]) -> None:
    """Hands the report's header and results, the optimizer and the figures to each of Lightning's loggers."""
    step = report["steps"] + 1  # that of the test's curves: a run resumed from its end drops it and writes it again
    plain = {name: value for name, value in report.items() if isinstance(value, str | int | float)}
    results = {f"hp/{name}": plain.pop(name, math.nan) for name in ("test_accuracy", "test_loss")}
    settings = plain | {"optimizer": optimizer["class_path"], "lr": optimizer["init_args"].get("lr", math.nan)}
    tried = {name: settings[name] for name in TRIED}
    tried |= {"net": settings["net_name"], "optimizer": optimizer["class_path"].rpartition(".")[2]}
    with figures.drawing(), tempfile.TemporaryDirectory() as folder:
        for logger in loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, figure in drawn.items():
                    logger.experiment.add_figure(name, figure, step)
                logger.log_hyperparams(tried, results, step)
            elif isinstance(logger, MLFlowLogger):
                for name, figure in drawn.items():
                    logger.experiment.log_figure(logger.run_id, figure, f"{name}.png")
                logger.log_hyperparams({name: settings[name] for name in CONSTANT})
            else:
                logger.log_hyperparams(settings)
                if hasattr(logger, "log_image"):  # Weights & Biases, and loggers like it
                    for name, figure in drawn.items():
                        path = figures.save(figure, Path(folder) / f"{name}.png")
                        logger.log_image(name, [str(path)], step=step)
            logger.save()
