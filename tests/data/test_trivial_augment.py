"""TrivialAugment on batches: image by image what torchvision makes of it, drawn from (seed, epoch, index) alone."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms.v2 import TrivialAugmentWide

from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.trivial_augment import SETTINGS, SIGNED, trivial_augment

OPERATIONS = (
    *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Posterize", "Solarize"),
    *("Color", "Contrast", "Sharpness", "AutoContrast", "Equalize", "Identity"),
)
BLENDS = ("Color", "Contrast", "Sharpness")  # in which torchvision's rounding depends on the processor
TORCHVISION: Any = TrivialAugmentWide()


def noise(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (SETTINGS, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()


def smooth(height: int, width: int) -> Tensor:
    """Few of the possible values, and in some channels a single one."""
    scale, shift = (torch.tensor(values)[:, None, None] for values in ((255, 100, 0), (0, 60, 90)))
    coarse = torch.rand(SETTINGS, 3, 3, 3, generator=torch.Generator().manual_seed(1)) * scale + shift
    return F.interpolate(coarse, (height, width), mode="bilinear").byte()


def of_torchvision(image: Tensor, setting: int) -> Tensor:
    operation, number = OPERATIONS[setting // SIGNED], setting % SIGNED
    magnitudes, signed = TORCHVISION._AUGMENTATION_SPACE[operation]
    values = magnitudes(SIGNED // 2, *image.shape[1:])
    magnitude = 0.0 if values is None else float(values[number // 2]) * (-1 if signed and number % 2 else 1)
    changed: Tensor = TORCHVISION._apply_image_or_video_transform(
        image, operation, magnitude, "nearest", {Tensor: None}
    )
    return changed


@pytest.mark.parametrize(("make", "height", "width"), [(noise, 32, 32), (smooth, 48, 40)])
def test_each_operation_at_each_strength_is_that_of_torchvision(make: Any, height: int, width: int) -> None:
    images, settings = make(height, width), torch.arange(SETTINGS)
    assert set(OPERATIONS) == set(TORCHVISION._AUGMENTATION_SPACE)
    expected = torch.stack([of_torchvision(image, i) for i, image in enumerate(images)])
    changed = trivial_augment(images, settings, grouped=True)
    difference = (changed.int() - expected.int()).abs().view(len(OPERATIONS), -1)
    for operation, values in zip(OPERATIONS, difference, strict=True):
        assert values.max() <= (operation in BLENDS), operation
        assert values.float().mean() < 0.002, operation
    shuffled = torch.randperm(SETTINGS, generator=torch.Generator().manual_seed(2))
    for grouped in (True, False):
        again = trivial_augment(images[shuffled], settings[shuffled], grouped=grouped)
        assert torch.equal(again, changed[shuffled])


def test_half_precision_of_a_training_does_not_move_pixels() -> None:
    images, settings = noise(20, 24), torch.arange(SETTINGS)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # while the tables of this size are made
        changed = trivial_augment(images, settings, grouped=True)
    expected = torch.stack([of_torchvision(image, i) for i, image in enumerate(images[: 5 * SIGNED])])
    assert torch.equal(changed[: 5 * SIGNED], expected)


def test_operations_are_drawn_alike_often_and_with_every_strength() -> None:
    images = noise(8, 8)[:1].expand(40_000, -1, -1, -1)
    changed = Augmentation(trivial_augment=True)(images, torch.arange(len(images)), 1, 2)
    found = changed.flatten(1).unique(dim=0, return_counts=True)[1]
    outcomes = trivial_augment(images[:SETTINGS], torch.arange(SETTINGS), True).flatten(1)
    expected = outcomes.unique(dim=0, return_counts=True)[1] * len(images) / SETTINGS
    assert len(found) == len(expected)
    statistic = ((found - expected) ** 2 / expected).sum().item()
    freedom = len(found) - 1
    assert abs(statistic - freedom) / (2 * freedom) ** 0.5 < 6
