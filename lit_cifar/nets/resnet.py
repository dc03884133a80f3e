"""ResNets (He et al., arXiv 1512.03385), for images of 32 pixels.

`ResNet18`, `ResNet34` and `ResNet50` are those of ImageNet with a 3×3 convolution and no pooling at the start, as in
kuangliu/pytorch-cifar, so that the last blocks still see 4×4 places. `ResNet20`, `ResNet56` and `ResNet110` are those
that the paper trains on CIFAR-10, with 16, 32 and 64 channels and shortcuts without parameters.

| network   | parameters | multiplications an image | published: CIFAR-10 | CIFAR-100 |
| --------- | ---------- | ------------------------ | ------------------- | --------- |
| ResNet20  | 269,722    | 40.6 million             | 91.25 %             |           |
| ResNet56  | 853,018    | 125 million              | 93.03 %             |           |
| ResNet110 | 1,727,962  | 253 million              | 93.57 %             |           |
| ResNet18  | 11,173,962 | 555 million              | 93.02 %             | 75.61 %   |
| ResNet34  | 21,282,122 | 1.16 billion             |                     | 76.76 %   |
| ResNet50  | 23,520,842 | 1.30 billion             | 93.62 %             | 77.39 %   |
"""

import torch
from torch import Tensor, nn

from lit_cifar.nets import Published
from lit_cifar.nets.cpu.layers import Convolution, Norm

PAPER = "He et al., arXiv 1512.03385, 182 epochs"
KUANGLIU = "github.com/kuangliu/pytorch-cifar, 200 epochs"
WEIAICUNZAI = "github.com/weiaicunzai/pytorch-cifar100, 200 epochs"


class Block(nn.Module):
    """Two 3×3 convolutions with batch normalisation, and a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = Convolution(channels_in, channels, stride), Norm(channels)
        self.conv2, self.norm2 = Convolution(channels, channels), Norm(channels)
        self.shortcut = _projection(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, channels, H / stride, W / stride]` for `[N, channels_in, H, W]`."""
        y = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(y)) + self.shortcut(x)).relu()


class Bottleneck(nn.Module):
    """A 3×3 convolution between two of 1×1, which reduce and restore the channels, and a shortcut."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        out = channels * self.expansion
        self.conv1, self.norm1 = nn.Conv2d(channels_in, channels, 1, bias=False), Norm(channels)
        self.conv2, self.norm2 = Convolution(channels, channels, stride), Norm(channels)
        self.conv3, self.norm3 = nn.Conv2d(channels, out, 1, bias=False), Norm(out)
        self.shortcut = _projection(channels_in, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, 4 · channels, H / stride, W / stride]` for `[N, channels_in, H, W]`."""
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(y)).relu()
        return (self.norm3(self.conv3(y)) + self.shortcut(x)).relu()


class ResNet18(nn.Module):
    """Four stages of two blocks, with 64, 128, 256 and 512 channels.

    Args:
        num_classes: Number of logits.
    """

    published: tuple[Published, ...] = (
        Published("CIFAR-10", 93.02, KUANGLIU),
        Published("CIFAR-100", 75.61, WEIAICUNZAI),
    )
    depths = (2, 2, 2, 2)
    block: type[Block] | type[Bottleneck] = Block

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes
        stages, channels_in = list[nn.Module](), 64
        for channels, stride, depth in zip((64, 128, 256, 512), (1, 2, 2, 2), self.depths, strict=True):
            for block in range(depth):
                stages.append(self.block(channels_in, channels, 1 if block else stride))
                channels_in = channels * self.block.expansion
        self.stem = nn.Sequential(Convolution(3, 64), Norm(64), nn.ReLU())
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels_in, num_classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, num_classes]` of normalised images `[N, 3, H, W]`."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        return self.head(self.stages(x).mean((2, 3)))


class ResNet34(ResNet18):
    """Four stages of 3, 4, 6 and 3 blocks."""

    published: tuple[Published, ...] = (Published("CIFAR-100", 76.76, WEIAICUNZAI),)
    depths = (3, 4, 6, 3)


class ResNet50(ResNet34):
    """Four stages of 3, 4, 6 and 3 bottlenecks."""

    published = (Published("CIFAR-10", 93.62, KUANGLIU), Published("CIFAR-100", 77.39, WEIAICUNZAI))
    block = Bottleneck


class PaddedBlock(nn.Module):
    """Two 3×3 convolutions; a shortcut to more channels takes every second pixel and adds zeros (option A)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = Convolution(channels_in, channels, stride), Norm(channels)
        self.conv2, self.norm2 = Convolution(channels, channels), Norm(channels)
        self.stride, self.more = stride, channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, channels, H / stride, W / stride]` for `[N, channels_in, H, W]`."""
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        if self.more:
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return (y + x).relu()


class ResNet20(nn.Module):
    """Three stages of 3 blocks, with 16, 32 and 64 channels.

    Args:
        num_classes: Number of logits.
    """

    published = (Published("CIFAR-10", 91.25, PAPER),)
    depth = 3

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes
        stages, channels_in = list[nn.Module](), 16
        for channels, stride in ((16, 1), (32, 2), (64, 2)):
            for block in range(self.depth):
                stages.append(PaddedBlock(channels_in, channels, 1 if block else stride))
                channels_in = channels
        self.stem = nn.Sequential(Convolution(3, 16), Norm(16), nn.ReLU())
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(64, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, num_classes]` of normalised images `[N, 3, H, W]`."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        return self.head(self.stages(x).mean((2, 3)))


class ResNet56(ResNet20):
    """Three stages of 9 blocks."""

    published = (Published("CIFAR-10", 93.03, PAPER),)
    depth = 9


class ResNet110(ResNet20):
    """Three stages of 18 blocks."""

    published = (Published("CIFAR-10", 93.57, PAPER),)
    depth = 18


def _projection(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    shortcut = nn.Sequential()
    if stride != 1 or channels_in != channels:
        shortcut.append(nn.Conv2d(channels_in, channels, 1, stride, bias=False))
        shortcut.append(nn.BatchNorm2d(channels))
    return shortcut
