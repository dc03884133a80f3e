"""CIFAR10DataModule: a stratified split, fixed by the seed, and one clear sentence for every wrong value."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from torch import Tensor

from lit_cifar.data import datamodule
from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.loader import BatchLoader
from lit_cifar.data.sources import Images
from lit_cifar.errors import UsageError

COUNTS = (70, 30, 1, 19, 0, 5)
CLASSES = ("a", "b", "c", "d", "e", "f")


def uneven(count: int, generator: torch.Generator) -> ImageSet:
    """Images of classes that differ in size, the first `count` classes of them, in no order."""
    labels = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
    labels = labels[torch.randperm(len(labels), generator=generator)][:count]
    images = torch.randint(0, 256, (len(labels), 3, 32, 32), dtype=torch.uint8, generator=generator)
    return ImageSet(images, labels, CLASSES)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`module(val_size=..., ...)`: a data module of 125 images of six uneven classes."""
    generator = torch.Generator().manual_seed(0)
    images = Images("drawn", uneven(125, generator), uneven(40, generator))
    monkeypatch.setattr(datamodule, "open_images", lambda *_: images)
    return CIFAR10DataModule


def labels_of(module: CIFAR10DataModule, indices: Tensor) -> Tensor:
    return module.images.train.labels[indices].bincount(minlength=len(CLASSES))


@pytest.mark.parametrize("val_size", [0, 1, 2, 7, 25, 60, 100, 124])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_the_split_is_stratified_disjoint_complete_and_of_the_exact_size(module: Any, val_size: int, seed: int) -> None:
    data = module(val_size=val_size, seed=seed)
    train, validation = data.split()
    assert len(validation) == val_size
    assert sorted(train.tolist() + validation.tolist()) == list(range(125))
    for indices in (train, validation):
        assert indices.dtype == torch.int64
        assert indices.tolist() == sorted(indices.tolist())
    held_out = labels_of(data, validation)
    exact = torch.tensor(COUNTS) * val_size / 125
    assert ((held_out - exact).abs() < 1).all()


def test_the_split_is_fixed_by_the_seed(module: Any) -> None:
    def held_out(seed: int) -> list[int]:
        torch.rand(3)  # the global generator has no say
        return module(val_size=25, seed=seed).split()[1].tolist()

    assert held_out(7) == held_out(7)
    assert held_out(7) != held_out(8)


def test_even_classes_are_held_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    even = ImageSet(torch.zeros(100, 3, 32, 32, dtype=torch.uint8), torch.arange(100) % 10, tuple("abcdefghij"))
    monkeypatch.setattr(datamodule, "open_images", lambda *_: Images("drawn", even, even))
    data = CIFAR10DataModule(val_size=30)
    _, validation = data.split()
    assert even.labels[validation].bincount(minlength=10).tolist() == [3] * 10


def test_training_and_validation_batches_are_those_of_the_split(module: Any) -> None:
    data = module(val_size=25, batch_size=8, flip=True, crop=4, cutout=8)
    train, validation = data.split()
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()
    assert sorted(loaders[0].order().tolist()) == train.tolist()
    assert loaders[0].order().tolist() != train.tolist()
    assert loaders[1].order().tolist() == validation.tolist()
    for loader in loaders[2:]:
        assert loader.order().tolist() == list(range(40))
    assert [len(loader) for loader in loaders] == [13, 1, 1, 1]
    test, labels = next(iter(loaders[2]))
    assert torch.equal(((test + 1) * 127.5).round().byte(), data.images.test.images), "not augmented"
    assert torch.equal(labels, data.images.test.labels)


def test_batches_are_augmented_in_training_alone_and_normalised_under_the_seed_of_the_module(module: Any) -> None:
    options: dict[str, Any] = {"seed": 9, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    augmented: dict[str, Any] = {"flip": True, "crop": 4, "cutout": 8, "jitter": 0.1}
    normalize = (options["mean"], options["std"])
    data = module(val_size=25, batch_size=8, eval_batch_size=10, seed=9, normalize=normalize, **augmented)
    train, validation = data.split()
    augmentation = Augmentation(**augmented)
    images, test = data.images.train, data.images.test
    pairs = [
        (
            data.train_dataloader(),
            BatchLoader(images, 8, indices=train, shuffle=True, augmentation=augmentation, **options),
        ),
        (data.val_dataloader(), BatchLoader(images, 10, indices=validation, **options)),
        (data.test_dataloader(), BatchLoader(test, 10, **options)),
    ]
    for loader, expected in pairs:
        for (pixels, labels), (right, right_labels) in zip(loader, expected, strict=True):
            assert torch.equal(pixels, right)
            assert torch.equal(labels, right_labels)


def test_without_held_out_images_all_are_trained_on_and_there_is_no_validation(module: Any) -> None:
    data = module(val_size=0)
    assert data.val_dataloader() == []
    assert sorted(data.train_dataloader().order().tolist()) == list(range(125))


@pytest.mark.parametrize("val_size", [125, 5000])
def test_holding_out_all_images_is_refused(module: Any, val_size: int) -> None:
    with refused(UsageError, "value-out-of-range", f"--data.val_size {val_size}", "125 training images"):
        module(val_size=val_size).prepare_data()


@pytest.mark.parametrize(("mixup", "said"), [(0.0, True), (0.2, False)])
def test_a_line_says_that_mixing_flags_are_not_used(
    module: Any, capsys: pytest.CaptureFixture[str], mixup: float, said: bool
) -> None:
    module(mixup=mixup, mix_probability=0.5).train_dataloader()
    assert ("--data.mix_probability 0.5 is not used" in capsys.readouterr().err) == said


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("batch_size", 0),
        ("batch_size", -4),
        ("eval_batch_size", 0),
        ("val_size", -1),
        ("crop", -1),
        ("crop", 32),
        ("cutout", -1),
        ("cutout", 65),
        ("jitter", -0.1),
        ("jitter", 1.0),
        ("mixup", -0.2),
        ("cutmix", float("nan")),
        ("mixup", float("inf")),
        ("mix_probability", 1.1),
        ("mix_until", -0.5),
        ("erase", float("nan")),
        ("image_size", 7),
        ("image_size", 225),
        ("resize", "stretch"),
        ("normalize", "Half"),
        ("normalize", [0.5]),
        ("normalize", [[0.5] * 3]),
        ("normalize", [[0.5] * 3, [0.5] * 4]),
        ("normalize", [[0.5] * 3, [0.5, 0, 0.5]]),
        ("normalize", [[float("nan")] * 3, [1.0] * 3]),
        ("normalize", [[125.3, 123.0, 113.9], [63.0, 62.1, 66.7]]),
    ],
)
def test_a_wrong_value_is_refused_with_its_flag_and_itself(flag: str, value: object) -> None:
    options: dict[str, Any] = {flag: value}
    with refused(UsageError, "value-out-of-range", f"--data.{flag} {value} must "):
        CIFAR10DataModule(**options)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 1, "eval_batch_size": 1}, {"crop": 31, "cutout": 64}, {"crop": 0, "cutout": 0}, {"val_size": 0}],
)
def test_the_values_at_the_limits_work(module: Any, options: dict[str, Any]) -> None:
    images, _ = next(iter(module(**{"val_size": 5} | options).train_dataloader()))
    assert images.isfinite().all()


def test_the_checksum_is_that_of_the_data_and_of_nothing_else(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, other = module(val_size=5, seed=1), module(val_size=6, seed=2, batch_size=7)
    assert data.checksum == other.checksum
    for split in ("train", "test"):
        images, labels, classes = getattr(data.images, split)
        for at, changed in enumerate((images.clone(), labels.clone())):
            changed.view(-1)[-1] ^= 1
            fields = [images, labels, classes]
            fields[at] = changed
            another = data.images._replace(**{split: ImageSet(*fields)})
            monkeypatch.setattr(datamodule, "open_images", lambda *_, images=another: images)
            assert module(val_size=5).checksum != data.checksum


def test_it_is_usable_from_python_without_a_trainer_in_five_lines(pictures: Path) -> None:
    data = CIFAR10DataModule(str(pictures), batch_size=16, val_size=6, flip=True, crop=4)
    train = data.train_dataloader()
    for images, labels in train:
        assert images.shape[1:] == (3, 32, 32)
        assert labels.max() < len(data.classes) == 3
    assert isinstance(train, BatchLoader)
    assert sum(len(labels) for _, labels in train) == 54
