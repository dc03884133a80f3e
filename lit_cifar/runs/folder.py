"""What Lightning writes into a run folder (checkpoints, config.yaml, TensorBoard's events), made safe on a full disk.

Checkpoints and config.yaml are written whole or not at all; and what goes wrong is a sentence that names folder and
bytes, also where a thread of TensorBoard's met it.
"""

import io
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger

from lit_cifar.errors import UserError
from lit_cifar.files import unwritable, whole, write_whole, writing


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints beside their place and through to the disk, then renames them.

    Lightning's own goes through the folder for temporary files, which may be full where the run folder is not.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Writes one, on the first rank."""
        memory = io.BytesIO()
        torch.save(checkpoint, memory)
        with whole(Path(path), memory.tell()) as part, part.open("wb") as file:
            file.write(memory.getbuffer())
            file.flush()
            os.fsync(file.fileno())


class WholeConfig(Callback):
    """Writes `config.yaml` before anything is trained; a resumed run replaces it.

    Args:
        content: What the file holds.
    """

    def __init__(self, content: str) -> None:
        self.content = content
        self.is_written = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # broadcasts: all ranks must ask
        if trainer.is_global_zero and folder is not None and trainer.loggers and not self.is_written:
            write_whole(Path(folder) / "config.yaml", self.content)
        self.is_written = True


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger, which makes the run folder: one that no other process takes.

    Its event file is written by a thread, whose error comes up with the next event.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        threading.excepthook = _without_disk_errors

    def _get_next_version(self) -> int:
        version = super()._get_next_version()
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            return version  # Lightning goes by that of the first rank
        root = Path(self.root_dir)
        root.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                (root / f"version_{version}").mkdir()  # succeeds for one process alone
                return version
            except FileExistsError:
                version += 1

    @property
    def experiment(self) -> Any:
        """The writer."""
        with writing(Path(self.log_dir)):
            return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs points of curves."""
        try:
            super().log_metrics(metrics, step)
        except ValueError as error:  # to Lightning, whatever goes wrong is a value that can't be logged
            if isinstance(error.__cause__, OSError):
                raise unwritable(Path(self.log_dir, "events"), error.__cause__) from error
            raise

    @rank_zero_only
    def save(self) -> None:
        """Waits until all of it is on the disk."""
        with writing(Path(self.log_dir)):
            super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Closes the file; of a run that fails anyway, the first error is told, and not this."""
        try:
            with writing(Path(self.log_dir)):
                super().finalize(status)
        except UserError:
            if status == "success":
                raise


def _without_disk_errors(arguments: Any) -> None:
    """Prints no traceback of a thread of TensorBoard's that could not write."""
    if issubclass(arguments.exc_type, OSError) and type(arguments.thread).__module__.startswith("tensorboard."):
        return
    threading.__excepthook__(arguments)


def beside_tensorboard(asked: Any, ours: TensorBoardLogger) -> list[Logger]:
    """The loggers asked for, after ours of TensorBoard: Lightning takes the folder of the first for the run's."""
    if asked is False:
        return []
    return [ours, *([] if asked in (None, True) else [asked] if isinstance(asked, Logger) else asked)]


def mlflow_run(loggers: Iterable[Any]) -> str | None:
    """What a checkpoint must know for a resumed training to go on in the same MLflow run."""
    return next((logger._run_id for logger in loggers if isinstance(logger, MLFlowLogger)), None)
