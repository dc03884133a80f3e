"""The net alone on the test images, with nothing counted, at the best of several batch sizes.

    python tests/benchmarks/eval_net.py RECIPE ROOT

Prints JSON: seconds.
"""

import json
import sys
import time
from pathlib import Path

import torch
import yaml
from comparisons import made

from lit_cifar.data.datamodule import CIFAR10DataModule

BATCH_SIZES = (50, 100, 250, 500, 1000, 2000)


def main(recipe_path: str, root: str) -> None:
    """Runs the net on normalised images that lie in memory."""
    recipe = yaml.safe_load(Path(recipe_path).read_text())
    data = CIFAR10DataModule(root, **recipe["data"])
    images, _ = data.test_dataloader().take(torch.arange(len(data.images.test.labels)))
    net = made(recipe["model"]["net"]).eval()
    best = float("inf")
    with torch.inference_mode():
        for batch_size in BATCH_SIZES:
            for _ in range(3):
                started = time.perf_counter()
                for batch in images.split(batch_size):
                    net(batch)
                best = min(best, time.perf_counter() - started)
    print(json.dumps({"value": best}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
