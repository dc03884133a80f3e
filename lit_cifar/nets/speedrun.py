"""A network for records: a fixed whitening layer, then three groups of convolutions.

1,972,792 parameters and 118 million multiplications an image. Published for airbench94: 94.01 % on CIFAR-10.

The architecture is that of Keller Jordan's airbench94 (arXiv 2404.00498), which descends from David Page's and
tysam-code's networks: the first layer turns 2×2 patches into uncorrelated numbers and is computed from the images,
convolutions start as the identity, and batch normalisation learns no gain. With a depth of 3 and widths of 128, 384
and 512 it is airbench96's, with 9,918,776 parameters. Images may have any side from 16 pixels, so training can start
with small ones.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lit_cifar.nets import Published
from lit_cifar.nets.cpu.layers import Convolution, MaxPool, Norm

PATCH = 2  # side of the patches that are whitened
BIAS_LEARNS = 0.1  # share of the training in which the whitening layer's bias learns; airbench 0.37, hiverge 0.025
STEEPNESS = 1.702  # SiLU of inputs this much larger is within 0.02 of GELU (arXiv 1606.08415), in 0.6 of its time
EPSILON = 5e-4  # added to the variance of a patch's components, so that noise is not amplified


class Group(nn.Module):
    """Convolution, pooling, one or two more convolutions, each with norm and SiLU; the first of three is added."""

    def __init__(self, channels_in: int, channels: int, depth: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(channels_in, channels), _norm(channels)
        self.conv2, self.norm2 = _convolution(channels, channels), _norm(channels)
        self.deep = depth == 3
        if self.deep:
            self.conv3, self.norm3 = _convolution(channels, channels), _norm(channels)
        self.pool, self.activation = MaxPool(), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, channels, H // 2, W // 2]` for `[N, channels_in, H, W]`."""
        first = self.activation(self.norm1(self.pool(self.conv1(x))))
        x = self.activation(self.norm2(self.conv2(first)))
        return self.activation(self.norm3(self.conv3(x)) + first) if self.deep else x


class SpeedrunNet(nn.Module):
    """Whitening, three groups, the maximum over all places, and a linear layer.

    Args:
        num_classes: Number of logits.
        widths: Channels of the three groups.
        depth: Convolutions in a group, 2 or 3.
    """

    published = (Published("CIFAR-10", 94.01, "airbench94, arXiv 2404.00498"),)

    def __init__(self, num_classes: int = 10, widths: Sequence[int] = (64, 256, 256), depth: int = 2) -> None:
        super().__init__()
        if depth not in (2, 3):
            raise ValueError(f"depth {depth} must be 2 or 3")
        self.num_classes, self.widths, self.depth = num_classes, list(widths), depth
        components = 3 * PATCH**2
        self.whiten = nn.Conv2d(3, 2 * components, PATCH)
        self.whiten.weight.requires_grad = False
        self.whitening_learns = True
        channels = (2 * components, *widths)
        self.groups = nn.Sequential(*(Group(i, o, depth) for i, o in pairwise(channels)))
        self.activation = nn.SiLU()
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def compute_whitening(self, images: Tensor) -> None:
        """Sets the whitening layer from normalised images `[N, 3, H, W]`: eigenvectors of their patches, both signs."""
        patches = nn.functional.unfold(images, PATCH).transpose(1, 2).flatten(0, 1).double()
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + EPSILON).sqrt()).T.reshape(-1, 3, PATCH, PATCH)
        self.whiten.weight.copy_(STEEPNESS * torch.cat((filters, -filters)))

    def begin_epoch(self, done: float) -> None:
        """Stops the whitening layer's bias from learning later on, in 0.81 to 0.95 of the time; it still decays."""
        self.whitening_learns = done < BIAS_LEARNS

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, num_classes]` of normalised images `[N, 3, H, W]`."""
        x = self.activation(self.whiten(images.contiguous(memory_format=torch.channels_last)))
        learns = self.whitening_learns or not self.training
        x = self.groups(x if learns else x.detach()).amax((2, 3))
        logits = self.head(x) / (STEEPNESS * x.shape[1])
        # DistributedDataParallel needs all gradients
        return logits if learns else logits + 0 * self.whiten.get_parameter("bias").sum()


def _convolution(channels_in: int, channels: int) -> Convolution:
    convolution = Convolution(channels_in, channels)
    nn.init.dirac_(convolution.weight.data[:channels_in])
    return convolution


def _norm(channels: int) -> Norm:
    # 0.1 averages some 5,000 images in slices of 250; airbench's 0.4, for batches of 2,000, is 0.2 % less accurate
    norm = Norm(channels, eps=1e-12, momentum=0.1)
    nn.init.constant_(norm.weight, STEEPNESS).requires_grad_(False)
    return norm
