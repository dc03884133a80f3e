"""DenseNet-BC (Huang et al., arXiv 1608.06993): each layer sees the outputs of all layers before it in its block.

`B` stands for the 1×1 convolution in front of each 3×3 one, `C` for the layers between blocks that compress the
channels. With a depth of 100 and a growth of 12 it has 769,162 parameters with 10 classes and 288 million
multiplications an image. Published: 95.49 % on CIFAR-10 and 77.73 % on CIFAR-100, with flips and crops.
"""

import torch
from torch import Tensor, nn

from lit_cifar.nets import Published
from lit_cifar.nets.cpu.layers import Convolution, Norm

BOTTLENECK = 4  # channels between the two convolutions of a layer, as a multiple of the growth
AUTHORS = "github.com/liuzhuang13/DenseNet, 300 epochs"


class Layer(nn.Module):
    """A 1×1 and a 3×3 convolution, each after normalization and ReLU; their output is joined to the input."""

    def __init__(self, channels_in: int, growth: int, dropout: float) -> None:
        super().__init__()
        between = BOTTLENECK * growth
        self.norm1, self.conv1 = Norm(channels_in), nn.Conv2d(channels_in, between, 1, bias=False)
        self.norm2, self.conv2 = Norm(between), Convolution(between, growth)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, channels_in + growth, H, W]` for `[N, channels_in, H, W]`."""
        y = self.conv1(self.norm1(x).relu())
        y = self.conv2(self.norm2(y).relu())
        return torch.cat((x, self.dropout(y)), 1)


class Transition(nn.Module):
    """Normalization, ReLU, a 1×1 convolution to fewer channels, and the mean of 2×2 pixels."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = Norm(channels_in), nn.Conv2d(channels_in, channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, channels, H // 2, W // 2]` for `[N, channels_in, H, W]`."""
        return self.pool(self.conv(self.norm(x).relu()))


class DenseNet(nn.Module):
    """Three dense blocks, with transitions between them.

    Args:
        num_classes: Number of logits.
        depth: Number of layers: 6n + 4, for n layers of two convolutions in a block.
        growth: Channels that each layer adds.
        reduction: Share of its channels that a transition keeps.
        dropout: Probability that a number in the output of a layer is dropped.
    """

    published = (Published("CIFAR-10", 95.49, AUTHORS), Published("CIFAR-100", 77.73, AUTHORS))

    def __init__(
        self, num_classes: int = 10, depth: int = 100, growth: int = 12, reduction: float = 0.5, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth {depth} must be 10, 16, 22, …, 100 or another 6n + 4")
        if growth < 1:
            raise ValueError(f"growth {growth} must be at least 1")
        if not 0.1 <= reduction <= 1:
            raise ValueError(f"reduction {reduction} must be between 0.1 and 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout} must be at least 0 and less than 1")
        self.num_classes, self.depth, self.growth = num_classes, depth, growth
        self.reduction, self.dropout = reduction, dropout
        channels = 2 * growth
        self.stem = Convolution(3, channels)
        self.blocks = nn.Sequential()
        for block in range(3):
            if block:
                self.blocks.append(Transition(channels, int(channels * reduction)))
                channels = int(channels * reduction)
            for _ in range((depth - 4) // 6):
                self.blocks.append(Layer(channels, growth, dropout))
                channels += growth
        self.norm = Norm(channels)
        self.head = nn.Linear(channels, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        nn.init.zeros_(self.head.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, num_classes]` of normalized images `[N, 3, H, W]`."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        return self.head(self.norm(self.blocks(x)).relu().mean((2, 3)))
