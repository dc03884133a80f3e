"""Standalone: a network with its preprocessing, from the bytes of pictures to probabilities, in torch alone.

Pictures of other sizes than 32×32 are resized exactly as Pillow does it: bicubic, antialiased, first across and then
down, with weights that are multiples of 2⁻²², and rounding after each direction. float64 represents all of that
exactly, so an exported file sees the same pixels as `LitClassifier.predict`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_cifar.data.image_files import SIDE

UNIT = 2.0**22  # the weight 1 of a pixel in Pillow's integers


class Standalone(nn.Module):
    """Turns pictures, uint8 `[N, H, W, 3]`, into the probabilities of their classes, float32 `[N, C]`.

    It runs on CPU and CUDA; MPS has no float64. torch.export writes down the device that it was traced on, the CPU:
    `torch.export.passes.move_to_device_pass` moves a program to another.

    Args:
        net: Turns normalised images `[N, 3, 32, 32]` into logits `[N, C]`.
        mean: Mean of each channel, between 0 and 1, which is subtracted.
        std: Standard deviation of each channel, by which is divided.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in std])[:, None, None])
        self.register_buffer("shift", torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])[:, None, None])
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        images = resized(pictures).float() * self.scale + self.shift
        return self.net(images).float().softmax(1)


def resized(pictures: Tensor) -> Tensor:
    """Returns pixels, 0 to 255 in float64 `[N, 3, 32, 32]`, of uint8 `[N, H, W, 3]`."""
    pixels = pictures.permute(0, 3, 1, 2).double()
    columns = _bytes(pixels @ _weights(pictures.shape[2], pictures.device).T)
    return _bytes(_weights(pictures.shape[1], pictures.device) @ columns)


def _weights(size: int, device: torch.device) -> Tensor:
    """Returns the weight of each of `size` pixels in each of 32, in units, as in Pillow's Resample.c: `[32, size]`."""
    pixels = torch.arange(size, dtype=torch.float64, device=device)
    scale = (pixels[-1] + 1) / SIDE
    stretch = scale.clamp(min=1)  # antialiasing: when shrinking, the curve spans four pixels of the result
    centres = (torch.arange(SIDE, dtype=torch.float64, device=device)[:, None] + 0.5) * scale
    x = ((pixels - centres + 0.5) * (1 / stretch)).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    curve = near.where(x < 1, far.where(x < 2, torch.zeros_like(x)))
    weights = curve / curve.sum(1, keepdim=True) * UNIT
    return (weights.abs() + 0.5).floor() * weights.sign()


def _bytes(sums: Tensor) -> Tensor:
    return (sums / UNIT + 0.5).floor().clamp(0, 255)
