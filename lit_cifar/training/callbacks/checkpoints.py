"""best.ckpt, and last.ckpt, from which a training goes on bit for bit, however it ended.

Lightning does not call `on_train_epoch_start` if a training is resumed in the middle of an epoch. If a callback that we
don't know does something there, last.ckpt is written at the ends of epochs only, so that the next one starts from its
beginning.
"""

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint, StochasticWeightAveraging

from lit_cifar.errors import UsageError, UserError
from lit_cifar.runs.checkpoint import Checkpoint as Written
from lit_cifar.runs.checkpoint import RunCheckpoints, readable
from lit_cifar.runs.folder import hold
from lit_cifar.training.trainer import is_between_steps

SECONDS_TO_ANSWER = 0.2  # in which several processes notice a signal to one of them
HARMLESS = (
    "lit_cifar.",
    "pytorch_lightning.callbacks.callback",
    "pytorch_lightning.callbacks.gradient_accumulation_scheduler",  # LitClassifier calls it when it resumes
    "pytorch_lightning.callbacks.lr_monitor",
    "pytorch_lightning.callbacks.progress",
)
"""Modules whose `on_train_epoch_start` changes nothing, or nothing that a resumed training would lack."""


def act_at_epoch_starts(parts: Sequence[Callback | LightningModule]) -> list[str]:
    """Returns the names of the classes that may change something at the start of an epoch."""
    return [type(each).__name__ for each in parts if not each.on_train_epoch_start.__module__.startswith(HARMLESS)]


def check_callbacks(checkpoint: Written, callbacks: Sequence[Callback], module: LightningModule) -> None:
    """Raises UsageError if a callback could not go on from a checkpoint as if nothing had interrupted it."""
    named, content = f"--ckpt_path {checkpoint.path}", checkpoint.content
    todo = "start anew without --ckpt_path and --resume"
    for callback in callbacks:
        state = content.get("callbacks", {}).get(callback.state_key, {})
        if isinstance(callback, StochasticWeightAveraging) and state.get("latest_update_epoch", -1) >= 0:
            sentence = f"{named} was written after StochasticWeightAveraging had begun, which can't go on from there"
            raise UsageError("callback-unresumable", f"{sentence}; {todo}")
    progress = content.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    is_in_epoch = progress.get("current", {}).get("ready", 0) > 0 and not progress.get("is_last_batch", True)
    if is_in_epoch and (names := act_at_epoch_starts([*callbacks, module])):
        sentence = f"{named} was written in the middle of an epoch, at whose start {' and '.join(names)} may act"
        raise UsageError("callback-unresumable", f"{sentence}; leave it out, or {todo}")


class BestCheckpoint(ModelCheckpoint):
    """Writes `checkpoints/best.ckpt` when validation accuracy rises: exact over interruptions.

    Lightning's ModelCheckpoint forgets the newest score when it resumes, and every score if the run folder was moved.
    """

    def __init__(self) -> None:
        super().__init__(monitor="accuracy/val", mode="max", filename="best", enable_version_counter=False)

    @property
    def state_key(self) -> str:
        """As version 0.2.0 named it, so that its runs go on from their best."""
        return super().state_key.replace("accuracy/val", "val/accuracy")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken, in the present run folder."""
        path = self.format_checkpoint_name({})  # as the next best's: from another, if only by ./, it is deleted
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
        what = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        super().__init__("interrupted", f"stopped by {what}{how}")
        self.exit_code = 128 + signum


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` every so many `seconds`, at the end of each epoch, and when a signal comes.

    If something may act at the start of epochs, only at their ends; and not while StochasticWeightAveraging averages,
    until it has finished.
    """

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
        acting = act_at_epoch_starts([*trainer.callbacks, pl_module])  # type: ignore[attr-defined]
        self._at_ends = bool(acting)
        self._averages = [c for c in trainer.callbacks if isinstance(c, StochasticWeightAveraging)]  # type: ignore[attr-defined]
        if acting and trainer.is_global_zero:
            sentence = (
                f"{' and '.join(acting)} may act at the start of an epoch, so last.ckpt is written only at its end"
            )
            until = ", until weights are averaged" if self._averages else ""
            print(f"{sentence}{until}; a resumed run starts from there", flush=True)
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
        if self._at_ends:
            if signum:
                raise InterruptedRunError(signum, self.path)
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
        if self._is_averaging():
            return
        counts: list[Any] = [loop.epoch_progress.total, loop.epoch_progress.current]
        for count in counts:
            count.processed -= cut_short
        self._save(trainer)
        for count in counts:
            count.processed += cut_short

    def _is_averaging(self) -> bool:
        return any(callback.n_averaged is not None for callback in self._averages)

    def _save(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()  # the resumed run relies on points that a killed one would lose
        trainer.save_checkpoint(self.path)
        self._next = time.monotonic() + self.seconds

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # a signal may have come since
        if self._is_averaging():  # now the weights are the average
            self._save(trainer)
        self._handlers.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._handlers.close()
