"""ResNet-18 (He et al., arXiv 1512.03385) in the usual adaptation to 32×32 images.

The first layer is a 3×3 convolution without pooling, so that the last blocks still see 4×4 places. 11,173,962
parameters, 0.56 GMAC an image.
"""

import torch
from torch import Tensor, nn

from lit_cifar.nets.cpu.layers import Convolution, Norm


class Block(nn.Module):
    """Two 3×3 convolutions with batch normalisation, and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = Convolution(channels_in, channels, stride), Norm(channels)
        self.conv2, self.norm2 = Convolution(channels, channels), Norm(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut.append(nn.Conv2d(channels_in, channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, channels, H / stride, W / stride]` for `[N, channels_in, H, W]`."""
        y = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(y)) + self.shortcut(x)).relu()


class ResNet18(nn.Module):
    """Four stages of two blocks, with 64, 128, 256 and 512 channels.

    Args:
        num_classes: Number of logits.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes
        stages, channels_in = list[nn.Module](), 64
        for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            stages += [Block(channels_in, channels, stride), Block(channels, channels, 1)]
            channels_in = channels
        self.stem = nn.Sequential(Convolution(3, 64), Norm(64), nn.ReLU())
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(512, num_classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, num_classes]` of normalised images `[N, 3, 32, 32]`."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        return self.head(self.stages(x).mean((2, 3)))
