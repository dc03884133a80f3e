"""The tutorial's own loop, as its reader would write it: torchvision's transforms, a DataLoader with 2 workers,
loss.item() each step. For any recipe of ours, so that speed.py compares like with like.

    python tests/benchmarks/plain_pytorch.py RECIPE ROOT BATCH_SIZE EPOCHS SEED

Images lie in memory, as in torchvision.datasets.CIFAR10. BATCH_SIZE 0 is the
recipe's. Prints JSON: milliseconds a step of the loop alone, accuracy.
"""

import json
import random
import sys
import time
from pathlib import Path

import torch
import yaml
from comparisons import made, mean_and_std
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms

from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.sources import open_images


class InMemory(Dataset[tuple[Tensor, int]]):
    """What torchvision.datasets.CIFAR10 is, for images from anywhere."""

    def __init__(self, images: ImageSet, transform: transforms.Compose) -> None:
        self.data, self.targets = images.images.permute(0, 2, 3, 1).numpy().copy(), images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.data[i])), self.targets[i]


def main(recipe_path: str, root: str, batch_size: int, epochs: int, seed: int) -> None:
    """Trains and tests, as the tutorial does."""
    recipe = yaml.safe_load(Path(recipe_path).read_text())
    data, model = recipe["data"], recipe["model"]
    batch_size = batch_size or data["batch_size"]
    torch.manual_seed(seed)
    random.seed(seed)
    normalise = [transforms.ToTensor(), transforms.Normalize(*mean_and_std(recipe))]
    augment: list[object] = []
    if data.get("flip"):
        augment.append(transforms.RandomHorizontalFlip())
    if crop := data.get("crop"):
        augment.append(transforms.RandomCrop(32, padding=crop, padding_mode="reflect"))
    images = open_images(Path(root))
    trainset = InMemory(images.train, transforms.Compose(augment + normalise))
    held_out = data["val_size"] if isinstance(data["val_size"], int) else round(data["val_size"] * len(trainset))
    kept = torch.randperm(len(trainset))[held_out:].tolist()
    trainloader = DataLoader(Subset(trainset, kept), batch_size=batch_size, shuffle=True, num_workers=2)
    testset = InMemory(images.test, transforms.Compose(normalise))
    testloader = DataLoader(testset, batch_size=batch_size, shuffle=False, num_workers=2)

    net = made(model["net"])
    criterion = torch.nn.CrossEntropyLoss()
    options = {name: value for name, value in model["optimizer"]["init_args"].items() if name != "fused"}
    optimizer = made(model["optimizer"] | {"init_args": options}, net.parameters())
    started, steps = time.perf_counter(), 0
    for epoch in range(epochs):
        running_loss = 0.0
        for i, (inputs, labels) in enumerate(trainloader):
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            steps += 1
            if i % 2000 == 1999:
                print(f"[{epoch + 1}, {i + 1:5d}] loss: {running_loss / 2000:.3f}", file=sys.stderr)
                running_loss = 0.0
    seconds = time.perf_counter() - started

    correct = total = 0
    with torch.no_grad():
        for inputs, labels in testloader:
            predicted = net(inputs).argmax(1)
            total += labels.size(0)
            correct += (predicted == labels).sum().item()
    print(json.dumps({"value": seconds / steps * 1000, "accuracy": correct / total}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
