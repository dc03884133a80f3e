"""Images a second, shuffled, flipped, cropped, cut out and normalised, in batches of 500.

    python tests/benchmarks/loaders.py ROOT ours|torchvision

`torchvision` is its own transforms in a DataLoader with 2 workers. Prints JSON: the median of five epochs' rates, or
of torchvision's one.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

from plain_pytorch import InMemory
from torch.utils.data import DataLoader
from torchvision import transforms

from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.loader import BatchLoader
from lit_cifar.data.sources import open_images

BATCH_SIZE = 500


def main(root: str, kind: str) -> None:
    """Goes through the training images."""
    images = open_images(Path(root)).train
    loader: BatchLoader | DataLoader
    if kind == "ours":
        augmentation = Augmentation(flip=True, crop=4, cutout=8)
        loader = BatchLoader(images, BATCH_SIZE, shuffle=True, augmentation=augmentation)
    else:
        steps = [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            transforms.RandomErasing(1.0, scale=(1 / 16, 1 / 16), ratio=(1, 1)),
        ]
        dataset = InMemory(images, transforms.Compose(steps))
        loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=2)
    rates = []
    for _ in range(5 if kind == "ours" else 1):
        started, count = time.perf_counter(), 0
        for _, labels in loader:
            count += len(labels)
        rates.append(count / (time.perf_counter() - started))
    print(json.dumps({"value": median(rates)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
