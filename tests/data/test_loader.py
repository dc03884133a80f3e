"""BatchLoader: every image once an epoch, in an order and with an augmentation that no number of devices changes."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_cifar.data.augmentation import Augmentation, draw
from lit_cifar.data.image_set import CIFAR10_CLASSES, ImageSet
from lit_cifar.data.loader import CHUNK, BatchLoader

AUGMENTATION = Augmentation(flip=True, crop=2, cutout=3, trivial_augment=True, jitter=0.2)
Batches = list[tuple[Tensor, Tensor]]


def images(count: int) -> ImageSet:
    """Noise, of 8 x 8 pixels to be quick; the label of an image is its place, by which the tests know it again."""
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(count), CIFAR10_CLASSES)


NOISE = images(1200)


def loader(count: int = 103, batch_size: int = 10, **options: Any) -> BatchLoader:
    options.setdefault("indices", torch.arange(count))
    return BatchLoader(NOISE, batch_size, **{"shuffle": True, "seed": 3, **options})


def labels(batches: Iterable[tuple[Tensor, Tensor]]) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def numbers(batches: Iterable[tuple[Tensor, Tensor]]) -> list[int]:
    """The labels of all batches, one after the other."""
    return list(chain.from_iterable(labels(batches)))


def same(one: Iterable[tuple[Tensor, Tensor]], another: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Bit for bit."""
    pairs = list(zip(list(one), list(another), strict=True))
    return all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("world_size", range(1, 8))
@pytest.mark.parametrize(
    ("count", "batch_size"), [(24, 4), (103, 10), (17, 16), (103, 1), (33, 32), (5, 7), (1, 1), (1200, 500)]
)
def test_every_image_comes_once_an_epoch_in_the_same_steps_on_any_number_of_devices(
    count: int, batch_size: int, world_size: int
) -> None:
    whole = labels(loader(count, batch_size))
    assert sorted(chain.from_iterable(whole)) == list(range(count))
    ranks = [loader(count, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [labels(rank) for rank in ranks]
    for rank, batches in zip(ranks, shares, strict=True):
        assert len(batches) == len(rank) == len(whole) == -(-count // batch_size)
    for step, batch in enumerate(whole):
        parts = [batches[step] for batches in shares]
        assert list(chain.from_iterable(parts)) == batch
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert len(batch) == ranks[0].images_in_batch(step) == ranks[-1].images_in_batch(step)


def test_a_rank_may_have_no_image_in_the_last_batch_and_gets_an_empty_one() -> None:
    *_, (pixels, places) = loader(17, 16, rank=2, world_size=3, augmentation=AUGMENTATION)
    assert pixels.shape == (0, 3, 8, 8)
    assert pixels.dtype == torch.float32
    assert places.shape == (0,)
    assert places.dtype == torch.int64


@pytest.mark.parametrize("world_size", [2, 3])
def test_an_image_is_augmented_alike_on_any_number_of_devices(world_size: int) -> None:
    whole = list(loader(augmentation=AUGMENTATION))
    ranks = [loader(augmentation=AUGMENTATION, rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*ranks, strict=True)]
    assert same(whole, [(pixels, places) for pixels, places in joined])


@pytest.mark.parametrize("batch_size", [4, 100, CHUNK - 1, CHUNK, CHUNK + 1])
def test_batches_cut_from_chunks_equal_batches_made_one_by_one(batch_size: int) -> None:
    batches = loader(1200, batch_size, augmentation=AUGMENTATION)
    batches.set_epoch(2)
    one_by_one = [batches.take(indices) for indices in batches.order().split(batch_size)]
    assert same(batches, one_by_one)
    assert sum(len(places) for _, places in one_by_one) == 1200


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    def epoch(seed: int, number: int) -> Batches:
        batches = loader(seed=seed, augmentation=AUGMENTATION)
        batches.set_epoch(number)
        return list(batches)

    assert same(epoch(3, 1), epoch(3, 1))
    orders = [numbers(epoch(seed, number)) for seed in (0, 1, 2**32 - 1) for number in (0, 1, 2)]
    for i, order in enumerate(orders):
        assert all(order != earlier for earlier in orders[:i])
        assert sorted(order) == list(range(103))


def test_a_second_pass_over_the_same_epoch_is_the_same_and_another_epoch_is_augmented_otherwise() -> None:
    batches = loader(shuffle=False, augmentation=AUGMENTATION)
    first = list(batches)
    assert same(batches, first)
    batches.set_epoch(1)
    assert labels(batches) == labels(first)
    assert not same(batches, first)


def test_the_order_does_not_depend_on_the_global_generator_and_leaves_it_alone() -> None:
    expected = labels(loader(augmentation=AUGMENTATION))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert labels(loader(augmentation=AUGMENTATION)) == expected
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("step", [0, 5, 10])
def test_resuming_in_mid_epoch_gives_exactly_the_batches_that_remain(step: int, before: int, after: int) -> None:
    options: dict[str, Any] = {"augmentation": AUGMENTATION}
    interrupted = loader(**options, rank=before - 1, world_size=before)
    interrupted.set_epoch(4)
    iteration = iter(interrupted)
    for _ in range(step):
        next(iteration)
    state = interrupted.state_dict()
    for rank in range(after):
        whole = loader(**options, rank=rank, world_size=after)
        whole.set_epoch(4)
        resumed = loader(**options, rank=rank, world_size=after)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state, "saved again before the first batch"
        assert same(resumed, list(whole)[step:])
        assert same(resumed, whole), "the next iteration starts at the front again"


def test_small_batches_resume_in_the_middle_of_a_chunk() -> None:
    batches = loader(1200, 4, augmentation=AUGMENTATION)
    whole = list(batches)
    iteration = iter(batches)
    for _ in range(131):  # the second chunk begins at batch 128
        next(iteration)
    resumed = loader(1200, 4, augmentation=AUGMENTATION)
    resumed.load_state_dict(batches.state_dict())
    assert same(resumed, whole[131:])


def test_the_state_at_the_end_of_an_epoch_starts_an_epoch_at_the_front() -> None:
    batches = loader()
    batches.set_epoch(4)
    whole = list(batches)
    resumed = loader()
    resumed.load_state_dict(batches.state_dict())
    assert same(resumed, whole)
    resumed.load_state_dict(batches.state_dict())
    resumed.set_epoch(5)
    batches.set_epoch(5)
    assert same(resumed, batches)
    assert not same(resumed, whole)


def test_two_iterations_at_once_do_not_disturb_each_other() -> None:
    batches = loader(augmentation=AUGMENTATION)
    expected = list(batches)
    one, another = iter(batches), iter(batches)
    ahead = [next(one) for _ in range(4)]
    pairs = list(zip(one, another, strict=False))
    assert same(ahead + [first for first, _ in pairs], expected)
    assert same([second for _, second in pairs], expected[: len(pairs)])


@pytest.mark.parametrize("mean", [(0.5, 0.5, 0.5), (0.4914, 0.4822, 0.4465)])
@pytest.mark.parametrize("std", [(0.5, 0.5, 0.5), (0.247, 0.2435, 0.2616)])
def test_images_are_normalised_by_mean_and_standard_deviation(mean: Sequence[float], std: Sequence[float]) -> None:
    ((pixels, _),) = loader(103, 103, shuffle=False, mean=mean, std=std)
    means, stds = torch.tensor([mean, std], dtype=torch.float64)[:, :, None, None]
    expected = (NOISE.images[:103].double() / 255 - means) / stds
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels.double(), expected, rtol=0, atol=2e-6)


def test_by_default_bytes_become_minus_one_to_one() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 8, 8)
    ((normalised, _),) = BatchLoader(ImageSet(pixels, torch.arange(2), CIFAR10_CLASSES), 2)
    assert normalised[0].unique().tolist() == [-1]
    assert normalised[1].unique().tolist() == pytest.approx([1])


def test_without_shuffling_images_come_in_their_order_in_every_epoch() -> None:
    batches = loader(shuffle=False)
    for epoch in (0, 7):
        batches.set_epoch(epoch)
        assert numbers(batches) == list(range(103))


def test_a_subset_by_indices_is_taken_in_its_order_or_shuffled() -> None:
    indices = torch.tensor([50, 3, 999, 3 + 40, 7])
    assert labels(loader(batch_size=2, indices=indices, shuffle=False)) == [[50, 3], [999, 43], [7]]
    shuffled = numbers(loader(batch_size=2, indices=indices))
    assert sorted(shuffled) == sorted(indices.tolist())
    ((pixels, _),) = loader(batch_size=5, indices=indices, shuffle=False, mean=(0, 0, 0), std=(1, 1, 1))
    assert torch.equal((pixels * 255).round().byte(), NOISE.images[indices])


def test_images_in_a_subset_are_augmented_by_their_place_in_the_data_set() -> None:
    ((whole, _),) = loader(100, 100, shuffle=False, augmentation=AUGMENTATION)
    ((part, _),) = loader(batch_size=3, indices=torch.tensor([90, 4, 33]), shuffle=False, augmentation=AUGMENTATION)
    assert torch.equal(part, whole[[90, 4, 33]])


def test_fewer_images_than_a_batch_make_one_batch() -> None:
    batches = loader(3, 1000)
    assert len(batches) == 1
    assert batches.images_in_batch(0) == 3
    ((pixels, places),) = batches
    assert pixels.shape == (3, 3, 8, 8)
    assert sorted(places.tolist()) == [0, 1, 2]


def test_all_images_are_taken_by_default_and_the_data_set_is_left_as_it_is() -> None:
    few = images(30)
    batches = BatchLoader(few, 7, augmentation=AUGMENTATION, shuffle=True)
    assert sorted(numbers(batches)) == list(range(30))
    assert torch.equal(few.images, images(30).images)
    assert batches.classes == CIFAR10_CLASSES


def test_jitter_adds_its_offset_to_normalised_values_and_then_multiplies_them() -> None:
    mean, std, jitter, steps = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 0.3, 2**20
    options: dict[str, Any] = {"shuffle": False, "mean": mean, "std": std}
    batches = loader(40, 40, augmentation=Augmentation(jitter=jitter), **options)
    batches.set_epoch(2)
    ((jittered, _),) = batches
    offsets, factors = draw(3, 2, torch.arange(40), (1,) * 6 + (steps, steps))[6:]
    for i in range(40):
        offset, factor = (jitter * (2 * numbers[i].item() / (steps - 1) - 1) for numbers in (offsets, factors))
        for channel in range(3):
            normalised = (NOISE.images[i, channel].double() / 255 - mean[channel]) / std[channel]
            expected = (normalised + offset) * (1 + factor)
            torch.testing.assert_close(jittered[i, channel].double(), expected, rtol=0, atol=1e-5)


def test_jitter_gives_each_image_an_offset_and_a_factor_of_its_own() -> None:
    plain, jittered, later = (
        loader(1000, 1000, shuffle=False, augmentation=augmentation)
        for augmentation in (Augmentation(), Augmentation(jitter=0.2), Augmentation(jitter=0.2))
    )
    later.set_epoch(1)
    before, after, other = (next(iter(batches))[0].flatten(1) for batches in (plain, jittered, later))
    factors = after.std(1) / before.std(1)
    offsets = after.mean(1) / factors - before.mean(1)
    assert torch.allclose(after, (before + offsets[:, None]) * factors[:, None], atol=1e-4)
    for values, middle in ((factors, 1), (offsets, 0)):
        assert middle - 0.2 <= values.min() + 1e-4
        assert values.max() - 1e-4 <= middle + 0.2
        assert abs(values.mean() - middle) < 0.02
        assert abs(values.std() - 0.2 / 3**0.5) < 0.01
    assert abs(torch.corrcoef(torch.stack((factors, offsets)))[0, 1]) < 0.1
    assert not torch.allclose(after, other, atol=1e-3)
