"""Picture files decoded on all cores, with a progress bar.

A small file is mostly Python's work, and threads take turns at Python's lock. So many files go to processes of their
own, one a core, which start in 0.05 s. Each ends when its input does: none outlives the program that started it,
however that ended.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lit_cifar.data import image_files as reading
from lit_cifar.data.image_files import SIDE, Decoded, decode
from lit_cifar.errors import UserError

FILES_A_TASK = 250  # 20 ms of decoding, and a batch for a net
BYTES = SIDE * SIDE * 3  # of a picture
MANY = 1000  # files, from which on starting processes pays

T = TypeVar("T")


def decode_files(files: Sequence[Path], reader: str, title: str, use: Callable[[int, Decoded], T]) -> list[T]:
    """Decodes all files in parts, and calls `use` with where each part begins and what was read of it.

    Args:
        files: to decode.
        reader: one of `reading.READERS`.
        title: of the progress bar.
        use: runs in threads, one more than there are cores, since some wait for a part to be decoded.

    Returns:
        what `use` gave, in the order of the parts.

    Raises:
        UserError: a process that decodes died, or what `use` raises.
    """
    cores = os.cpu_count() or 1
    each = max(1, min(FILES_A_TASK, len(files) // (4 * cores)))  # a few large photographs keep all cores busy too
    starts = range(0, len(files), each)
    console = Console(stderr=True)
    with _decoders(reader, cores, len(files)) as decode_part:
        pool = ThreadPoolExecutor(cores + 1)
        try:
            used = pool.map(lambda start: use(start, decode_part(files[start : start + each])), starts)
            quiet = not console.is_terminal
            return list(track(used, title, len(starts), console=console, transient=True, disable=quiet))
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest


@contextmanager
def _decoders(reader: str, cores: int, files: int) -> Iterator[Callable[[Sequence[Path]], Decoded]]:
    """What decodes files, as many parts at once as there are cores."""
    if files < MANY:
        yield partial(decode, reader)
        return
    processes = [_Process(reader) for _ in range(cores)]
    free: SimpleQueue[_Process] = SimpleQueue()
    for process in processes:
        free.put(process)

    def decode_part(paths: Sequence[Path]) -> Decoded:
        process = free.get()
        try:
            return process.decode(paths)
        finally:
            free.put(process)

    try:
        yield decode_part
    finally:
        for process in processes:
            process.end()


def to_tensor(pixels: bytes) -> Tensor:
    """uint8 `[N, 3, 32, 32]` of what `reading.decode` gives."""
    array = np.ndarray((len(pixels) // BYTES, SIDE, SIDE, 3), np.uint8, bytearray(pixels))
    return torch.from_numpy(array).permute(0, 3, 1, 2)


class _Process:
    """A process that decodes; in a session of its own, so that Ctrl-C is not its affair."""

    def __init__(self, reader: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", reading.__name__, reader],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # it finds what was found here
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same, on Windows
        )

    def decode(self, paths: Sequence[Path]) -> Decoded:
        """Has the paths decoded."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(OSError, ValueError):  # it is gone
            self.process.stdin.write(json.dumps([str(path) for path in paths]).encode() + b"\n")
            self.process.stdin.flush()
            read, unread = json.loads(self.process.stdout.readline())
            pixels = self.process.stdout.read(len(read) * BYTES)
            if len(pixels) == len(read) * BYTES:
                return Decoded([Path(name) for name in read], pixels, unread)
        raise UserError(
            f"a process that decodes pictures died at one of {len(paths)} files from {paths[0]} on; the memory may have"
            " been full: end other programs, or take fewer pictures at a time"
        )

    def end(self) -> None:
        """Nothing of it is needed any more."""
        self.process.kill()
        self.process.communicate()
