"""Transformers that are small enough to train on CIFAR alone (Hassani et al., arXiv 2104.05704).

`CCT` cuts an image into tokens with convolutions and pools them by attention; `ViTLite` uses patches and a class token.
Names are those of SHI-Labs/Compact-Transformers: CCT-7/3x1 has 7 layers and one convolution of 3×3.

| network      | arguments                                                 | parameters | multiplications an image |
| ------------ | --------------------------------------------------------- | ---------- | ------------------------ |
| CCT-7/3x1    | none                                                      | 3,760,139  | 1.18 billion             |
| CCT-2/3x2    | depth 2, width 128, heads 2, mlp_ratio 1, convolutions 2  | 283,723    | 37 million               |
| ViT-Lite-7/4 | none                                                      | 3,716,874  | 254 million              |

SHI-Labs counts 0.947, 0.033 and 0.239 billion, without the products between tokens. Published: 96.53 % on CIFAR-10 and
80.92 % on CIFAR-100 for CCT-7/3x1 after 300 epochs, 91.38 and 69.75 % for ViT-Lite-7/4 after 200.

Attention is written as products and a softmax: on CUDA, torch's fused kernels may sum gradients in another order each
time, and on a CPU they are no faster with dropout.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from lit_cifar.nets import Published

HIDDEN = 64  # channels between two convolutions of the tokenizer
AUTHORS = "github.com/SHI-Labs/Compact-Transformers"


class Attention(nn.Module):
    """Self-attention with several heads; queries, keys and values have no bias."""

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, 1 / math.sqrt(width // heads)
        self.qkv, self.projection = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.attention_dropout, self.dropout = nn.Dropout(attention_dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, tokens, width]` for the same."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query * self.scale @ key.transpose(2, 3)).softmax(-1)
        mixed = self.attention_dropout(weights) @ value
        return self.dropout(self.projection(mixed.transpose(1, 2).flatten(2)))


class Layer(nn.Module):
    """Attention and two linear layers, each added to its input; the second norm is part of the sum, as published."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: int, dropout: float, attention_dropout: float, skipped: float
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout, attention_dropout)
        self.linear1, self.linear2 = nn.Linear(width, mlp_ratio * width), nn.Linear(mlp_ratio * width, width)
        self.dropout, self.skipped = nn.Dropout(dropout), skipped

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[N, tokens, width]` for the same."""
        x = self.norm2(x + self._skip(self.attention(self.norm1(x))))
        y = self.linear2(self.dropout(nn.functional.gelu(self.linear1(x))))
        return x + self._skip(self.dropout(y))

    def _skip(self, x: Tensor) -> Tensor:
        """Stochastic depth (arXiv 1603.09382): drops what is added to an image's tokens, for some of the images."""
        if not self.training or not self.skipped:
            return x
        return x * nn.functional.dropout(x.new_ones(len(x), 1, 1), self.skipped)


class _Transformer(nn.Module):
    """What both have: positions, which are learned, and layers."""

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        depth: int,
        width: int,
        heads: int,
        mlp_ratio: int,
        dropout: float,
        attention_dropout: float,
        stochastic_depth: float,
    ) -> None:
        super().__init__()
        at_least_1 = {"image_size": image_size, "depth": depth, "width": width, "heads": heads, "mlp_ratio": mlp_ratio}
        for name, number in at_least_1.items():
            if number < 1:
                raise ValueError(f"{name} {number} must be at least 1")
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}")
        shares = {"dropout": dropout, "attention_dropout": attention_dropout, "stochastic_depth": stochastic_depth}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise ValueError(f"{name} {share} must be at least 0 and less than 1")
        self.num_classes, self.image_size, self.depth, self.width = num_classes, image_size, depth, width
        self.heads, self.mlp_ratio, self.dropout = heads, mlp_ratio, dropout
        self.attention_dropout, self.stochastic_depth = attention_dropout, stochastic_depth

    def _add_layers(self, tokens: int) -> None:
        self.positions = nn.Parameter(torch.empty(1, tokens, self.width))
        self.position_dropout = nn.Dropout(self.dropout)
        self.layers = nn.Sequential()
        for i in range(self.depth):
            skipped = self.stochastic_depth * i / max(1, self.depth - 1)
            sizes = (self.width, self.heads, self.mlp_ratio)
            self.layers.append(Layer(*sizes, self.dropout, self.attention_dropout, skipped))
        self.norm, self.head = nn.LayerNorm(self.width), nn.Linear(self.width, self.num_classes)

    def _initialize(self) -> None:
        nn.init.trunc_normal_(self.positions, std=0.2)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        self.to(memory_format=torch.channels_last)

    def no_weight_decay(self) -> set[str]:
        """Returns the names of weights that should not decay: positions and, if there is one, the class token."""
        return {"positions", "class_token"}

    def _transform(self, tokens: Tensor) -> Tensor:
        return self.norm(self.layers(self.position_dropout(tokens + self.positions)))

    def _checked(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(f"images have {height} × {width} pixels, but the network was made for {self.image_size}")
        return images.contiguous(memory_format=torch.channels_last)


class CCT(_Transformer):
    """Compact convolutional transformer: by default CCT-7/3x1.

    Args:
        num_classes: Number of logits.
        image_size: Height and width of the images in pixels.
        depth: Number of layers.
        width: Numbers in a token.
        heads: Heads of attention in a layer.
        mlp_ratio: Width between the two linear layers of a layer, as a multiple of `width`.
        kernel_size: Side of the tokenizer's convolutions, an odd number; from 7 on they move by more than one pixel.
        convolutions: Number of convolutions that make tokens; each is followed by pooling, which halves the sides.
        dropout: Probability that a number is dropped, outside attention.
        attention_dropout: Probability that a weight of attention is dropped.
        stochastic_depth: Probability that an image skips the last layer; less in layers before it.
    """

    published = (
        Published("CIFAR-10", 96.53, f"{AUTHORS}, 300 epochs"),
        Published("CIFAR-100", 80.92, f"{AUTHORS}, 300 epochs"),
    )

    def __init__(
        self,
        num_classes: int = 10,
        image_size: int = 32,
        depth: int = 7,
        width: int = 256,
        heads: int = 4,
        mlp_ratio: int = 2,
        kernel_size: int = 3,
        convolutions: int = 1,
        dropout: float = 0.0,
        attention_dropout: float = 0.1,
        stochastic_depth: float = 0.1,
    ) -> None:
        shares = (dropout, attention_dropout, stochastic_depth)
        super().__init__(num_classes, image_size, depth, width, heads, mlp_ratio, *shares)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} must be an odd number")
        if convolutions < 1:
            raise ValueError(f"convolutions {convolutions} must be at least 1")
        self.kernel_size, self.convolutions = kernel_size, convolutions
        channels, stride = [3, *[HIDDEN] * (convolutions - 1), width], max(1, kernel_size // 2 - 1)
        self.tokenizer, side = nn.Sequential(), image_size
        for channels_in, channels_out in pairwise(channels):
            convolution = nn.Conv2d(channels_in, channels_out, kernel_size, stride, kernel_size // 2, bias=False)
            self.tokenizer.extend([convolution, nn.ReLU(), nn.MaxPool2d(3, 2, 1)])
            side = ((side - 1) // stride) // 2 + 1
        self._add_layers(side**2)
        self.attention_pool = nn.Linear(width, 1)
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, num_classes]` of normalized images `[N, 3, image_size, image_size]`."""
        x = self._transform(self.tokenizer(self._checked(images)).flatten(2).transpose(1, 2))
        weights = self.attention_pool(x).softmax(1)
        return self.head((weights.transpose(1, 2) @ x).squeeze(1))


class ViTLite(_Transformer):
    """Vision transformer with small patches: by default ViT-Lite-7/4.

    Args:
        num_classes: Number of logits.
        image_size: Height and width of the images in pixels, a multiple of `patch_size`.
        depth: Number of layers.
        width: Numbers in a token.
        heads: Heads of attention in a layer.
        mlp_ratio: Width between the two linear layers of a layer, as a multiple of `width`.
        patch_size: Side of a patch in pixels.
        dropout: Probability that a number is dropped, outside attention.
        attention_dropout: Probability that a weight of attention is dropped.
        stochastic_depth: Probability that an image skips the last layer; less in layers before it.
    """

    published = (
        Published("CIFAR-10", 91.38, f"{AUTHORS}, 200 epochs"),
        Published("CIFAR-100", 69.75, f"{AUTHORS}, 200 epochs"),
    )

    def __init__(
        self,
        num_classes: int = 10,
        image_size: int = 32,
        depth: int = 7,
        width: int = 256,
        heads: int = 4,
        mlp_ratio: int = 2,
        patch_size: int = 4,
        dropout: float = 0.0,
        attention_dropout: float = 0.1,
        stochastic_depth: float = 0.1,
    ) -> None:
        shares = (dropout, attention_dropout, stochastic_depth)
        super().__init__(num_classes, image_size, depth, width, heads, mlp_ratio, *shares)
        if patch_size < 1 or image_size % patch_size:
            raise ValueError(f"image_size {image_size} must be a multiple of patch_size {patch_size}")
        self.patch_size = patch_size
        self.patches = nn.Conv2d(3, width, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self._add_layers(1 + (image_size // patch_size) ** 2)
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, num_classes]` of normalized images `[N, 3, image_size, image_size]`."""
        x = self.patches(self._checked(images)).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), 1)
        return self.head(self._transform(x)[:, 0])
