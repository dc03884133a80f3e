"""Fewer images, a long tail and wrong labels: exact in number, fixed by the seed, and validation stays as it was."""

import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import refused

from lit_cifar import LitClassifier
from lit_cifar.data import datamodule
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.sources import Images
from lit_cifar.errors import UsageError, UserError
from lit_cifar.nets.tutorial import Net

CLASSES = tuple("abcdefghij")
COUNT = 5000
EVEN: dict[str, Any] = {"val_size": 0.1, "seed": 3}
TRUE = np.arange(COUNT) % 10
WORSE = np.where(np.arange(COUNT) % 3 == 0, (TRUE + 1) % 10, TRUE)


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """500 images of each of ten classes, all black."""
    images = ImageSet(torch.zeros(COUNT, 3, 32, 32, dtype=torch.uint8), torch.from_numpy(TRUE), CLASSES)
    monkeypatch.setattr(datamodule, "open_images", lambda *_: Images("drawn", images, images))


def trained_on(data: CIFAR10DataModule) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and labels of the images in a training epoch, by index."""
    loader = data.train_dataloader()
    indices = loader.order().sort().values
    return indices, loader.take(indices)[1]


def test_a_fraction_has_the_same_share_of_each_class_and_is_part_of_a_larger_one() -> None:
    small, large = (set(CIFAR10DataModule(fraction=share, **EVEN).split()[0].tolist()) for share in (0.1, 0.2))
    assert np.bincount(TRUE[[*small]]).tolist() == [45] * 10
    assert small < large
    assert np.bincount(TRUE[CIFAR10DataModule(fraction=0.0001, **EVEN).split()[0]]).tolist() == [1] * 10
    assert small != {*CIFAR10DataModule(fraction=0.1, val_size=0.1, seed=4).split()[0].tolist()}


def test_a_long_tail_is_that_of_cui_et_al() -> None:
    found = np.bincount(TRUE[CIFAR10DataModule(val_size=0, imbalance=0.01).split()[0]])
    assert found.tolist() == [int(500 * 0.01 ** (label / 9)) for label in range(10)]
    both = np.bincount(TRUE[CIFAR10DataModule(val_size=0, fraction=0.5, imbalance=0.1).split()[0]])
    assert (both[0], both[-1]) == (250, 25)


def test_noise_changes_exactly_its_share_to_other_classes_evenly() -> None:
    data = CIFAR10DataModule(label_noise=0.3, **EVEN)
    indices, labels = trained_on(data)
    shift = (labels.numpy() - TRUE[indices]) % 10
    assert (shift > 0).sum() == data.training_set.changed == round(0.3 * 4500)
    assert np.bincount(shift)[1:].min() > 110  # of 150
    again = trained_on(CIFAR10DataModule(label_noise=0.3, **EVEN))[1]
    assert torch.equal(labels, again)
    assert not torch.equal(labels, trained_on(CIFAR10DataModule(label_noise=0.3, val_size=0.1, seed=4))[1])


def test_all_of_it_together_leaves_validation_and_test_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "worse.npy", WORSE)
    options: dict[str, Any] = {"fraction": 0.5, "imbalance": 0.1, "label_noise": 0.2}
    data = CIFAR10DataModule(train_labels=f"{tmp_path / 'worse.npy'}", **options, **EVEN)
    plain = CIFAR10DataModule(**EVEN)
    assert torch.equal(data.split()[1], plain.split()[1])
    for name in ("val_dataloader", "test_dataloader"):
        assert torch.equal(*(torch.cat([each for _, each in getattr(it, name)()]) for it in (data, plain)))
    indices, labels = trained_on(data)
    assert np.bincount(TRUE[indices])[[0, 9]].tolist() == [225, 22]
    assert int((labels.numpy() != WORSE[indices]).sum()) == round(0.2 * len(indices))
    assert data.training_set.changed == int((labels.numpy() != TRUE[indices]).sum())
    rank = CIFAR10DataModule(train_labels=f"{tmp_path / 'worse.npy'}", **options, **EVEN)
    assert torch.equal(trained_on(rank)[1], labels)


def published(path: Path) -> None:
    """As CIFAR-10N: a dictionary of arrays, pickled by NumPy 1."""
    content = {"clean_label": TRUE, "worse_label": WORSE}
    if path.suffix == ".pt":
        torch.save(content, path)
        return
    array = np.array(content | {"noise_label": [*WORSE]}, dtype=object)
    np.save(path, array, allow_pickle=True)
    pickled = pickle.dumps(array, protocol=3).replace(b"numpy._core", b"numpy.core")
    path.write_bytes(path.read_bytes()[:128] + pickled)


@pytest.mark.parametrize("name", ["a.npy:worse_label", "a.npy:noise_label", "a.pt:worse_label"])
def test_files_of_several_sets_of_labels_are_read_as_cifar_10n_publishes_them(tmp_path: Path, name: str) -> None:
    published(tmp_path / name.partition(":")[0])
    data = CIFAR10DataModule(train_labels=f"{tmp_path / name}", **EVEN)
    indices, labels = trained_on(data)
    assert labels.tolist() == WORSE[indices].tolist()


def test_labels_are_numbers_or_names_in_each_kind_of_file(tmp_path: Path) -> None:
    names = [CLASSES[label] for label in WORSE]
    np.save(tmp_path / "names.npy", names)
    np.save(tmp_path / "objects.npy", np.array(names, dtype=object), allow_pickle=True)
    torch.save(torch.from_numpy(WORSE).int(), tmp_path / "tensor.pt")
    torch.save(names, tmp_path / "list.pt")
    (tmp_path / "bare.CSV").write_text("\r\n".join(names) + "\r\n\r\n", encoding="utf-8-sig")
    (tmp_path / "titled.csv").write_text("label\n" + "\n".join(map(str, WORSE)))
    rows = zip(range(COUNT), WORSE, strict=True)
    (tmp_path / "table.csv").write_text("image; label\n" + "\n".join(f"{i}; {label}" for i, label in rows))
    for path in sorted(tmp_path.iterdir()):
        data = CIFAR10DataModule(train_labels=f"{path}:label" if path.name == "table.csv" else str(path), **EVEN)
        indices, labels = trained_on(data)
        assert labels.tolist() == WORSE[indices].tolist(), path.name


ODD: dict[str, Any] = {
    "short.npy": WORSE[:-7],
    "shape.npy": np.eye(10)[WORSE].astype(int),
    "floats.npy": WORSE + 0.0,
    "floats.pt": torch.from_numpy(WORSE).float(),
    "unknown.npy": np.where(WORSE == 3, 10, WORSE),
    "negative.pt": np.where(WORSE == 3, -1, WORSE),
    "misspelt.npy": np.array([*CLASSES[:-1], "jay"])[WORSE],
    "sets.pt": {"aggre_label": WORSE, "worse_label": WORSE},
    "order.pt": {"clean_label": TRUE[::-1].copy(), "worse_label": WORSE},
}


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("short.npy", ("5,000", "4,993")),
        ("shape.npy", ("5,000", "[5000, 10]")),
        ("floats.npy", ("float64",)),
        ("floats.pt", ("float32",)),
        ("unknown.npy", ("10", "0 to 9")),
        ("negative.pt", ("-1",)),
        ("misspelt.npy", ("jay", "such as a")),
        ("sets.pt", ("aggre_label", "worse_label")),
        ("sets.pt:worst", ("no worst", "worse_label")),
        ("order.pt:worse_label", ("order", "clean_label")),
        ("short.npy:x", ("no x",)),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, name: str, names: tuple[str, ...]) -> None:
    content = ODD[name.partition(":")[0]]
    path = tmp_path / name.partition(":")[0]
    np.save(path, content) if path.suffix == ".npy" else torch.save(content, path)
    data = CIFAR10DataModule(train_labels=str(tmp_path / name))
    with refused(UsageError, "labels-unfit", str(path), *names):
        data.train_dataloader()


def test_files_that_are_missing_damaged_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    for name in ("no.npy", "no.pt:worse_label"):
        with refused(UsageError, "labels-missing", name.partition(":")[0]):
            CIFAR10DataModule(train_labels=str(tmp_path / name))
    for name in ("labels.txt", "labels", ""):
        with refused(UsageError, "labels-unfit", ".npy, .csv or .pt"):
            CIFAR10DataModule(train_labels=str(tmp_path / name))
    for suffix in ("npy", "csv", "pt"):
        (path := tmp_path / f"damaged.{suffix}").write_bytes(b"\x93NUMPY\xff\x00")
        with refused(UserError, "labels-unreadable", str(path)):
            CIFAR10DataModule(train_labels=str(path)).train_dataloader()


class Evil:
    def __reduce__(self) -> Any:
        return subprocess.call, (["touch", "evil"],)


@pytest.mark.parametrize("suffix", ["npy", "pt"])
def test_a_file_of_labels_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.chdir(tmp_path)
    content = np.array({"worse_label": WORSE, "more": Evil()}, dtype=object)
    np.save("a.npy", content, allow_pickle=True)
    torch.save(content, "a.pt")
    with refused(UserError, "labels-unreadable", f"a.{suffix}"):
        CIFAR10DataModule(train_labels=f"a.{suffix}:worse_label").train_dataloader()
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("fraction", 0.0), ("fraction", 1.1), ("imbalance", 0.0), ("imbalance", 2.0), ("label_noise", 1.0)],
)
def test_shares_out_of_range_are_refused(name: str, value: float) -> None:
    options: dict[str, Any] = {name: value}
    with refused(UsageError, "value-out-of-range", f"--data.{name} {value}"):
        CIFAR10DataModule(**options)


def test_the_card_tells_trainings_on_other_labels_apart(tmp_path: Path) -> None:
    cards = []
    for number, labels in enumerate((WORSE, TRUE, WORSE)):
        (tmp_path / f"{number}").mkdir()
        np.save(tmp_path / f"{number}" / "labels.npy", labels)
        data = CIFAR10DataModule(train_labels=str(tmp_path / f"{number}" / "labels.npy"))
        cards.append(LitClassifier(Net()).make_card(data))
    noisy = LitClassifier(Net()).make_card(CIFAR10DataModule(label_noise=0.2))
    assert (noisy.train_size, noisy.changed_labels, cards[1].changed_labels) == (4500, 900, 0)
    assert [bool(cards[0].differences(other)) for other in cards] == [False, True, False]
    assert "--data.label_noise (0.2, now 0.0)" in noisy.differences(LitClassifier(Net()).make_card(CIFAR10DataModule()))
