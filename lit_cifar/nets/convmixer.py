"""ConvMixer (Trockman and Kolter, arXiv 2201.09792): patches that convolutions mix, first across places, then channels.

With the sizes of locuslab/convmixer-cifar10, ConvMixer-256/8 with patches of 2×2 and kernels of 5×5, it has 594,186
parameters with 10 classes and 148 million multiplications an image. Published: 92.60 % on CIFAR-10 after 25 epochs and
more than 94 % after 100, both by its authors; 73.92 % on CIFAR-100 by aliborji/splitmixer.
"""

import torch
from torch import Tensor, nn

from lit_cifar.nets import Published
from lit_cifar.nets.cpu.layers import Depthwise, Norm


class Mixer(nn.Module):
    """A convolution of each channel by itself, added to its input, and a 1×1 convolution; GELU and norm after both."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.places = Depthwise(width, kernel_size)
        self.norm1 = Norm(width)
        self.channels = nn.Conv2d(width, width, 1)
        self.norm2 = Norm(width)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, width, H, W]` for the same."""
        x = x + self.norm1(self.activation(self.places(x)))
        return self.norm2(self.activation(self.channels(x)))


class ConvMixer(nn.Module):
    """Patches, `depth` mixers that all see as many places and channels, and a linear layer.

    Args:
        num_classes: Number of logits.
        width: Number of channels.
        depth: Number of mixers.
        kernel_size: Side of the convolutions across places, an odd number.
        patch_size: Side of a patch in pixels.
    """

    published = (
        Published("CIFAR-10", 92.60, "github.com/locuslab/convmixer-cifar10, 25 epochs"),
        Published("CIFAR-100", 73.92, "github.com/aliborji/splitmixer"),
    )

    def __init__(
        self, num_classes: int = 10, width: int = 256, depth: int = 8, kernel_size: int = 5, patch_size: int = 2
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("depth", depth), ("patch_size", patch_size)):
            if value < 1:
                raise ValueError(f"{name} {value} must be at least 1")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} must be an odd number, so that height and width stay the same")
        self.num_classes, self.width, self.depth = num_classes, width, depth
        self.kernel_size, self.patch_size = kernel_size, patch_size
        self.stem = nn.Sequential(nn.Conv2d(3, width, patch_size, patch_size), nn.GELU(), Norm(width))
        self.mixers = nn.Sequential(*(Mixer(width, kernel_size) for _ in range(depth)))
        self.head = nn.Linear(width, num_classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, num_classes]` of normalized images `[N, 3, H, W]`."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        return self.head(self.mixers(x).mean((2, 3)))
