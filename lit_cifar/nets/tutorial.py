"""The network of PyTorch's "Training a Classifier" tutorial, layer for layer.

62,006 parameters and 0.65 million multiplications for an image of 32×32 pixels.
https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html
"""

from torch import Tensor, nn


class Net(nn.Module):
    """Two convolutions with max-pooling, then three fully connected layers.

    Args:
        num_classes: Number of logits.
    """

    traceable = True  # the forward pass always runs the same operations, so a step can be recorded once

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, num_classes]` of normalised images `[N, 3, 32, 32]`."""
        x = self.pool(self.conv1(images).relu())
        x = self.pool(self.conv2(x).relu())
        x = self.fc1(x.flatten(1)).relu()
        x = self.fc2(x).relu()
        return self.fc3(x)
