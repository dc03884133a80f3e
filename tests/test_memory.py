"""Memory that a run frees is kept for its next step."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import torch
from lit_cifar.training.preparation import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

keep_freed_memory()
before = resident()
tensors = [torch.ones(6 * 2**20) for _ in range(4)]  # 24 MiB each
del tensors
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc: others keep freed memory")
@pytest.mark.slow
def test_freed_tensors_stay_in_memory() -> None:
    kept = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert float(kept) > 90
