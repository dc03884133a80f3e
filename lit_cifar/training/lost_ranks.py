"""What becomes of a training on several devices if one of its processes dies: a sentence that names its rank."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch

from lit_cifar.errors import UsageError, UserError

LOST_SECONDS = 3.0  # a killed process is gone within milliseconds, but its broken connection may be noticed before that


@contextmanager
def naming_lost_ranks(trainer: pl.Trainer) -> Iterator[None]:
    """Raises UserError with the rank of a process that died, and KeyboardInterrupt instead of Lightning's exit."""
    parent, launcher = os.getppid(), trainer.strategy.launcher  # whose `procs` are the other processes
    try:
        yield
    except (UserError, OSError) as error:
        if isinstance(error, UsageError):
            error.on_every_rank = True  # all have the same values
        for process in () if getattr(error, "on_every_rank", False) else getattr(launcher, "procs", ()):
            process.kill()  # only the first rank has the error, and prints it
        raise
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's answer to Ctrl-C
            raise error.__context__ from None
        raise
    except (RuntimeError, torch.distributed.DistBackendError) as error:
        if trainer.world_size == 1 or isinstance(error, torch.OutOfMemoryError):
            raise
        until, lost = time.monotonic() + LOST_SECONDS, list[int]()
        while not lost and time.monotonic() < until:  # the first rank knows its children, and they know their parent
            processes = enumerate(getattr(launcher, "procs", ()), 1)
            lost = [rank for rank, process in processes if process.poll() is not None]
            lost += [0] if os.getppid() != parent and trainer.global_rank > 0 else []
            time.sleep(0.05)
        if not lost:
            raise
        sentence = f"the process of rank {lost[0]} died, so the run has ended; resume it with --ckpt_path last"
        raise UserError("process-lost", sentence) from error
