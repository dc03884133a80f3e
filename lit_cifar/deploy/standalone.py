"""Standalone: a net with all that surrounds it, from the bytes of pictures to probabilities, in torch alone.

Pictures of another size than 32×32 are resized as Pillow does it, to the byte: bicubic, antialiased, first across and
then down, the weights multiples of 2⁻²² and the result rounded after each direction. float64 holds all of that exactly,
so that an exported file sees the same pixels as `LitClassifier.predict`; a 32×32 picture passes unchanged.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_cifar.data.image_files import SIDE

UNIT = 2.0**22  # Pillow counts the weights of a resized pixel in these


class Standalone(nn.Module):
    """Turns pictures, uint8 `[N, H, W, 3]`, into the probabilities of their classes, float32 `[N, C]`.

    It, and what is exported of it, runs on the CPU or CUDA: MPS has no float64.

    Args:
        net: turns normalised images `[N, 3, 32, 32]` into logits `[N, C]`.
        mean: of each channel, of values between 0 and 1, subtracted.
        std: of each channel, divided by.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        scale = torch.tensor([1 / (255 * s) for s in std])
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """Probabilities `[N, C]` of uint8 `[N, H, W, 3]`."""
        images = resized(pictures).float() * self.scale + self.shift
        return self.net(images).float().softmax(1)


def resized(pictures: Tensor) -> Tensor:
    """The pixels, 0 to 255 in float64 `[N, 3, 32, 32]`, of uint8 `[N, H, W, 3]`."""
    pixels = pictures.permute(0, 3, 1, 2).double()
    columns = _bytes(pixels @ _weights(pictures.shape[2], pictures.device).T)
    return _bytes(_weights(pictures.shape[1], pictures.device) @ columns)


def _weights(size: int, device: torch.device) -> Tensor:
    """How much each of `size` pixels counts, in units, for each of 32: `[32, size]`; Pillow's Resample.c."""
    pixels = torch.arange(size, dtype=torch.float64, device=device)
    scale = (pixels[-1] + 1) / SIDE
    stretch = scale.clamp(min=1)  # antialiasing: the curve spans four pixels of the larger picture or of the smaller
    centres = (torch.arange(SIDE, dtype=torch.float64, device=device)[:, None] + 0.5) * scale
    x = ((pixels - centres + 0.5) * (1 / stretch)).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    curve = near.where(x < 1, far.where(x < 2, torch.zeros_like(x)))
    weights = curve / curve.sum(1, keepdim=True) * UNIT
    return (weights.abs() + 0.5).floor() * weights.sign()


def _bytes(sums: Tensor) -> Tensor:
    return (sums / UNIT + 0.5).floor().clamp(0, 255)
