"""Freed memory is kept for the next step, where the C library would return it to the system and fetch it anew."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MOST = 2**30  # bytes
OLD_GLIBC_S_MOST = 2**25


def keep_freed_memory() -> None:
    """Has glibc keep blocks of less than 1 GiB (in older versions, 32 MiB); elsewhere, does nothing.

    A training step allocates the same tensors as the one before. By default, the system gets the memory of large ones
    back, and gives it anew page by page: 3 to 7 % of a step on a CPU, and most of what differs from run to run.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, MOST)
        if not mallopt(M_MMAP_THRESHOLD, MOST):
            mallopt(M_MMAP_THRESHOLD, OLD_GLIBC_S_MOST)
