"""Lightning's LearningRateFinder and BatchSizeFinder: they run before training, and `Finders` reports what they found.

LitClassifier makes the optimizer and its schedule again from what was found.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from pytorch_lightning.callbacks import BatchSizeFinder, Callback, LearningRateFinder
from pytorch_lightning.tuner import lr_finder
from tqdm.auto import tqdm

from lit_cifar.errors import UsageError
from lit_cifar.report import curves, figures, tables
from lit_cifar.report.run_report import run_folder
from lit_cifar.training.trainer import learning_rate_is_updated

FINDERS = (LearningRateFinder, BatchSizeFinder)
BETA = 0.98  # of Lightning's running mean


class Finders(Callback):
    """Reports what Lightning's finders found.

    Raises UsageError if an optimizer has several learning rates, which LearningRateFinder would make all the same.
    """

    def __init__(self) -> None:
        self._search = ExitStack()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        optimizer = pl_module.new_optimizer()
        rates = {group["lr"] for group in optimizer.param_groups}
        if len(rates) > 1 and any(isinstance(callback, LearningRateFinder) for callback in trainer.callbacks):
            several = f"LearningRateFinder finds one rate, but {type(optimizer).__name__} has {sorted(rates)}"
            raise UsageError("optimizer-refused", f"{several}; use another --model.optimizer, or drop the callback")
        self._search.callback(setattr, lr_finder, "tqdm", lr_finder.tqdm)  # type: ignore[attr-defined]
        lr_finder.tqdm = partial(tqdm, disable=None)  # type: ignore[attr-defined]  # a bar only on terminals

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Sets the learning rate from the finder's curve, draws the curve, and prints what was found."""
        self._search.close()
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
                        tried = rates[middle : middle + len(smooth)]
                        figures.save(curves.learning_rates(tried, smooth.tolist(), found), path)
            elif isinstance(callback, BatchSizeFinder) and callback.optimal_batch_size and trainer.is_global_zero:
                tables.print_found(f"batch size {callback.optimal_batch_size:,}", "BatchSizeFinder")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._search.close()


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """Returns the losses behind Lightning's running mean, each as the mean over a twentieth of the search around it.

    A tenth of the rate with the smallest loss trains well (Smith, arXiv:1506.01186). Lightning's own suggestion is
    where a mean that begins at half of the loss falls most steeply against the rate instead of its logarithm: 0.00006
    for the tutorial, which learns nothing with it.
    """
    means = np.asarray(losses) * (1 - BETA ** np.arange(2, len(losses) + 2))
    each = np.nan_to_num(np.diff(means, prepend=0) + (1 - BETA) * np.append(0, means[:-1]), nan=np.inf) / (1 - BETA)
    window = max(1, len(losses) // 20)
    return np.convolve(each, np.ones(window) / window, "valid")
