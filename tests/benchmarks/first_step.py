"""A callback for the comparison `start` of speed.py; a module of its own, since fit imports it while the clock runs."""

import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback


class FirstStep(Callback):
    """Writes down when the first optimizer step was done.

    Args:
        path: File to write.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.path.write_text(str(time.time()), encoding="utf-8")
