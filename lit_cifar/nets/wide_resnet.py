"""Wide ResNets (Zagoruyko and Komodakis, arXiv 1605.07146): fewer blocks than in a ResNet, with more channels.

Blocks normalize and activate before they convolve, and a shortcut to more channels starts behind the first activation.
WRN-28-10 has 36,479,194 parameters with 10 classes and 5.24 billion multiplications an image. Published: 96.00 % on
CIFAR-10 and 80.75 % on CIFAR-100; with a dropout of 0.3, 96.11 and 81.15 %.
"""

import torch
from torch import Tensor, nn

from lit_cifar.nets import Published
from lit_cifar.nets.cpu.layers import Convolution, Norm

AUTHORS = "github.com/szagoruyko/wide-residual-networks, 200 epochs"


class Block(nn.Module):
    """Twice normalization, ReLU and a 3×3 convolution, with dropout between them, and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(channels_in), Convolution(channels_in, channels, stride)
        self.norm2, self.conv2 = Norm(channels), Convolution(channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.more = channels != channels_in
        if self.more:
            self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, channels, H / stride, W / stride]` for `[N, channels_in, H, W]`."""
        y = self.norm1(x).relu()
        if self.more:
            x = self.shortcut(y)
        y = self.norm2(self.conv1(y)).relu()
        return self.conv2(self.dropout(y)) + x


class WideResNet(nn.Module):
    """Three stages with 16, 32 and 64 channels times `widen`.

    Args:
        num_classes: Number of logits.
        depth: Number of layers: 6n + 4, for n blocks in a stage.
        widen: Factor of the channels.
        dropout: Probability that a number between the two convolutions of a block is dropped.
    """

    published = (Published("CIFAR-10", 96.00, AUTHORS), Published("CIFAR-100", 80.75, AUTHORS))

    def __init__(self, num_classes: int = 10, depth: int = 28, widen: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth {depth} must be 10, 16, 22, 28 or another 6n + 4")
        if widen < 1:
            raise ValueError(f"widen {widen} must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout} must be at least 0 and less than 1")
        self.num_classes, self.depth, self.widen, self.dropout = num_classes, depth, widen, dropout
        stages, channels_in = list[nn.Module](), 16
        for channels, stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
            for block in range((depth - 4) // 6):
                stages.append(Block(channels_in, channels, 1 if block else stride, dropout))
                channels_in = channels
        self.stem = Convolution(3, 16)
        self.stages = nn.Sequential(*stages)
        self.norm = Norm(channels_in)
        self.head = nn.Linear(channels_in, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        nn.init.zeros_(self.head.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, num_classes]` of normalized images `[N, 3, H, W]`."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        return self.head(self.norm(self.stages(x)).relu().mean((2, 3)))
