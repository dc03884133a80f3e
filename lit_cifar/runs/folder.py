"""The run folder: whose it is, what Lightning writes into it, and loggers beside TensorBoard's.

Each run has a folder of its own, and holds a lock while it writes there. Everything in it is written whole or not at
all. What can't be written becomes a sentence that names the folder and the bytes, even if it was a thread of
TensorBoard's that failed.
"""

import io
import shutil
import threading
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger

from lit_cifar.data.files import PARTS, unwritable, write_whole, writing
from lit_cifar.errors import UserError
from lit_cifar.runs.state import LOCK

HYPERPARAMETERS = "events.out.tfevents.0.hyperparameters"  # sorts first: TensorBoard leaves a file for a later one
PATIENCE = 3  # seconds, for a run that was just told to end

_held: dict[Path, FileLock] = {}


def hold(folder: Path) -> None:
    """Locks a folder of checkpoints for this process until `release`, or raises UserError if another one holds it.

    The system drops the lock of a killed process.
    """
    folder = folder.resolve()
    if folder in _held or rank_zero_only.rank or not folder.is_dir():  # type: ignore[attr-defined]
        return  # filelock would make the folder
    lock = FileLock(folder / LOCK, timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        todo = "wait until it ends, or start another run without --ckpt_path and --resume, or with another"
        sentence = f"another process is still training in {folder}; {todo} --trainer.default_root_dir"
        raise UserError("run-locked", sentence) from error
    except (OSError, NotImplementedError):  # read-only, full, or a file system without locks: go on without one
        return
    _held[folder] = lock
    for part in folder.glob(PARTS):  # left by a run that was killed while it wrote a checkpoint
        shutil.rmtree(part, ignore_errors=True)


def release() -> None:
    """Unlocks all folders."""
    while _held:
        _held.popitem()[1].release()


def new_version(runs: Path) -> str:
    """Makes the next `version_N` in a folder of runs, or raises UserError; no other process gets the same."""
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return "version_0"  # Lightning takes the first rank's
    with writing(runs):
        runs.mkdir(parents=True, exist_ok=True)
        taken = [name[8:] for path in runs.iterdir() if (name := path.name).startswith("version_")]
        version = max((int(number) + 1 for number in taken if number.isdecimal()), default=0)
        while True:
            try:
                (runs / f"version_{version}").mkdir()
                return f"version_{version}"
            except FileExistsError:
                version += 1


class WholeConfig(Callback):
    """Writes `content` as `config.yaml` before training; a resumed run replaces it."""

    def __init__(self, content: str) -> None:
        self.content = content

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # broadcasts: all ranks have to ask
        if trainer.is_global_zero and trainer.loggers and folder is not None:
            write_whole(Path(folder) / "config.yaml", self.content)


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger, which goes on in the run folder `resumed` or makes a new one.

    Its failures to write become sentences. A thread writes the event file, and its error appears at the next event.
    """

    def __init__(self, root: str, name: str, resumed: str | None = None, **options: Any) -> None:
        super().__init__(root, name, **options)
        self.resumed = resumed
        self._settings: dict[str, Any] = {}

    @cached_property
    def version(self) -> str:
        """Name of the run folder, which is made when it is first asked for: a run that is refused leaves none."""
        return str(self.resumed or new_version(Path(self.root_dir)))

    @property
    def experiment(self) -> Any:
        with writing(Path(self.log_dir)):
            return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        try:
            super().log_metrics(metrics, step)
        except ValueError as error:  # Lightning takes every error for a value that can't be logged
            if isinstance(error.__cause__, OSError):
                raise unwritable(Path(self.log_dir, "events"), error.__cause__) from error
            raise

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Adds to what TensorBoard's HPARAMS tab shows of this run, beside the last values of its curves.

        It shows the first settings in a run, so a resumed run replaces them.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        if metrics:
            self.log_metrics(metrics, step)
        self._settings |= vars(params) if isinstance(params, Namespace) else dict(params)
        content, now = io.BytesIO(), time.time()
        for event in ({"file_version": "brain.Event:2"}, {"summary": settings_summary(self._settings)}):
            RecordWriter(content).write(Event(wall_time=now, **event).SerializeToString())
        write_whole(Path(self.log_dir, HYPERPARAMETERS), content.getvalue())

    @rank_zero_only
    def save(self) -> None:
        with writing(Path(self.log_dir)):
            self.experiment.flush()  # and no hparams.yaml: config.yaml holds all of it

    @rank_zero_only
    def finalize(self, status: str) -> None:
        try:
            with writing(Path(self.log_dir)):
                super().finalize(status)
        except UserError:
            if status == "success":  # otherwise the run has failed already, with an error that says more
                raise


def settings_summary(settings: Mapping[str, Any]) -> Any:
    """Returns what an event file holds of a run's settings.

    TensorBoard's table has the columns of all runs together, or, if each run lists its columns, as Lightning's logger
    does, those of the first one.
    """
    from torch.utils.tensorboard.summary import hparams

    plain = {name: value if isinstance(value, int | float | str) else str(value) for name, value in settings.items()}
    return hparams(plain, {})[1]


class PlainFolder(Logger):
    """Gives a command that logs nothing a run folder: TensorBoard's logger would leave an empty run there."""

    def __init__(self, runs: Path) -> None:
        super().__init__()
        self._runs = runs

    @property
    def name(self) -> str:
        return self._runs.name

    @cached_property
    def version(self) -> str:
        """Name of the run folder, which is made when it is first asked for."""
        return new_version(self._runs)

    @property
    def save_dir(self) -> str:
        return str(self._runs / self.version)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *args: Any, **options: Any) -> None:
        pass


def quiet_about_disk_errors(arguments: threading.ExceptHookArgs) -> None:
    """Prints a thread's error, unless a thread of TensorBoard's couldn't write. For `threading.excepthook`."""
    in_tensorboard = type(arguments.thread).__module__.startswith("tensorboard.")
    if not (issubclass(arguments.exc_type, OSError) and in_tensorboard):
        threading.__excepthook__(arguments)


def mlflow_run(loggers: Iterable[Any]) -> str | None:
    """Returns the id of the MLflow run that a resumed training has to go on in, if there is one."""
    return next((logger.run_id for logger in loggers if isinstance(logger, MLFlowLogger)), None)
