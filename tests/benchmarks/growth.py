"""Seconds an epoch and peak memory against the number of images: both straight lines.

    python tests/benchmarks/growth.py

Trains the tutorial's net at batch 512 for one epoch on drawn images, repeated, each time in a fresh process.
"""

import resource
import subprocess
import sys
import time

import torch

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.sources import Images
from lit_cifar.data.synthetic import draw
from lit_cifar.nets.tutorial import Net
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.trainer import Trainer

COUNTS = (10_000, 30_000, 100_000, 300_000, 1_000_000)


class Repeated(CIFAR10DataModule):
    """Drawn images, over and over."""

    def __init__(self, count: int) -> None:
        super().__init__(batch_size=512, val_size=0)
        train, test = draw()
        times = count // len(train.labels)
        repeated = ImageSet(train.images.repeat(times, 1, 1, 1), train.labels.repeat(times), train.classes)
        self.images = Images("drawn", repeated, test)


def measure(count: int) -> None:
    """Prints one line of the table."""
    data = Repeated(count)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    started = time.perf_counter()
    trainer.fit(LitClassifier(Net(), lambda weights: torch.optim.SGD(weights, lr=0.01)), datamodule=data)
    seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count:9,d} images: {seconds:6.2f} s, {seconds / count * 1e6:5.1f} µs an image, {memory:6,.0f} MiB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(int(sys.argv[1]))
    else:
        for count in COUNTS:
            subprocess.run([sys.executable, __file__, str(count)], check=True, stderr=subprocess.DEVNULL)
