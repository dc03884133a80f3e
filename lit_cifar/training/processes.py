"""Several processes: when one dies, the others say which, and end; and all leave in good order."""

import atexit
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from lit_cifar.errors import UsageError, UserError

SECONDS = 3.0  # a killed process is gone within milliseconds; a broken connection may be noticed before that


@contextmanager
def naming_lost_ranks(trainer: Trainer) -> Iterator[None]:
    """Turns the broken connection that a dead process leaves into one sentence that names its rank.

    Raises:
        UserError: another process died.
        KeyboardInterrupt: Ctrl-C, for which Lightning would leave without a word.
    """
    parent = os.getppid()
    try:
        yield
    except (UserError, OSError) as error:
        if isinstance(error, UsageError):
            error.on_every_rank = True  # all have the same values
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher) and not getattr(error, "on_every_rank", False):
            for process in launcher.procs:
                process.kill()  # the first rank alone has it, and tells it
        raise
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's answer to Ctrl-C
            raise error.__context__ from None
        raise
    except (RuntimeError, torch.distributed.DistBackendError) as error:
        if trainer.world_size > 1 and not isinstance(error, torch.OutOfMemoryError):
            rank = _lost_rank(trainer, parent)
            if rank is not None:
                raise UserError(
                    f"the process of rank {rank} died, so the run has ended; go on from its last checkpoint with"
                    " --ckpt_path last"
                ) from error
        raise


def leave_process_group_at_exit() -> None:
    """Gloo's threads, where they still run at the end, sometimes abort the process; Lightning ends NCCL's alone."""
    atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _lost_rank(trainer: Trainer, parent: int) -> int | None:
    """The rank whose process is gone: the first knows its children, and they know their parent."""
    launcher = trainer.strategy.launcher
    children = launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else []
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if os.getppid() != parent and trainer.global_rank > 0:
            return 0
        for rank, process in enumerate(children, start=1):
            if process.poll() is not None:
                return rank
        time.sleep(0.05)
    return None
