"""Several processes on the CPU, started as a user starts them."""

import subprocess
import sys
from pathlib import Path

RECIPES = Path(__file__).parent.parent / "configs"


def run(*argv: str | Path) -> str:
    command = [sys.executable, "-m", "lit_cifar", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_data_parallel_demonstration_prints_each_device_s_share() -> None:
    lines = run("fit", "--config", RECIPES / "parallel.yaml", "--trainer.devices=2").splitlines()
    full = ["\tIn Model: input size [15, 5] output size [15, 2]"] * 2
    full.append("Outside: input size [30, 5] output size [30, 2]")
    short = ["\tIn Model: input size [5, 5] output size [5, 2]"] * 2
    short.append("Outside: input size [10, 5] output size [10, 2]")
    assert [line for line in lines if "size" in line] == full * 3 + short
