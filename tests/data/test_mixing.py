"""MixUp, CutMix and random erasing: torchvision's images and labels, from (seed, epoch, index) alone."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from lit_cifar.data.augmentation import MIXING, Augmentation, draw
from lit_cifar.data.image_set import CIFAR10_CLASSES, ImageSet
from lit_cifar.data.loader import CHUNK, BatchLoader
from lit_cifar.data.mixing import QUANTILES, draw_mix, shares

KINDS: list[dict[str, Any]] = [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0, "mix_probability": 0.8}]


def noise(count: int, side: int = 32) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.randint(0, 10, (count,), generator=generator), CIFAR10_CLASSES)


NOISE = noise(1200, 8)
EVERYTHING = Augmentation(flip=True, crop=2, cutout=3, jitter=0.2, erase=0.5, **KINDS[2])


def loader(batch_size: int = 10, **options: Any) -> BatchLoader:
    return BatchLoader(NOISE, batch_size, **{"shuffle": True, "seed": 3, "augmentation": EVERYTHING, **options})


def joined(batches: Any) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def assert_same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    assert all(map(torch.equal, one, other))


QUANTILE_FUNCTIONS: dict[float, Callable[[Tensor], Tensor]] = {  # in closed form
    0.5: lambda u: (u * math.pi / 2).sin() ** 2,
    1.0: lambda u: u,
    2.0: lambda u: 0.5 - (((1 - 2 * u).asin()) / 3).sin(),
}


@pytest.mark.parametrize("alpha", QUANTILE_FUNCTIONS)
def test_shares_are_the_quantiles_of_the_beta_distribution(alpha: float) -> None:
    middles = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    found = shares(alpha, torch.device("cpu")).double()
    torch.testing.assert_close(found, QUANTILE_FUNCTIONS[alpha](middles), rtol=0, atol=4e-8)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.3, 5, 1000])
def test_shares_have_the_moments_of_the_beta_distribution(alpha: float) -> None:
    found = shares(alpha, torch.device("cpu")).double() - 0.5
    assert float(found.mean()) == pytest.approx(0, abs=1e-8)
    assert 4 * float((found**2).mean()) == pytest.approx(1 / (2 * alpha + 1), rel=2e-4)
    assert 16 * float((found**4).mean()) == pytest.approx(3 / (2 * alpha + 1) / (2 * alpha + 3), rel=1e-3)


@pytest.mark.parametrize("alpha", [5e-324, 1e-5, 1e12, 1e308])
def test_shares_are_numbers_for_every_alpha(alpha: float) -> None:
    extreme = shares(alpha, torch.device("cpu"))[[0, QUANTILES // 4, -1]]
    assert extreme.tolist() == pytest.approx([0, 0, 1] if alpha < 1 else [0.5] * 3, abs=1e-5)


@pytest.mark.parametrize("side", [8, 32, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_images_and_labels_are_mixed_as_torchvision_mixes_them(kind: dict[str, Any], side: int) -> None:
    count, candidates, images = 40, torch.arange(100, 180), noise(200, side)
    options: dict[str, Any] = {"flip": True, "crop": 4, "jitter": 0.1}
    mixing, plain = (
        BatchLoader(images, count, indices=candidates, seed=3, augmentation=Augmentation(**options, **each))
        for each in (kind, {})
    )
    mixing.epoch = plain.epoch = 2
    indices = candidates[::2]
    mix = draw_mix(mixing.augmentation, indices, candidates, 3, 2, side, side)
    own, partners = plain.take(indices), plain.take(mix.partners)
    mixed_images, mixed_labels = mixing.take(indices)
    mixed = 0
    for i in range(count):
        pairs = torch.stack((own[0][i], partners[0][i])), torch.stack((own[1][i], partners[1][i]))
        share = 1.0 if mix.blend is None else float(mix.blend[i])
        top, bottom, left, right = (0,) * 4 if mix.box is None else (int(each[i]) for each in mix.box)
        transform: Any
        if share < 1:
            transform = v2.MixUp(num_classes=10)
            transform.make_params = lambda _, share=share: {"lam": share}
        else:
            transform = v2.CutMix(num_classes=10)
            params = {"box": (left, top, right, bottom), "lam_adjusted": 1 - (bottom - top) * (right - left) / side**2}
            transform.make_params = lambda _, params=params: params
        expected_images, expected_labels = transform(*pairs)
        torch.testing.assert_close(mixed_images[i], expected_images[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(mixed_labels[i], expected_labels[0], rtol=0, atol=1e-6)
        mixed += share < 1 or top < bottom
    assert count * 0.6 < mixed <= count


def test_the_rectangle_is_that_of_torchvision_for_the_same_share_and_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    indices, table = torch.arange(200), shares(1.0, torch.device("cpu"))
    mix = draw_mix(Augmentation(cutmix=1.0), indices, indices, 0, 0, 32, 32)
    quantiles, rows, columns = draw(0, 0, indices, (QUANTILES, 32, 32), MIXING + 3)
    assert mix.box is not None
    transform: Any = v2.CutMix(num_classes=2)
    for i in range(200):
        centre = iter((columns[i : i + 1], rows[i : i + 1]))
        monkeypatch.setattr(transform, "_dist", SimpleNamespace(sample=lambda _, i=i: table[quantiles[i]]))
        monkeypatch.setattr(torch, "randint", lambda *_, centre=centre, **__: next(centre))
        params = transform.make_params([torch.zeros(2, 3, 32, 32)])
        top, bottom, left, right = (int(each[i]) for each in mix.box)
        assert params["box"] == (left, top, right, bottom)
        assert params["lam_adjusted"] == pytest.approx(float(mix.share[i]), abs=1e-6)


def test_partners_are_any_of_the_images_trained_on_and_half_of_the_mixed_get_either_kind() -> None:
    indices, count = torch.arange(500, 600), 4000
    augmentation = Augmentation(mixup=1.0, cutmix=1.0, mix_probability=0.5)
    mix = draw_mix(augmentation, torch.arange(count), indices, 1, 2, 32, 32)
    assert sorted(mix.partners.unique().tolist()) == indices.tolist()
    assert mix.blend is not None
    assert mix.box is not None
    blended, cut = mix.blend < 1, mix.box[0] < mix.box[1]
    assert not (blended & cut).any()
    assert 900 < blended.sum() < 1100  # a quarter; 3.6 standard deviations
    assert 0.2 < cut.float().mean() < 0.26  # few rectangles are empty
    later = draw_mix(augmentation, torch.arange(count), indices, 1, 3, 32, 32)
    assert (later.partners == mix.partners).float().mean() < 0.03


def test_nothing_but_seed_epoch_and_index_decides_how_an_image_is_mixed() -> None:
    whole = loader(1200)
    expected = joined(whole)
    assert expected[1].shape == (1200, 10)
    torch.testing.assert_close(expected[1].sum(1), torch.ones(1200))
    assert_same(whole.take(whole.order()), expected)
    for batch_size in (4, 100, CHUNK + 1):
        assert_same(joined(loader(batch_size)), expected)
    ranks = [loader(7, rank=rank, world_size=5) for rank in range(5)]  # two have none of the last 3 images
    by_batch = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*ranks, strict=True)]
    assert_same(joined(by_batch), expected)
    assert torch.equal(ranks[1].labels_in_batch(3), expected[1][21:28])
    next(iter(interrupted := loader(100)))
    (resumed := loader(100)).load_state_dict(interrupted.state_dict())
    assert_same(joined(resumed), (expected[0][100:], expected[1][100:]))


@pytest.mark.parametrize("batch_size", [4, 100, 1200])
def test_batches_after_the_mixed_ones_are_those_of_a_loader_that_does_not_mix(batch_size: int) -> None:
    few = torch.arange(600)
    plain = list(loader(batch_size, indices=few, augmentation=Augmentation(flip=True)))
    mixed, resumed = (loader(batch_size, indices=few, augmentation=Augmentation(flip=True, mixup=1.0)) for _ in "12")
    all_mixed = list(mixed)
    for count in (0, 131):
        mixed.set_epoch(0, mixed_batches=count)
        resumed.load_state_dict(mixed.state_dict())
        for batches in (mixed, resumed):
            for i, batch in enumerate(batches):
                assert_same(batch, all_mixed[i] if i < count else plain[i])
                assert torch.equal(batches.labels_in_batch(i), batch[1])


def test_a_data_set_of_one_image_mixes_it_with_itself() -> None:
    ((mixed, labels),) = BatchLoader(noise(1), 8, augmentation=Augmentation(mixup=1.0, cutmix=1.0))
    ((plain, label),) = BatchLoader(noise(1), 8)
    torch.testing.assert_close(mixed, plain)
    assert labels.argmax(1).tolist() == label.tolist()
    assert float(labels.sum()) == pytest.approx(1)


def rectangle(inside: Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of a rectangle that bool `[H, W]` shows."""
    rows, columns = inside.any(1), inside.any(0)
    assert torch.equal(inside, rows[:, None] & columns)
    (top, left), (height, width) = (
        (int(each.long().argmax()) for each in (rows, columns)),
        map(int, (rows.sum(), columns.sum())),
    )
    return top, left, height, width


def test_an_erased_image_is_torchvisions_with_the_mean_colour_in_the_same_rectangle() -> None:
    images, mean = noise(60), (0.2, 0.5, 0.7)
    plain, erasing = (
        BatchLoader(images, 60, mean=mean, augmentation=Augmentation(erase=chance)) for chance in (0, 0.7)
    )
    ((before, _),), ((after, _),) = plain, erasing
    found = 0
    for one, other in zip(before, after, strict=True):
        top, left, height, width = rectangle((one != other).any(0))
        expected = v2.functional.erase(one, top, left, height, width, torch.zeros(3, 1, 1))
        torch.testing.assert_close(other, expected, rtol=0, atol=0.51 / 255 / 0.5)  # a grey level is half of that twice
        found += height > 0
    assert 30 < found < 55


@pytest.mark.parametrize("side", [8, 32])
def test_erased_rectangles_are_as_large_and_as_frequent_as_torchvisions(side: int) -> None:
    count = 1500
    images = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    erased = Augmentation(erase=1.0)(images, torch.arange(count), 0, 0)[:, 0] == 128
    ours = torch.tensor([rectangle(each) for each in erased]).double()
    torch.manual_seed(0)
    transform = v2.RandomErasing()
    drawn = (transform.make_params([images[:1]]) for _ in range(count))
    theirs = torch.tensor([[each[name] for name in "ijhw"] for each in drawn]).double()
    ours, theirs = (torch.cat((each, each[:, 2:3] * each[:, 3:]), 1) for each in (ours, theirs))
    error = ((ours.var(0) + theirs.var(0)) / count).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.1, atol=0)
    assert ours[:, 2:].min() == theirs[:, 2:].min()
    assert ours[:, 2:4].max() == theirs[:, 2:4].max() == side - 1
