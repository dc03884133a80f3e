"""What the page shows of a picture: probabilities, whether the prediction is right, and where the network looked."""

from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.module import register_module_forward_hook

from lit_cifar.data.pictures import data_url, png
from lit_cifar.deploy.demo.reading import Reading
from lit_cifar.errors import UserError
from lit_cifar.evaluation.wording import isolated, judged_on_page, percent
from lit_cifar.training.classifier import LitClassifier

ENLARGED = 256  # pixels of a map, or as many times a picture's as fit
COLOURS = torch.from_numpy(np.array(matplotlib.colormaps["inferno"](np.arange(256)))[:, :3]).float() * 255
"""Of 0 to 1 in 256 steps that look equally large, and are lighter the higher they are: grey tones show them, too."""
COLOURED = 0.6  # of what a map shows is its colour; the rest is the picture in grey


def look(classifier: LitClassifier, reading: Reading, label: int | None, truth: int | None) -> dict[str, Any]:
    """Returns what the page shows for a picture, or raises UserError.

    Args:
        classifier: A trained network.
        reading: The picture.
        label: The class whose map is shown; the predicted one if None.
        truth: The picture's class if it is known.
    """
    probabilities = classifier.predict(reading.pixels)[0]
    if not probabilities.isfinite().all():
        raise UserError("diverged", "This network computes NaN: its training diverged. Use another checkpoint.")
    predicted = int(probabilities.argmax())
    label = predicted if label is None else label
    looked, name = activation_map(classifier, reading.pixels, label), classifier.classes[label]
    if looked is None:
        caption = "No map of where it looked: this network has no convolution"
    elif looked.any():
        caption = f"Where it looked: brighter areas support {name} more"
    else:
        caption = f"Where it looked: no area supports {name}"
    named = zip(classifier.classes, probabilities.tolist(), strict=True)
    return {
        "verdict": verdict(classifier.classes[predicted], float(probabilities[predicted]), truth, classifier.classes),
        "classes": [{"name": name, "probability": p, "percent": percent(p)} for name, p in named],
        "label": label,
        "size": reading.size,
        "preview": data_url(png(torch.from_numpy(np.array(reading.preview)).permute(2, 0, 1))),
        "pixels": data_url(png(reading.pixels)),
        "map": None if looked is None else data_url(png(heat_map(reading.pixels, looked))),
        "caption": caption,
    }


def verdict(predicted: str, probability: float, truth: int | None, classes: tuple[str, ...]) -> tuple[str, str]:
    """Returns the prediction, and what it is worth: `actually plane: wrong`, or "" if that isn't known."""
    actual = None if truth is None else classes[truth]
    line, _ = judged_on_page(predicted, probability, actual)
    return line, "" if actual is None else f"actually {isolated(actual)}: {'right' if actual == predicted else 'wrong'}"


def activation_map(classifier: LitClassifier, pixels: Tensor, label: int) -> Tensor | None:
    """Returns float32 `[h, w]` from 0 to 1: how much each place of uint8 `[3, H, W]` supports the class `label`.

    This is Grad-CAM (arXiv 1610.02391) on the last convolution, whose resolution it has. None if there is none.
    """
    from captum.attr import LayerGradCam

    mean, std = torch.tensor(classifier.mean), torch.tensor(classifier.std)
    images = ((pixels / 255 - mean[:, None, None]) / std[:, None, None])[None].to(classifier.device)
    layer = _last_convolution(classifier.net, images)
    if layer is None:
        return None
    images.requires_grad_()  # if all weights are frozen, nothing else has a gradient
    values = LayerGradCam(classifier.net, layer).attribute(images, target=label, relu_attributions=True)
    values = values[0, 0].detach().float().cpu().nan_to_num()
    return values / values.max().clamp(min=1e-12)


@torch.no_grad()
def _last_convolution(net: nn.Module, images: Tensor) -> nn.Conv2d | None:
    """Returns the last one to run whose output is larger than a pixel; modules may run in another order than listed."""
    ran: list[nn.Conv2d] = []

    def note(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d) and output.shape[-2:].numel() > 1:
            ran.append(layer)

    with register_module_forward_hook(note):
        net(images)
    return ran[-1] if ran else None


def coloured(values: Tensor) -> Tensor:
    """Returns float32 `[3, H, W]` from 0 to 255: the colours of values `[H, W]` from 0 to 1."""
    return COLOURS[(values * 255).round().long()].permute(2, 0, 1)


def heat_map(pixels: Tensor, looked: Tensor) -> Tensor:
    """Returns uint8 `[3, n H, n W]`: `looked` `[h, w]` in colour over uint8 `[3, H, W]` in grey, enlarged."""
    times = max(1, ENLARGED // pixels.shape[-1])
    grey = pixels.float().mean(0, keepdim=True).repeat_interleave(times, 1).repeat_interleave(times, 2)
    values = F.interpolate(looked[None, None], grey.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    return (grey + (coloured(values) - grey) * COLOURED).round().byte()


def legend() -> Tensor:
    """Returns uint8 `[3, 1, 256]`: the colours of a map from 0 to 1, as they are over a middle grey."""
    return heat_map(torch.full((3, 1, 256), 128, dtype=torch.uint8), torch.linspace(0, 1, 256)[None])
