"""last.ckpt: where training can go on from, bit for bit, after whatever ended it.

Written every minute, at the end of each epoch, and when a signal asks the run to end; whole or not at all
(see run_folder.py).
"""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from lit_cifar.errors import UserError
from lit_cifar.runs.checkpoint import RunCheckpoints
from lit_cifar.runs.folder import hold

ANSWER = 0.2  # seconds in which several processes answer a signal


class InterruptedRunError(UserError):
    """SIGTERM or Ctrl-C ended the run, after writing last.ckpt unless nothing was trained yet."""

    on_every_rank = True

    def __init__(self, signum: int, path: Path | None) -> None:
        how = f"; go on with --ckpt_path {path}" if path and path.exists() else ""
        super().__init__(f"stopped by {signal.Signals(signum).name}{how}")
        self.exit_code = 128 + signum


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` every so many seconds, at the end of each epoch, and when a signal ends the run.

    Args:
        seconds: Time between two writings in mid-epoch.
    """

    def __init__(self, seconds: float = 60) -> None:
        self.seconds = seconds
        self.path: Path | None = None
        self._next = float("inf")
        self._signal = 0
        self._handlers: dict[int, Any] = {}
        self._met, self._batches, self._meeting = 0.0, 0, 1  # when several processes met, batches since, and between

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Has all checkpoints written whole, unless the user named a plugin that writes them."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = RunCheckpoints()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock, and takes over the two signals."""
        folder = trainer.log_dir or trainer.default_root_dir
        self.path = Path(folder) / "checkpoints" / "last.ckpt"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        hold(self.path.parent)
        self._next = time.monotonic() + self.seconds
        self._met, self._batches, self._meeting = time.monotonic(), 0, 1
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._handlers[signum] = signal.signal(signum, self._on_signal)
        if trainer.world_size > 1:
            # Lightning asks all ranks every step whether one had a SIGTERM, and then answers it in the signal handler,
            # where a collective can deadlock. We ask in `_agree`, at a place where all ranks meet.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signum

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes if it is time, or if a signal came; then the run ends, after validation if that is next."""
        due = time.monotonic() >= self._next
        signum, due = self._agree(trainer, self._signal, due, trainer.global_step == trainer.max_steps)
        if not signum and not due:
            return
        if trainer.fit_loop._should_accumulate() or self._validation_follows(trainer):
            self._meeting = 1  # ask again after the next batch: no checkpoint holds gradients
            return
        self._save(trainer)
        if signum:
            raise InterruptedRunError(signum, self.path)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the run if a signal came since the last batch of the epoch before, of which all is written."""
        self._end_if_asked(trainer)

    def _end_if_asked(self, trainer: Trainer) -> None:
        signum, _ = self._agree(trainer, self._signal, False, True)
        if signum:
            raise InterruptedRunError(signum, self.path)

    def _agree(self, trainer: Trainer, signum: int, due: bool, must: bool) -> tuple[int, bool]:
        """The first rank's clock, and the signal that any rank had.

        Several processes ask each other every ANSWER seconds, and where they `must`: 1 ms, which a GPU would wait for.
        """
        if trainer.world_size == 1:
            return signum, due
        self._batches += 1
        if self._batches < self._meeting and not must:
            return 0, False
        seconds, self._met = time.monotonic() - self._met, time.monotonic()
        pause = max(1, int(self._batches * ANSWER / max(seconds, 0.001)))  # batches; some clocks tick every 16 ms
        said = [signum, due, pause] if trainer.global_rank == 0 else [signum, 0, 0]
        state = torch.tensor(said, dtype=torch.int32, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(state, torch.distributed.ReduceOp.MAX)
        signum, due, self._meeting = state.tolist()
        self._batches = 0
        return signum, bool(due)

    def _validation_follows(self, trainer: Trainer) -> bool:
        """Whether validation or the epoch's end comes next: resumed from before a validation, Lightning leaves it out.

        Where it follows every batch, we write none the less, and answer signals.
        """
        loop = trainer.fit_loop
        if loop.epoch_loop._num_ready_batches_reached():
            return True
        assert loop._data_fetcher is not None
        return trainer.val_check_batch != 1 and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes, after validation."""
        loop = trainer.fit_loop
        # Lightning counts an epoch that max_steps or a callback cut short as a whole one, and would skip its rest
        cut_short = loop.epoch_loop.batch_progress.current.ready < trainer.num_training_batches
        counts: list[Any] = [loop.epoch_progress.total, loop.epoch_progress.current]
        for count in counts:
            count.processed -= cut_short
        self._save(trainer)
        for count in counts:
            count.processed += cut_short

    def _save(self, trainer: Trainer) -> None:
        assert self.path is not None
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()  # points that a killed run would lose, and the resumed one takes for written
        trainer.save_checkpoint(self.path)
        self._next = time.monotonic() + self.seconds

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the run if a signal came since its last batch, and gives the signals back."""
        self._end_if_asked(trainer)
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back."""
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers.clear()
