"""What the page shows: of a picture, probabilities and where the network looked; and a gallery of test images."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.module import register_module_forward_hook

from lit_cifar.data.image_files import Scaling, opened
from lit_cifar.data.pictures import data_url, png, to_pixels
from lit_cifar.data.sources import open_found, open_images
from lit_cifar.errors import UserError
from lit_cifar.evaluation.wording import percent
from lit_cifar.training.classifier import LitClassifier

PIXELS = 50_000_000  # of a picture: 150 MB decoded
SCANS = 100  # of a JPEG, each of which is a pass over all its pixels; a camera's has 10
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
NAMED = "PNG, JPEG, WEBP, GIF or BMP"
ENLARGED = 256  # pixels, or as many times as fit
GREYED = 0.15  # of a picture shows where the network did not look; any eye sees grey, on dark and light pictures
SHOWN = 1000  # images of the gallery, of 32 pixels, drawn by lot from all test images


def look(classifier: LitClassifier, content: bytes | bytearray) -> dict[str, Any]:
    """Returns what the page shows for a picture's file, or raises UserError."""
    pixels = decode(content, classifier.scaling)
    probabilities = classifier.predict(pixels)[0]
    if not probabilities.isfinite().all():
        raise UserError("diverged", "This network computes NaN: its training diverged. Use another checkpoint.")
    top = int(probabilities.argmax())
    looked = activation_map(classifier, pixels, top)
    caption = "No map of where it looked: this network has no convolution"
    if looked is not None:
        what = "the clear parts speak" if looked.any() else "no single part speaks"
        caption = f"Where it looked: {what} for {classifier.classes[top]}"
    named = zip(classifier.classes, probabilities.tolist(), strict=True)
    return {
        "classes": [{"name": name, "probability": p, "percent": percent(p)} for name, p in named],
        "caption": caption,
        "picture": data_url(png(enlarged(pixels))),
        "map": None if looked is None else data_url(png(enlarged(pixels, looked))),
    }


def decode(content: bytes | bytearray, scaling: Scaling) -> Tensor:
    """Returns uint8 `[3, side, side]` of a picture's file, or raises UserError; checks its size before decoding."""
    large = f"The picture has more than {PIXELS // 10**6} million pixels. Send a smaller one."
    try:
        with opened(io.BytesIO(content), FORMATS) as picture:
            if picture.width * picture.height > PIXELS:
                raise UserError("picture-too-large", large)
            if picture.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > SCANS:
                passes = f"The picture is stored in more than {SCANS} passes. Save it as PNG."
                raise UserError("picture-too-large", passes)
            return to_pixels(picture, scaling)
    except Image.DecompressionBombError as error:
        raise UserError("picture-too-large", large) from error
    except (OSError, ValueError) as error:
        raise UserError("picture-unreadable", f"This is not a picture, or it is damaged. Send {NAMED}.") from error


def activation_map(classifier: LitClassifier, pixels: Tensor, label: int) -> Tensor | None:
    """Returns float32 `[h, w]` from 0 to 1: how much each place of uint8 `[3, H, W]` speaks for the class `label`.

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
    values = values[0, 0].detach().float().cpu()
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


def enlarged(pixels: Tensor, looked: Tensor | None = None) -> Tensor:
    """Returns uint8 `[3, n H, n W]` of uint8 `[3, H, W]`, each pixel a square; grey where `looked` `[h, w]` is 0."""
    times = max(1, ENLARGED // pixels.shape[-1])
    large = pixels.repeat_interleave(times, 1).repeat_interleave(times, 2)
    if looked is None:
        return large
    clear = F.interpolate(looked[None, None].sqrt(), large.shape[1:], mode="bilinear", align_corners=False)[0]
    return (128 + (large.float() - 128) * (GREYED + (1 - GREYED) * clear)).round().byte()


class Gallery(NamedTuple):
    """Test images, uint8 `[N, 3, H, W]`, with their labels and predictions, int64 `[N]`."""

    title: str
    images: Tensor
    labels: Tensor
    predicted: Tensor


def make_gallery(classifier: LitClassifier, root: Path) -> tuple[Gallery | None, str]:
    """Returns a gallery of the test images in `root`, or else of synthetic ones, and a note for the page, or ""."""
    assert classifier.card is not None  # it was loaded
    card, drawn = classifier.card, classifier.card.dataset == "drawn"
    there = None if drawn else open_found(root, card.dataset, card.labels, classifier.scaling)
    test = (there or open_images(root, "drawn")).test
    if test.classes != classifier.classes:
        others = f"the test images in {root} have other classes than the network"
        return None, f"No gallery: {others if there else f'there are no images in {root}'}."
    if not len(test.labels):
        return None, f"No gallery: there are no test images in {root}."
    note = "" if there else f"There are no test images in {root}, so the gallery shows synthetic ones."
    if drawn:
        note = "The gallery shows synthetic images, on which this network was trained."
    total = len(test.labels)
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(0))[
        : max(100, classifier.scaling.images_like(SHOWN))
    ]
    console = Console(stderr=True)
    parts = track(chosen.split(100), "Predicting", console=console, transient=True, disable=not console.is_terminal)
    predicted = torch.cat([classifier.predict(test.images[part]).argmax(1) for part in parts])
    title = f"{len(chosen):,} of {total:,} test images" if len(chosen) < total else "Test images"
    return Gallery(title, test.images[chosen], test.labels[chosen], predicted), note
