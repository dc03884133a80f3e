"""LitClassifier with loaders and data modules of a user's own; CIFAR10DataModule's tests are elsewhere."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import Cli, refused
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision.transforms import v2

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.errors import UsageError
from lit_cifar.nets.speedrun import SpeedrunNet

QUIET: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
IMAGES = torch.randn(50, 1, 12, 12, generator=torch.Generator().manual_seed(0))  # as unlike CIFAR-10 as may be
LABELS = torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(1))
WEIGHT = torch.tensor([1.0, 5.0, 0.5, 2.0])


class Own(pl.LightningDataModule):
    """A data module that knows nothing of this project."""

    def train_dataloader(self) -> DataLoader[Any]:
        return loader(8)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def loader(batch_size: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(IMAGES, LABELS), batch_size, **options)


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 4))


def make_classifier(**options: Any) -> LitClassifier:
    return LitClassifier(make_net(), lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9), **options)


def trained_by_hand(loss: nn.Module) -> nn.Module:
    """Two epochs, as a tutorial writes them."""
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for images, labels in loader(16):
            optimizer.zero_grad()
            loss(net(images), labels).backward()
            optimizer.step()
    return net


@pytest.mark.parametrize("trainer", [Trainer, pl.Trainer])
@pytest.mark.parametrize("options", [{}, {"slice_size": 5}, {"loss": nn.CrossEntropyLoss(WEIGHT), "slice_size": 3}])
def test_it_trains_on_a_loader_as_a_plain_loop_does(trainer: type[pl.Trainer], options: dict[str, Any]) -> None:
    classifier = make_classifier(**options)
    trainer(max_epochs=2, **QUIET).fit(classifier, loader(16), loader(30))
    for weight, by_hand in zip(
        classifier.net.parameters(),
        trained_by_hand(options.get("loss", nn.CrossEntropyLoss())).parameters(),
        strict=True,
    ):
        torch.testing.assert_close(weight, by_hand)


def test_it_trains_on_the_probabilities_that_torchvision_mixes() -> None:
    mixed = [v2.CutMix(num_classes=4)(IMAGES[:16], LABELS[:16]), v2.MixUp(num_classes=4)(IMAGES[16:], LABELS[16:])]
    classifier, net = make_classifier(), make_net()
    Trainer(max_epochs=1, **QUIET).fit(classifier, DataLoader(mixed, batch_size=None))  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for images, labels in mixed:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    assert all(map(torch.equal, classifier.net.parameters(), net.parameters()))
    assert classifier.classes == ("0", "1", "2", "3")


def test_it_validates_tests_and_predicts_and_numbers_the_classes() -> None:
    classifier, trainer = make_classifier(loss=nn.CrossEntropyLoss(WEIGHT)), Trainer(max_epochs=1, **QUIET)
    trainer.fit(classifier, loader(16), loader(7))
    (validated,) = trainer.validate(classifier, loader(9), verbose=False)
    (tested,) = trainer.test(classifier, loader(13), verbose=False)
    with torch.no_grad():
        logits = classifier.net.eval()(IMAGES)
    assert validated["loss/val"] == pytest.approx(float(F.cross_entropy(logits, LABELS, WEIGHT)))
    assert tested["loss/test"] == pytest.approx(validated["loss/val"])
    assert tested["accuracy/test"] == pytest.approx(float((logits.argmax(1) == LABELS).float().mean()))
    recall = (logits.argmax(1) == 2)[LABELS == 2].float().mean()
    assert tested["test_class/2"] == pytest.approx(float(recall))
    assert classifier.classes == ("0", "1", "2", "3")
    for batches in (DataLoader(IMAGES, 20), loader(20)):  # type: ignore[arg-type]
        predicted = trainer.predict(classifier, batches)
        assert predicted is not None
        torch.testing.assert_close(torch.cat(predicted), logits.softmax(1))


def test_names_come_from_a_data_set_or_data_module_that_has_as_many() -> None:
    named, data = loader(16), Own()
    vars(named.dataset)["classes"] = ["a", "b", "c", "d"]
    vars(data)["classes"] = ["north", "east", "south", "west"]
    for options, classes in (
        ({"train_dataloaders": named}, ("a", "b", "c", "d")),
        ({"datamodule": data}, ("north", "east", "south", "west")),
    ):
        classifier = make_classifier()
        Trainer(max_epochs=1, **QUIET).fit(classifier, **options)
        assert classifier.classes == classes
    vars(named.dataset)["classes"] = ["a", "b"]
    classifier = make_classifier()
    Trainer(max_epochs=1, **QUIET).fit(classifier, named)
    assert classifier.classes == ("0", "1", "2", "3")


def test_a_training_resumed_between_epochs_goes_on_as_if_nobody_had_stopped_it(tmp_path: Path) -> None:
    whole, half, resumed = make_classifier(), make_classifier(), make_classifier()
    Trainer(max_epochs=3, **QUIET).fit(whole, loader(16), loader(16))
    trainer = Trainer(max_epochs=1, **QUIET)
    trainer.fit(half, loader(16), loader(16))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    Trainer(max_epochs=3, **QUIET).fit(resumed, loader(16), loader(16), ckpt_path=tmp_path / "half.ckpt")
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))
    assert resumed.record.curves == whole.record.curves


def test_a_checkpoint_does_not_guess_how_images_are_normalised(cli: Cli, tmp_path: Path) -> None:
    classifier, trainer = LitClassifier(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))), Trainer(max_steps=1, **QUIET)
    trainer.fit(classifier, DataLoader(TensorDataset(torch.rand(8, 3, 32, 32), LABELS[:8]), 4))
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    net, picture = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), torch.full((3, 32, 32), 51, dtype=torch.uint8)
    loaded = LitClassifier.load_from_checkpoint(tmp_path / "own.ckpt", net)
    assert loaded.classes == ("0", "1", "2", "3")
    with refused(UsageError, "normalization-unknown", "mean", "std"):
        loaded.predict(picture)
    loaded.mean, loaded.std = (0.1,) * 3, (0.5,) * 3
    expected = net(torch.full((1, 3, 32, 32), (0.2 - 0.1) / 0.5)).softmax(1)
    torch.testing.assert_close(loaded.predict(picture), expected.detach())


@pytest.mark.parametrize(
    ("batch", "code", "names"),
    [
        ((IMAGES, LABELS + 1), "network-classes", ("4 outputs", "label 4")),
        ((IMAGES, F.one_hot(LABELS)), "data-unfit", ("int64 [8, 4]",)),
        ((IMAGES, LABELS.float()), "data-unfit", ("float32 [8]",)),
        (((IMAGES * 9).byte(), LABELS), "data-unfit", ("uint8 [8, 1, 12, 12]",)),
        ((IMAGES[:, :, 1:], LABELS), "network-unfit", ("[8, 1, 11, 12]",)),
        ((IMAGES, LABELS, LABELS), "data-unfit", ("int64 [8], int64 [8]",)),
    ],
)
def test_batches_that_do_not_fit_are_refused_at_the_first(
    batch: tuple[torch.Tensor, ...], code: str, names: tuple[str, ...]
) -> None:
    with refused(UsageError, code, *names):
        Trainer(max_epochs=1, **QUIET).fit(make_classifier(), DataLoader(TensorDataset(*batch), 8))


def test_what_needs_our_data_module_is_refused() -> None:
    with refused(UsageError, "value-invalid", "--model.sides", "CIFAR10DataModule"):
        Trainer(max_epochs=1, **QUIET).fit(make_classifier(sides=[(0.0, 24)]), loader(8))
    with refused(UsageError, "network-unfit", "SpeedrunNet", "compute_whitening", "whitened"):
        Trainer(max_epochs=1, **QUIET).fit(LitClassifier(SpeedrunNet(4, (4, 8, 8), 3)), loader(8))


class Mixed(CIFAR10DataModule):
    """Ours, but for the loader to train on."""

    def train_dataloader(self) -> DataLoader[Any]:  # type: ignore[override]
        images, labels, _ = self.images.train
        return DataLoader(TensorDataset(images / 127.5 - 1, labels), 20)


def test_a_subclass_of_our_data_module_may_have_a_loader_of_its_own(pictures: Path) -> None:
    classifier, trainer = LitClassifier(SpeedrunNet(3, (4, 8, 8), 3)), Trainer(max_epochs=2, **QUIET)
    trainer.fit(classifier, datamodule=Mixed(str(pictures), val_size=6))
    assert trainer.global_step == 6
    assert classifier.whitened
    assert classifier.record.curves["loss/val"][-1][0] == 6


class Stream(IterableDataset[Any]):
    """As long as it is; nobody knows beforehand."""

    def __iter__(self) -> Any:
        return zip(IMAGES, LABELS, strict=True)


def test_a_schedule_gets_the_length_of_a_loader_s_epochs() -> None:
    def one_cycle(optimizer: torch.optim.Optimizer, total_steps: int | None = None) -> LRScheduler:
        return OneCycleLR(optimizer, 0.1, total_steps=total_steps)

    classifier = make_classifier(lr_scheduler=one_cycle, lr_scheduler_interval="step")
    trainer = Trainer(max_epochs=3, **QUIET)
    trainer.fit(classifier, loader(16))
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == trainer.global_step == 12
    streamed = make_classifier()
    trainer = Trainer(max_epochs=2, log_every_n_steps=2, **QUIET)
    trainer.fit(streamed, DataLoader(Stream(), 16))
    assert trainer.global_step == 8
    assert [step for step, _ in streamed.record.curves["loss/train"]] == [2, 4, 6, 8]


RECIPE = """
trainer: {max_epochs: 2, enable_model_summary: false, logger: false, log_every_n_steps: 1}
model:
  class_path: lit_cifar.LitClassifier
  init_args:
    net: {class_path: owndata.Net}
    slice_size: 6
    loss: {class_path: torch.nn.CrossEntropyLoss, init_args: {weight: [1, 5, 1]}}
data:
  class_path: owndata.Data
"""
DATA = """
import pytorch_lightning as pl, torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

class Net(torch.nn.Sequential):
    def __init__(self):
        parts = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Tanh(), torch.nn.Flatten()
        super().__init__(*parts, torch.nn.Linear(288, 3))

class Data(pl.LightningDataModule):
    def train_dataloader(self):
        images = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        set = TensorDataset(images, torch.arange(24) % 3)
        size, rank = self.trainer.world_size, self.trainer.global_rank
        return DataLoader(set, 12 // size, sampler=DistributedSampler(set, size, rank, shuffle=False))
"""


@pytest.mark.slow
def test_two_processes_train_on_a_data_module_of_ones_own_as_one_does(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(RECIPE)
    (tmp_path / "owndata.py").write_text(DATA)
    weights = []
    for devices in (1, 2):
        words = ["--config", "own.yaml", f"--trainer.devices={devices}", f"--trainer.default_root_dir={devices}"]
        command = [sys.executable, "-m", "lit_cifar", "fit", *words]
        subprocess.run(command, cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"})
        (path,) = (tmp_path / str(devices)).rglob("*.ckpt")
        weights.append(torch.load(path, weights_only=True)["state_dict"])
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-4, atol=1e-5)
