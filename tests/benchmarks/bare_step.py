"""The net, loss, optimizer, precision and batches of a recipe in a loop with nothing else: what a step costs at least.

    python tests/benchmarks/bare_step.py RECIPE ROOT BATCH_SIZE STEPS

BATCH_SIZE 0 is the recipe's. Images have their own size throughout. Prints JSON: milliseconds a step.
"""

import json
import sys
import time
from itertools import islice
from pathlib import Path

import torch
import yaml
from comparisons import made
from torch.nn import functional as F  # noqa: N812

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.training.preparation import fast_precision


def main(recipe_path: str, root: str, batch_size: int, steps: int) -> None:
    """Trains."""
    recipe = yaml.safe_load(Path(recipe_path).read_text())
    torch.manual_seed(0)
    data = CIFAR10DataModule(
        root, **recipe["data"] | {"val_size": 0} | ({"batch_size": batch_size} if batch_size else {})
    )
    loader = data.train_dataloader()
    batches = (batch for _ in iter(int, 1) for batch in loader)  # epoch after epoch
    model = recipe["model"]
    net = made(model["net"])
    optimizer = made(model["optimizer"], net.parameters())
    criterion = made(model["loss"]) if isinstance(model["loss"], dict) else F.cross_entropy
    bf16 = recipe.get("fast_precision", False) and fast_precision(torch.device("cpu")) == "bf16-mixed"
    started = time.perf_counter()
    for images, labels in islice(batches, steps):
        optimizer.zero_grad()
        size = model.get("slice_size") or len(images)
        for part, part_labels in zip(images.split(size), labels.split(size), strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = criterion(net(part), part_labels)
            (loss * (len(part) / len(images))).backward()
        optimizer.step()
    print(json.dumps({"value": (time.perf_counter() - started) / steps * 1000}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
