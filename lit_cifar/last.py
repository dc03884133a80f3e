"""last.ckpt: where training can go on from, bit for bit, after whatever ended it.

Written every minute, at the end of each epoch, and when a signal asks the run to end; whole or not at all, since
Lightning writes to memory first, and the file is renamed into place.
"""

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from lit_cifar.errors import UserError


class InterruptedRunError(UserError):
    """SIGTERM or Ctrl-C ended the run, after writing last.ckpt."""

    on_every_rank = True

    def __init__(self, signum: int, path: Path | None) -> None:
        how = f"; go on with --ckpt_path {path}" if path else ""
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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock, and takes over the two signals."""
        folder = trainer.log_dir or trainer.default_root_dir
        self.path = Path(folder) / "checkpoints" / "last.ckpt"
        self._next = time.monotonic() + self.seconds
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._handlers[signum] = signal.signal(signum, self._on_signal)
        if trainer.world_size > 1:
            # Lightning asks all ranks every step whether one had a SIGTERM, and then answers it in the signal handler,
            # where a collective can deadlock. We ask once, in `_agree`, at a place where all ranks meet.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signum

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes if it is time, or if a signal came; then the run ends here."""
        due = time.monotonic() >= self._next
        signum, due = self._agree(trainer, self._signal, due)
        if signum:
            self._save(trainer)
            raise InterruptedRunError(signum, self.path)
        if due and not self._epoch_ends(trainer, batch_idx):
            self._save(trainer)

    def _agree(self, trainer: Trainer, signum: int, due: bool) -> tuple[int, bool]:
        """The first rank's clock, and the signal that any rank had: 0.1 ms over several processes, nothing on one."""
        if trainer.world_size == 1:
            return signum, due
        first = trainer.global_rank == 0
        state = torch.tensor([signum, due and first], dtype=torch.int32, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(state, torch.distributed.ReduceOp.MAX)
        signum, due = state.tolist()
        return signum, bool(due)

    def _epoch_ends(self, trainer: Trainer, batch_idx: int) -> bool:
        """Whether validation comes next: a checkpoint before it would log its figures twice after resuming."""
        check = trainer.val_check_batch
        return batch_idx + 1 >= trainer.num_training_batches or bool(check and (batch_idx + 1) % check == 0)

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
        part = self.path.with_suffix(".part")
        try:
            trainer.save_checkpoint(part)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        if trainer.is_global_zero:
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(self.path)
        self._next = time.monotonic() + self.seconds

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the signals back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the signals back."""
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers.clear()
