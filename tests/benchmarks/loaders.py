"""Images a second, shuffled, augmented and normalised, in batches of 500.

    python tests/benchmarks/loaders.py ROOT ours|torchvision flip-crop-cutout|trivial-augment
    python tests/benchmarks/loaders.py ROOT ours flip-crop|mixup|cutmix

`torchvision` is its own transforms in a DataLoader with 2 workers: of PIL images as in its tutorial, or v2 of
tensors. Prints JSON: the median of five epochs' rates, or of torchvision's one.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

import torch
from plain_pytorch import InMemory
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.loader import BatchLoader
from lit_cifar.data.sources import open_images

BATCH_SIZE = 500
OURS = {
    "flip-crop-cutout": Augmentation(flip=True, crop=4, cutout=8),
    "trivial-augment": Augmentation(trivial_augment=True),
    "flip-crop": Augmentation(flip=True, crop=4),
    "mixup": Augmentation(flip=True, crop=4, mixup=0.2),
    "cutmix": Augmentation(flip=True, crop=4, cutmix=1.0),
}
TORCHVISIONS = {
    "flip-crop-cutout": transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            transforms.RandomErasing(1.0, scale=(1 / 16, 1 / 16), ratio=(1, 1)),
        ]
    ),
    "trivial-augment": v2.Compose(
        [
            v2.TrivialAugmentWide(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    ),
}


class Tensors(Dataset[tuple[Tensor, Tensor]]):
    """Images that need not be turned into tensors."""

    def __init__(self, images: ImageSet, transform: v2.Compose) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images.images[i]), self.images.labels[i]


def main(root: str, kind: str, augmentation: str) -> None:
    """Goes through the training images."""
    images = open_images(Path(root)).train
    loader: BatchLoader | DataLoader
    if kind == "ours":
        loader = BatchLoader(images, BATCH_SIZE, shuffle=True, augmentation=OURS[augmentation])
    else:
        transform = TORCHVISIONS[augmentation]
        dataset = (Tensors if isinstance(transform, v2.Compose) else InMemory)(images, transform)
        loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=2)
    rates = []
    for _ in range(5 if kind == "ours" else 1):
        started, count = time.perf_counter(), 0
        for _, labels in loader:
            count += len(labels)
        rates.append(count / (time.perf_counter() - started))
    print(json.dumps({"value": median(rates)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
