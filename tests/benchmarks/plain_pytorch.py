"""The tutorial's own loop, as its reader would write it: ImageFolder, DataLoader with 2 workers, loss.item() each step.

    python tests/benchmarks/plain_pytorch.py ROOT [SEED]

ROOT holds train/<class>/* and test/<class>/*. Prints the seconds of the loop alone and the accuracy.
"""

import sys
import time

import torch
import torchvision
from torch import nn, optim
from torch.utils.data import DataLoader, Subset
from torchvision import transforms

from lit_cifar.nets.tutorial import Net

EPOCHS, BATCH_SIZE, HELD_OUT = 2, 4, 5000


def main(root: str, seed: int) -> None:
    """Trains and tests, as the tutorial does."""
    torch.manual_seed(seed)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
    trainset = torchvision.datasets.ImageFolder(f"{root}/train", transform)
    kept = torch.randperm(len(trainset))[HELD_OUT:].tolist()
    trainloader = DataLoader(Subset(trainset, kept), batch_size=BATCH_SIZE, shuffle=True, num_workers=2)
    testset = torchvision.datasets.ImageFolder(f"{root}/test", transform)
    testloader = DataLoader(testset, batch_size=BATCH_SIZE, shuffle=False, num_workers=2)

    net = Net()
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    started, steps = time.perf_counter(), 0
    for epoch in range(EPOCHS):
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
                print(f"[{epoch + 1}, {i + 1:5d}] loss: {running_loss / 2000:.3f}")
                running_loss = 0.0
    seconds = time.perf_counter() - started

    correct = total = 0
    with torch.no_grad():
        for images, labels in testloader:
            predicted = net(images).argmax(1)
            total += labels.size(0)
            correct += (predicted == labels).sum().item()
    print(f"{steps} steps in {seconds:.1f} s, {seconds / steps * 1000:.3f} ms a step; accuracy {correct / total:.4f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
