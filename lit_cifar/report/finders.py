"""Lightning's LearningRateFinder and BatchSizeFinder: they run before training, and `Finders` says what they found.

The optimizer and its schedule are made again from what was found: see `LitClassifier.on_fit_start`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import BatchSizeFinder, Callback, LearningRateFinder
from pytorch_lightning.tuner import lr_finder
from tqdm.auto import tqdm

from lit_cifar.errors import UsageError
from lit_cifar.report import tables
from lit_cifar.report.run_report import run_folder
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.trainer import learning_rate_is_updated

FINDERS = (LearningRateFinder, BatchSizeFinder)
BETA = 0.98  # of Lightning's running mean


class Finders(Callback):
    """Refuses what Lightning's finders can't do, and says what they found."""

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Refuses an optimizer whose learning rates differ, since LearningRateFinder makes them all one.

        Raises:
            UsageError: it has several.
        """
        if stage != "fit":
            return
        lr_finder.tqdm = partial(tqdm, disable=None)  # type: ignore[attr-defined]  # no bar where output is no terminal
        assert isinstance(pl_module, LitClassifier)
        optimizer = pl_module.new_optimizer()
        rates = {group["lr"] for group in optimizer.param_groups}
        if len(rates) > 1 and any(isinstance(callback, LearningRateFinder) for callback in trainer.callbacks):
            raise UsageError(
                f"LearningRateFinder looks for one learning rate, but {type(optimizer).__name__} has several"
                f" ({', '.join(map(str, sorted(rates)))}); leave the callback out, or take another --model.optimizer"
            )

    def on_fit_start(self, trainer: Any, pl_module: LightningModule) -> None:
        """Takes the learning rate from the finder's curve, draws the curve, and says what was found."""
        folder = run_folder(trainer)
        for callback in trainer.callbacks:
            if isinstance(callback, LearningRateFinder) and callback.optimal_lr is not None:
                rates, losses = callback.optimal_lr.results["lr"], callback.optimal_lr.results["loss"]
                smooth = smoothed(losses)
                middle = (len(losses) - len(smooth)) // 2
                found = rates[int(np.argmin(smooth)) + middle] / 10
                if learning_rate_is_updated(callback):
                    pl_module.lr = found
                if trainer.is_global_zero:
                    path = folder and folder / "lr_finder.png"
                    tables.print_found(f"learning rate {found:.2g}", "LearningRateFinder", path)
                    if path:
                        _draw(rates[middle : middle + len(smooth)], smooth.tolist(), found, path)
            elif isinstance(callback, BatchSizeFinder) and callback.optimal_batch_size and trainer.is_global_zero:
                tables.print_found(f"batch size {callback.optimal_batch_size:,}", "BatchSizeFinder")


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """The losses behind Lightning's running mean, each as the mean over a twentieth of the search around it.

    A tenth of the rate where they are least trains well (Smith, arXiv:1506.01186). Lightning's own suggestion is the
    steepest fall against the rate, not its logarithm, of a mean that begins at half of the loss: 0.00006 for the
    tutorial, with which it learns nothing.
    """
    means = np.asarray(losses) * (1 - BETA ** np.arange(2, len(losses) + 2))
    each = np.nan_to_num(np.diff(means, prepend=0) + (1 - BETA) * np.append(0, means[:-1]), nan=np.inf) / (1 - BETA)
    window = max(1, len(losses) // 20)
    return np.convolve(each, np.ones(window) / window, "valid")


def _draw(rates: Sequence[float], losses: Sequence[float], found: float, path: Any) -> None:
    from lit_cifar.report import figures

    figures.save(figures.learning_rates(rates, losses, found), path)
