"""Layers that train faster on a CPU than torch's, and are torch's otherwise."""

import torch
from torch import Tensor, nn

from lit_cifar.nets.cpu import depthwise, narrow, winograd

FEWEST = 64  # channels in and out; with fewer, Winograd's transforms cost as much as the products save
LARGE = 5  # side of a filter from which oneDNN is slow at the gradients of depthwise convolutions
NARROW = 9  # pixels in a row up to which gradients of bf16 filters are faster with all images in one


class Convolution(nn.Conv2d):
    """A 3×3 convolution with zero padding, without bias.

    When it trains on a CPU and keeps height and width, it uses winograd.py for float32 with many channels, and
    narrow.py for bf16 images of few pixels in a row.
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels, 3, stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, channels, H / stride, W / stride]` for `[N, channels_in, H, W]`."""
        if self.stride == (1, 1) and self.training and x.device.type == "cpu" and not torch.compiler.is_compiling():
            if x.dtype == torch.bfloat16 and x.shape[3] <= NARROW:
                return narrow.convolve(x, self.weight.to(x.dtype))
            many = min(self.in_channels, self.out_channels) >= FEWEST
            if x.dtype == torch.float32 and many and not torch.is_autocast_enabled("cpu"):
                return winograd.convolve(x, self.weight)
        return super().forward(x)


class Depthwise(nn.Conv2d):
    """A convolution of each channel by itself that keeps height and width; depthwise.py when it trains on a CPU."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, groups=channels, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, channels, H, W]` for the same."""
        if self.training and x.device.type == "cpu" and not torch.compiler.is_compiling():
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
            if self.kernel_size[0] >= LARGE and {x.dtype, dtype} <= {torch.bfloat16, torch.float32} and len(x):
                assert self.bias is not None
                return depthwise.convolve(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))
        return super().forward(x)


class Norm(nn.BatchNorm2d):
    """Batch normalisation that keeps the order in memory, and accepts a last batch of a single pixel."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            try:
                return super().forward(x)  # other processes may have more
            except ValueError:  # a single pixel has no variance; normalise as in evaluation
                mean, variance = self.running_mean, self.running_var
                return nn.functional.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)
        if not _has_pixels_first(x):
            return super().forward(x)
        pixels = x.permute(2, 3, 0, 1)
        y = super().forward(pixels.reshape(1, -1, 1, x.shape[1]).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).reshape(pixels.shape).permute(2, 3, 0, 1)


class MaxPool(nn.MaxPool2d):
    """The maximum of 2×2 pixels, which keeps the order in memory."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        if not _has_pixels_first(x):
            return super().forward(x)
        images, channels, height, width = x.shape
        y = super().forward(x.permute(2, 3, 0, 1).reshape(1, height, width, -1).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(3, (images, channels))[0].permute(2, 3, 0, 1)


def _has_pixels_first(x: Tensor) -> bool:
    return x.permute(2, 3, 0, 1).is_contiguous() and not x.is_contiguous(memory_format=torch.channels_last)
