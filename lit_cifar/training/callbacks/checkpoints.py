"""best.ckpt, and last.ckpt, from which a training goes on bit for bit, however it ended."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from lit_cifar.errors import UserError
from lit_cifar.runs.checkpoint import RunCheckpoints, readable
from lit_cifar.runs.folder import hold
from lit_cifar.training.trainer import is_between_steps

SECONDS_TO_ANSWER = 0.2  # in which several processes notice a signal to one of them


class BestCheckpoint(ModelCheckpoint):
    """Writes `checkpoints/best.ckpt` when validation accuracy rises: exact over interruptions.

    Lightning's ModelCheckpoint forgets the newest score when it resumes, and every score if the run folder was moved.
    """

    def __init__(self) -> None:
        super().__init__(monitor="val/accuracy", mode="max", filename="best", enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken, in the present run folder."""
        path = str(Path(self.dirpath or "") / "best.ckpt")  # the next best deletes it
        if not state_dict["best_model_path"] or not Path(path).exists():  # only last.ckpt was moved
            return
        paths = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
        super().load_state_dict(state_dict | paths | {"best_k_models": {path: state_dict["best_model_score"]}})
        self.current_score = state_dict["current_score"]


class InterruptedRunError(UserError):
    """SIGTERM or Ctrl-C ended the run; last.ckpt is written unless nothing was trained yet."""

    on_every_rank = True

    def __init__(self, signum: int, path: Path) -> None:
        how = f"; resume it with --ckpt_path {path}" if path.exists() else ""
        super().__init__("interrupted", f"stopped by {signal.Signals(signum).name}{how}")
        self.exit_code = 128 + signum


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` every so many `seconds`, at the end of each epoch, and when a signal comes."""

    answers_signals = True  # lit_cifar.Trainer leaves SIGTERM to this callback

    def __init__(self, seconds: float = 60) -> None:
        self.seconds = seconds
        self._signal = 0
        self._handlers = ExitStack()  # restores those of before

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = RunCheckpoints()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        schedules: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
        for each in (*trainer.callbacks, *schedules, *trainer.optimizers):  # type: ignore[attr-defined]
            readable(each.state_dict(), type(each).__name__)  # or the first checkpoint would be refused
        self.path = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        hold(self.path.parent)
        self._next = time.monotonic() + self.seconds
        # When several processes last asked each other, batches since then, and batches between two times
        self._asked, self._batches, self._pause = time.monotonic(), 0, 1
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._handlers.callback(signal.signal, signum, signal.signal(signum, self._on_signal))

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signum

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Writes if it is time or a signal came, as soon as the checkpoint would be complete; a signal ends the run."""
        due = time.monotonic() >= self._next
        signum, due = self._agree(trainer, due, trainer.global_step == trainer.max_steps)
        if not signum and not due:
            return
        if not is_between_steps(trainer):
            self._pause = 1  # ask again after the next batch: no checkpoint holds gradients
            return
        self._save(trainer)
        if signum:
            raise InterruptedRunError(signum, self.path)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the run if a signal came since the last batch of the epoch before, which is written."""
        signum, _ = self._agree(trainer, False, True)
        if signum:
            raise InterruptedRunError(signum, self.path)

    def _agree(self, trainer: Trainer, due: bool, must: bool) -> tuple[int, bool]:
        """Returns the signal that any rank had, and whether a checkpoint is due by the first rank's clock.

        Ranks ask each other every SECONDS_TO_ANSWER and if they `must`: it takes 1 ms that a GPU waits for.
        """
        if trainer.world_size == 1:
            return self._signal, due
        self._batches += 1
        if self._batches < self._pause and not must:
            return 0, False
        seconds, self._asked = time.monotonic() - self._asked, time.monotonic()
        pause = max(1, int(self._batches * SECONDS_TO_ANSWER / max(seconds, 0.001)))  # some clocks tick every 16 ms
        here = [self._signal, due, pause] if trainer.global_rank == 0 else [self._signal, 0, 0]
        state = torch.tensor(here, dtype=torch.int32, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(state, torch.distributed.ReduceOp.MAX)
        signum, due, self._pause = state.tolist()
        self._batches = 0
        return signum, bool(due)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.fit_loop
        # Lightning counts an epoch that max_steps or a callback cut short as a whole one and would skip its rest
        cut_short = loop.epoch_loop.batch_progress.current.ready < trainer.num_training_batches
        counts: list[Any] = [loop.epoch_progress.total, loop.epoch_progress.current]
        for count in counts:
            count.processed -= cut_short
        self._save(trainer)
        for count in counts:
            count.processed += cut_short

    def _save(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()  # the resumed run relies on points that a killed one would lose
        trainer.save_checkpoint(self.path)
        self._next = time.monotonic() + self.seconds

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # a signal may have come since
        self._handlers.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._handlers.close()
