"""The stem of a timm network, made for images of 32 pixels.

Networks for ImageNet shrink an image to a 32nd of its side: 224 pixels to 7×7 places, but 32 pixels to a single one.
The first layers, which shrink it most, are changed to shrink it less, as people do for CIFAR: He et al. (arXiv
1512.03385, section 4.2), SimCLR (arXiv 2002.05709, appendix B.9), kuangliu/pytorch-cifar.

The rule is the same for all families: the network is made for images that are a few times larger, and its first
layers lose just that factor, so that all other layers see what they would see of the larger image. Strides become 1 and
pooling is dropped; the first convolution becomes 3×3; patches become smaller.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

LAST_REDUCTION = 8
"""How much the side of an image shrinks up to the last layers: 32 pixels to 4×4 places."""
PATCH = 4
"""Side of a patch in pixels for networks that shrink images only once, such as vision transformers."""
Seen = tuple[nn.Module, int, int]
"""A layer, and the side of what it was given and of what it returned."""


class StemError(ValueError):
    """The stem of a network can't be changed in this way."""


def enlargement(net: nn.Module) -> float:
    """Returns for how much larger images a network of timm is made, and by how much less it shall shrink them."""
    stages = getattr(net, "feature_info", None)
    reductions = [stage.get("reduction", 0) for stage in stages] if isinstance(stages, list) else []
    if not reductions or not min(reductions):
        raise StemError("it does not say how much it shrinks images")
    wanted = PATCH if len(set(reductions)) == 1 else LAST_REDUCTION
    return max(1.0, reductions[-1] / wanted)


def shorten(net: nn.Module, larger: int, side: int, pools: tuple[type[nn.Module], ...], keep_weights: bool) -> None:
    """Changes the first layers of a network for images of a `larger` side so that it takes images of this `side`.

    Args:
        net: The network.
        larger: Side of the images that it was made for.
        side: Side of the images that it shall take.
        pools: Classes of layers that only shrink.
        keep_weights: Whether a convolution that becomes smaller keeps the sums of its weights; otherwise, they are new.
    """
    before = _watched(net, larger, pools)
    names = {layer: name for name, layer in net.named_modules()}
    for layer, given, returned in before:
        if given <= side or returned * 1.5 > given:
            continue
        stride = max(1, round(side / returned))
        if side % stride:
            raise ValueError(f"its patches of {stride} pixels would leave out some")
        if isinstance(layer, nn.Conv2d):
            _change(layer, stride, keep_weights)
            embedding = net.get_submodule(names[layer].rpartition(".")[0])
            for name, value in (("img_size", side), ("patch_size", stride)):  # which timm's patch embeddings compare
                if isinstance(getattr(embedding, name, None), tuple):
                    setattr(embedding, name, (value, value))
        elif stride == 1:
            net.set_submodule(names[layer], nn.Identity())
    after = _watched(net, side, pools)
    if not before or abs(before[-1][2] - after[-1][2]) > 1:
        raise StemError("its first layers are not convolutions and pooling")


def _watched(net: nn.Module, side: int, pools: tuple[type[nn.Module], ...]) -> list[Seen]:
    seen: list[Seen] = []

    def note(layer: nn.Module, given: Sequence[Any], returned: Any) -> None:
        if isinstance(returned, Tensor) and returned.ndim == 4:
            seen.append((layer, given[0].shape[-1], returned.shape[-1]))

    hooks = [layer.register_forward_hook(note) for layer in net.modules() if isinstance(layer, (nn.Conv2d, *pools))]
    try:
        run(net, side)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@torch.no_grad()
def run(net: nn.Module, side: int) -> Any:
    """Returns what a new network makes of an image of zeros."""
    net.eval()
    logits = net(torch.zeros(1, 3, side, side))
    net.train()
    return logits


def _change(layer: nn.Conv2d, stride: int, keep_weights: bool) -> None:
    """Gives a convolution a smaller stride and, if it had an even or large kernel, a smaller kernel, in place."""
    old, size, is_padded = layer.stride[0], layer.kernel_size[0], layer.padding[0] != 0
    if stride > 1:
        size = max(stride, round(size * stride / old))
    elif size % 2 == 0 or (layer.in_channels == 3 and size > 3):
        size, is_padded = 3, True
    if size != layer.kernel_size[0]:
        weight = layer.weight.detach()
        number = weight[0].numel()
        matrix = overlaps(layer.kernel_size[0], size, old / stride)
        if keep_weights:
            weight = matrix @ weight @ matrix.T
        else:  # as spread as the others for the number of inputs
            weight = torch.randn(*weight.shape[:2], size, size) * (weight.std() * layer.kernel_size[0] / size)
        layer.weight = nn.Parameter(weight)
        layer.kernel_size = (size, size)
        if isinstance(scale := getattr(layer, "scale", None), float):  # of timm's standardized convolutions
            layer.scale = scale * math.sqrt(number / weight[0].numel())  # type: ignore[assignment]
    layer.stride = (stride, stride)
    layer.padding = ((size - 1) // 2,) * 2 if is_padded else (0, 0)


def overlaps(old: int, new: int, enlarged: float) -> Tensor:
    """Returns a matrix `[new, old]`: how much of each old pixel of a kernel lies on each new one.

    A new pixel is as large as `enlarged` old ones, the outer ones as large as needed, and the centers coincide. So a
    kernel whose pixels are summed up by it does with an image what the old one does with the image enlarged by
    repeating pixels.
    """
    edges = old / 2 + (torch.arange(new + 1, device="cpu") - new / 2) * enlarged
    edges[0], edges[-1] = min(0.0, float(edges[0])), max(float(old), float(edges[-1]))
    low = torch.maximum(edges[:-1, None], torch.arange(old, device="cpu").float())
    high = torch.minimum(edges[1:, None], torch.arange(1, old + 1, device="cpu").float())
    return (high - low).clamp(min=0).to(torch.get_default_device())
