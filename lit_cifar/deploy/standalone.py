"""Standalone: a network with its preprocessing, from the bytes of pictures to probabilities, in torch alone.

Pictures of other sizes are scaled exactly as `image_files.scaled` does it with Pillow: bicubic, antialiased, first
across and then down, with weights that are multiples of 2⁻²², and rounding after each direction. float64 represents all
of that exactly, so an exported file sees the same pixels as `LitClassifier.predict`. Cutting out the middle and adding
borders are part of the weights: a pixel that is cut off has none, and a border has none of any pixel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_cifar.data.image_files import SIDE, Resize

UNIT = 2.0**22  # the weight 1 of a pixel in Pillow's integers


class Standalone(nn.Module):
    """Turns pictures, uint8 `[N, H, W, 3]`, into the probabilities of their classes, float32 `[N, C]`.

    It runs on CPU and CUDA; MPS has no float64. torch.export writes down the device that it was traced on, the CPU:
    `torch.export.passes.move_to_device_pass` moves a program to another.

    Args:
        net: Turns normalised images `[N, 3, image_size, image_size]` into logits `[N, C]`.
        mean: Mean of each channel, between 0 and 1, which is subtracted.
        std: Standard deviation of each channel, by which is divided.
        image_size: Side in pixels to which pictures are scaled.
        resize: How pictures that aren't square are scaled, as in CIFAR10DataModule.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int = SIDE,
        resize: Resize = "squeeze",
    ) -> None:
        super().__init__()
        self.net, self.image_size, self.resize = net, image_size, resize
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in std])[:, None, None])
        self.register_buffer("shift", torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])[:, None, None])
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        images = resized(pictures, self.image_size, self.resize).float() * self.scale + self.shift
        return self.net(images).float().softmax(1)


def resized(pictures: Tensor, side: int, resize: Resize) -> Tensor:
    """Returns pixels, 0 to 255 in float64 `[N, 3, side, side]`, of uint8 `[N, H, W, 3]`."""
    pixels = pictures.permute(0, 3, 1, 2).double()
    down, across = (torch.arange(size, dtype=torch.float64, device=pixels.device) for size in pictures.shape[1:3])
    columns = _bytes(pixels @ _weights(across, down, side, resize).T)
    return _bytes(_weights(down, across, side, resize) @ columns)


def _weights(pixels: Tensor, others: Tensor, side: int, resize: Resize) -> Tensor:
    """Returns the weight of each pixel in each of the result, in units, as in Pillow's Resample.c: `[side, size]`.

    Args:
        pixels: The places of the pixels in one direction, float64 `[size]`.
        others: Those in the other direction.
        side: The number of pixels of the result.
        resize: How pictures that aren't square are scaled.
    """
    places = torch.arange(side, dtype=torch.float64, device=pixels.device)[:, None]
    size, other = pixels[-1] + 1, others[-1] + 1  # as tensors, since a file takes pictures of any size
    used, shown = size, torch.full_like(size, side)  # pixels of the picture, and what they become
    if resize == "crop":
        used = size.minimum(other)
        pixels = pixels - ((size - used) / 2).floor()
    if resize == "pad":
        longest = size.maximum(other)
        shown = ((2 * side * size + longest) / (2 * longest)).floor().clamp(min=1)
        places = places - ((side - shown) / 2).floor()
    scale = used / shown
    stretch = scale.clamp(min=1)  # antialiasing: when shrinking, the curve spans four pixels of the result
    centres = (places + 0.5) * scale
    x = ((pixels - centres + 0.5) * (1 / stretch)).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    curve = near.where(x < 1, far.where(x < 2, torch.zeros_like(x)))
    if resize == "crop":
        curve = curve.where((pixels >= 0) & (pixels < used), torch.zeros_like(x))
    weights = curve / curve.sum(1, keepdim=True) * UNIT
    if resize == "pad":
        weights = weights.where((places >= 0) & (places < shown), torch.zeros_like(x))
    return (weights.abs() + 0.5).floor() * weights.sign()


def _bytes(sums: Tensor) -> Tensor:
    return (sums / UNIT + 0.5).floor().clamp(0, 255)
