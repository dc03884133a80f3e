"""Files a second that Pillow decodes and resizes, in a process a core, their start included.

    python tests/benchmarks/pillow.py ROOT

The files are those of ROOT/test. Prints JSON: the median of five rates.
"""

import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

from PIL import Image


def decode(file: Path) -> tuple[int, int]:
    """Decodes and resizes a file."""
    with Image.open(file) as picture:
        return picture.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC).size


def main(root: str) -> None:
    """Goes through the pictures."""
    files = sorted(path for path in (Path(root) / "test").rglob("*") if path.is_file())
    rates = []
    for _ in range(5):
        started = time.perf_counter()
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            count = len(list(pool.map(decode, files, chunksize=100)))
        rates.append(count / (time.perf_counter() - started))
    print(json.dumps({"value": median(rates)}))


if __name__ == "__main__":
    main(sys.argv[1])
