"""Augmentation: exact windows, mirrors and squares, that depend on (seed, epoch, index) alone."""

import numpy as np
import pytest
import torch
from conftest import refused
from torch import Tensor
from torchvision.transforms import v2

from lit_cifar.data.augmentation import Augmentation, draw
from lit_cifar.errors import UsageError

SMALLEST, LARGEST = -(2**63), 2**63 - 1  # of int64
EVERYTHING = Augmentation(flip=True, crop=4, cutout=8, transform=v2.RandomRotation(30), trivial_augment=True)


def noise(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def chi_square(numbers: Tensor, below: int) -> float:
    """In standard deviations from what uniform numbers have on average."""
    expected = len(numbers) / below
    statistic = ((numbers.bincount(minlength=below) - expected) ** 2 / expected).sum().item()
    return float(statistic - (below - 1)) / (2 * (below - 1)) ** 0.5


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack((a, b)).double())[0, 1].item()


def squares(cutout: int, count: int) -> Tensor:
    """bool `[count, 32, 32]`: where images of noise below 128 have been cut."""
    images = noise(count) // 2
    cut = Augmentation(cutout=cutout)(images, torch.arange(count), 5, 6)
    where = cut == 128
    assert torch.equal(where, where[:, :1].expand_as(where)), "a square is cut out of all three channels"
    assert torch.equal(cut[~where], images[~where]), "and nothing else is changed"
    return where[:, 0]


@pytest.mark.parametrize(
    ("seed", "epoch"), [(0, 0), (1, 0), (0, 1), (-1, 3), (2**32 - 1, 999), (SMALLEST, 0), (LARGEST, 0)]
)
def test_drawn_numbers_are_uniform(seed: int, epoch: int) -> None:
    limits = (2, 9, 32, 100, 1000)
    for numbers, below in zip(draw(seed, epoch, torch.arange(30_000), limits), limits, strict=True):
        assert numbers.dtype == torch.int64
        assert 0 <= numbers.min() <= numbers.max() < below
        assert abs(chi_square(numbers, below)) < 6


def test_drawn_numbers_are_uniform_in_pairs_of_neighbouring_images() -> None:
    (numbers,) = draw(0, 0, torch.arange(50_000), (9,))
    assert abs(chi_square(numbers[:-1:2] * 9 + numbers[1::2], 81)) < 6


def test_streams_epochs_seeds_and_neighbours_are_uncorrelated() -> None:
    count = 10_000  # of which the correlation has a standard deviation of 0.01
    columns = [
        numbers
        for seed in (0, 1, -1)
        for epoch in (0, 1, 100)
        for numbers in draw(seed, epoch, torch.arange(count), (1 << 20,) * 6)
    ]
    assert torch.corrcoef(torch.stack(columns).double()).fill_diagonal_(0).abs().max() < 0.06
    for lag in (1, 2, 3, 10, 32):
        assert abs(correlation(columns[0][lag:], columns[0][:-lag])) < 0.06


def test_numbers_are_drawn_for_indices_and_seeds_at_either_end_of_int64() -> None:
    indices = torch.tensor([SMALLEST, SMALLEST + 1, -1, 0, 1, LARGEST - 1, LARGEST])
    for seed in (SMALLEST, -1, 0, LARGEST):
        (numbers,) = draw(seed, 0, indices, (1 << 40,))
        assert len(numbers.unique()) == len(indices)
        assert 0 <= numbers.min() <= numbers.max() < 1 << 40


def test_a_number_depends_on_its_own_index_and_stream_alone() -> None:
    indices = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    few = draw(3, 4, indices[:7], (2, 9))
    many = draw(3, 4, torch.arange(1000), (2, 9, 32, 1 << 40))
    for i in range(2):
        assert torch.equal(few[i], many[i][indices[:7]])


def test_drawn_numbers_are_those_of_splitmix64_in_whole_numbers_without_limit() -> None:
    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    indices = [SMALLEST, -1, 0, 1, 2, 49_999, LARGEST]
    for seed, epoch in ((0, 0), (42, 7), (-3, 100), (LARGEST, 1)):
        drawn = draw(seed, epoch, torch.tensor(indices), (1 << 40, 9))
        for stream, below in enumerate((1 << 40, 9)):
            key = mix((mix((seed * 0x9E3779B1 + epoch) % 2**64) * 8 + stream) % 2**64)
            hashes = [mix(mix((index + key) % 2**64)) for index in indices]
            assert drawn[stream].tolist() == [(number >> 20 & (1 << 40) - 1) % below for number in hashes]


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(flip=True),
        Augmentation(crop=4),
        Augmentation(cutout=8),
        Augmentation(transform=v2.ColorJitter(0.5, 0.5, 0.5)),
        Augmentation(trivial_augment=True),
        EVERYTHING,
    ],
)
def test_what_happens_to_an_image_does_not_depend_on_its_batch(augmentation: Augmentation) -> None:
    images, indices = noise(20), torch.arange(100, 120)
    together = augmentation(images, indices, 1, 2)
    assert not torch.equal(together, images)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    assert torch.equal(augmentation(images[order], indices[order], 1, 2), together[order])
    alone = [augmentation(images[i : i + 1], indices[i : i + 1], 1, 2) for i in range(20)]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(flip=True), Augmentation(crop=4), Augmentation(cutout=8), Augmentation(trivial_augment=True)],
)
def test_another_seed_epoch_or_index_augments_otherwise(augmentation: Augmentation) -> None:
    images, indices = noise(1).expand(40, -1, -1, -1), torch.arange(40)
    one = augmentation(images, indices, 1, 2)
    assert torch.equal(augmentation(images, indices, 1, 2), one)
    for another in (
        augmentation(images, indices, 2, 2),
        augmentation(images, indices, 1, 3),
        augmentation(images, indices + 40, 1, 2),
    ):
        assert not torch.equal(another, one)


@pytest.mark.parametrize("augmentation", [Augmentation(), EVERYTHING])
def test_no_images_are_no_images_and_the_images_given_are_left_as_they_are(augmentation: Augmentation) -> None:
    nothing = augmentation(noise(0), torch.arange(0), 0, 0)
    assert nothing.shape == (0, 3, 32, 32)
    assert nothing.dtype == torch.uint8
    images = noise(20)
    augmentation(images, torch.arange(20), 0, 0)
    assert torch.equal(images, noise(20))


def test_nothing_happens_by_default() -> None:
    assert torch.equal(Augmentation()(noise(20), torch.arange(20), 0, 0), noise(20))


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others() -> None:
    images = noise(2000)
    flipped = Augmentation(flip=True)(images, torch.arange(2000), 0, 0)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert 880 < mirrored.sum() < 1120  # 5 standard deviations


@pytest.mark.parametrize(("flip", "crop", "cutout"), [(True, 0, 0), (False, 4, 0), (True, 2, 0), (False, 0, 7)])
def test_an_image_is_flipped_cropped_and_cut_as_the_numbers_drawn_for_it_say(
    flip: bool, crop: int, cutout: int
) -> None:
    images, indices = noise(50), torch.arange(1000, 1050)
    numbers = draw(3, 4, indices, (2, 2 * crop + 1, 2 * crop + 1, 32, 32))
    augmented = Augmentation(flip=flip, crop=crop, cutout=cutout)(images, indices, 3, 4).numpy()
    for i, (mirrored, down, right, centre_y, centre_x) in enumerate(torch.stack(numbers, dim=1).tolist()):
        expected = images[i].numpy()
        if flip and mirrored:
            expected = expected[:, :, ::-1]
        padded = np.pad(expected, ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
        expected = padded[:, down : down + 32, right : right + 32].copy()
        top, left = centre_y - cutout // 2, centre_x - cutout // 2
        expected[:, max(top, 0) : top + cutout, max(left, 0) : left + cutout] = 128
        assert (augmented[i] == expected).all()


def test_alternate_flips_mirror_an_image_in_every_second_epoch_half_of_them_in_the_first() -> None:
    images, indices = noise(400), torch.arange(400)
    epochs = [Augmentation(flip="alternate")(images, indices, 5, epoch) for epoch in range(4)]
    mirrored = (epochs[0] == images.flip(-1)).flatten(1).all(1)
    assert 150 < mirrored.sum() < 250  # 5 standard deviations
    for epoch, flipped in enumerate(epochs):
        now = mirrored if epoch % 2 == 0 else ~mirrored
        assert torch.equal(flipped, torch.where(now[:, None, None, None], images.flip(-1), images))


@pytest.mark.parametrize("crop", [1, 4, 31])
def test_a_crop_is_a_window_of_the_image_as_numpy_pads_it(crop: int) -> None:
    images, indices = noise(200), torch.arange(200)
    cropped = Augmentation(crop=crop)(images, indices, 3, 1).numpy()
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (crop, crop), (crop, crop)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), axis=(2, 3))
    for image in range(200):
        candidates = (windows[image, 0, :, :, 0, 0] == cropped[image, 0, 0, 0]).nonzero()  # by the first pixel
        assert any((windows[image, :, y, x] == cropped[image]).all() for y, x in zip(*candidates, strict=True))


def test_all_81_shifts_are_about_equally_frequent() -> None:
    count = 4050
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    image = torch.stack((rows, columns, rows)).to(torch.uint8)
    cropped = Augmentation(crop=4)(image.expand(count, -1, -1, -1), torch.arange(count), 0, 0).long()
    shifts = (cropped[:, 0, 16, 16] - 12) * 9 + cropped[:, 1, 16, 16] - 12
    assert shifts.unique().tolist() == list(range(81))
    assert abs(chi_square(shifts, 81)) < 6


def test_a_flip_and_a_crop_give_the_window_of_the_mirrored_image() -> None:
    images, indices = noise(200), torch.arange(200)
    flipped = Augmentation(flip=True)(images, indices, 1, 1)
    both = Augmentation(flip=True, crop=4)(images, indices, 1, 1)
    assert torch.equal(both, Augmentation(crop=4)(flipped, indices, 1, 1))
    assert torch.equal(
        Augmentation(cutout=8)(both, indices, 1, 1), Augmentation(flip=True, crop=4, cutout=8)(images, indices, 1, 1)
    )


@pytest.mark.parametrize("cutout", [1, 2, 7, 8, 40, 64])
def test_a_square_is_cut_out_around_a_centre_and_clipped_at_the_edges(cutout: int) -> None:
    def length(centre: int) -> int:  # of a side of the square, within the image
        return min(centre - cutout // 2 + cutout, 32) - max(centre - cutout // 2, 0)

    for where in squares(cutout, 200):
        rows, columns = where.any(1), where.any(0)
        assert torch.equal(where, rows[:, None] & columns), "it is a rectangle"
        for side in (rows, columns):
            first, last = side.nonzero()[0].item(), side.nonzero()[-1].item()
            count = int(side.sum())
            assert count == last - first + 1
            assert count == min(cutout, 32) or first == 0 or last == 31
            assert count in {length(centre) for centre in range(32)}
            assert count >= length(0) or count >= length(31)


def test_the_centre_of_the_square_is_uniform_over_the_image() -> None:
    where = squares(1, 32 * 32 * 5).flatten(1)
    assert (where.sum(1) == 1).all()
    assert abs(chi_square(where.long().argmax(1), 32 * 32)) < 6


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomRotation(30),
        v2.ColorJitter(0.5, 0.5, 0.5, 0.1),
        v2.Compose([v2.RandomResizedCrop(32, antialias=True), v2.RandomErasing(p=0.5)]),
        v2.TrivialAugmentWide(),
    ],
)
def test_a_transform_of_torchvision_is_random_image_by_image_and_leaves_the_global_generator_alone(
    transform: v2.Transform,
) -> None:
    augmentation = Augmentation(transform=transform)
    images, indices = noise(1).expand(12, -1, -1, -1), torch.arange(12)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    transformed = augmentation(images, indices, 1, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1000)
    assert torch.equal(augmentation(images, indices, 1, 2), transformed)
    assert torch.equal(augmentation(images, indices.flip(0), 1, 2), transformed.flip(0))
    assert not torch.equal(augmentation(images, indices, 1, 3), transformed)
    assert len(transformed.flatten(1).unique(dim=0)) > 6


def test_a_transform_comes_before_the_other_augmentations() -> None:
    inverted = Augmentation(flip=True, crop=4, cutout=8, transform=lambda image: 255 - image)
    images, indices = noise(20), torch.arange(20)
    others = Augmentation(flip=True, crop=4, cutout=8)
    assert torch.equal(inverted(images, indices, 0, 0), others(255 - images, indices, 0, 0))


@pytest.mark.parametrize(
    ("transform", "returned"),
    [(v2.ToDtype(torch.float32, scale=True), "float32 [3, 32, 32]"), (v2.Resize(28), "uint8 [3, 28, 28]")],
)
def test_a_transform_that_returns_another_type_or_size_is_named_with_what_it_returned(
    transform: v2.Transform, returned: str
) -> None:
    with refused(UsageError, "transform-unfit", "--data.transform", "uint8 [3, 32, 32]", returned):
        Augmentation(transform=transform)(noise(2), torch.arange(2), 0, 0)
