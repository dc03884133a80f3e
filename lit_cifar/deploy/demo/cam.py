"""Where a network looked: Grad-CAM (arXiv 1610.02391), computed by captum on the last convolution of any network."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.loader import BatchLoader
from lit_cifar.training.classifier import LitClassifier

ENLARGED = 8  # times
LEFT = 0.15  # of a picture shows through the grey where the network did not look


def activation_map(classifier: LitClassifier, pixels: Tensor, label: int) -> Tensor | None:
    """float32 `[h, w]` from 0 to 1: how much each place of uint8 `[3, H, W]` spoke for the class `label`.

    It has the resolution of the network's last convolution, and is 0 everywhere where no place spoke for the class.
    None where the network has no convolution.
    """
    from captum.attr import LayerGradCam

    one = ImageSet(pixels[None], torch.zeros(1, dtype=torch.int64), classifier.classes)
    images, _ = next(iter(BatchLoader(one, 1, mean=classifier.mean, std=classifier.std, device=classifier.device)))
    layer = last_convolution(classifier.net, images)
    if layer is None:
        return None
    images.requires_grad_()  # frozen weights alone would leave no gradient
    values = LayerGradCam(classifier.net, layer).attribute(images, target=label, relu_attributions=True)
    values = values[0, 0].detach().float().cpu()
    return values / values.max().clamp(min=1e-12)


@torch.no_grad()
def last_convolution(net: nn.Module, images: Tensor) -> nn.Conv2d | None:
    """The last to run whose output still has places; by running it, since a module's order of layers may be another."""
    ran: list[nn.Conv2d] = []

    def note(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d) and output.shape[-2:].numel() > 1:
            ran.append(layer)

    hooks = [layer.register_forward_hook(note) for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    try:
        net(images)
    finally:
        for hook in hooks:
            hook.remove()
    return ran[-1] if ran else None


def enlarged(pixels: Tensor, looked: Tensor | None = None) -> Tensor:
    """uint8 `[3, 8 H, 8 W]` of uint8 `[3, H, W]`, each pixel a square; where `looked` `[h, w]` is 0, grey.

    Fading to grey tells the map to any eye, and on dark and light pictures alike.
    """
    large = pixels.repeat_interleave(ENLARGED, 1).repeat_interleave(ENLARGED, 2)
    if looked is None:
        return large
    clear = F.interpolate(looked[None, None].sqrt(), large.shape[1:], mode="bilinear", align_corners=False)[0]
    return (128 + (large.float() - 128) * (LEFT + (1 - LEFT) * clear)).round().byte()
