"""A callback whose metric does not exist, or that would overwrite our checkpoints, is refused before training."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import Cli, Result, refused
from pytorch_lightning.callbacks import EarlyStopping

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.errors import UsageError
from lit_cifar.nets.tutorial import Net

Fit = Callable[..., Result]
CALLBACKS = "pytorch_lightning.callbacks."
METRICS = ("loss/val", "accuracy/val", "val_class/plane", "val_class/car", "val_class/bird")
ACCURACY = "validation accuracy"
EACH = ["--trainer.log_every_n_steps=1"]


class LogsItsOwn(pl.Callback):
    """A callback as users write them, which logs a metric of its own."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("val/mine", 1.0)


@pytest.fixture
def fit(cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """`fit(*flags)` on a small folder, in an empty one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    words = ("--model.net.num_classes=3", "--trainer.max_epochs=1", "--data.val_size=6", "--data.batch_size=6")
    return lambda *flags: cli("fit", f"--data.root={pictures}", *words, *flags)


def with_callback(name: str, **options: object) -> list[str]:
    name = name if "." in name else CALLBACKS + name
    return [f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{key}={value}" for key, value in options.items())]


@pytest.mark.parametrize(
    "words",
    [
        with_callback("EarlyStopping", monitor="val_loss"),
        with_callback("ModelCheckpoint", monitor="loss/train"),
        [
            "--model.lr_scheduler=pytorch_lightning.cli.ReduceLROnPlateau",
            "--model.lr_scheduler.monitor=val_class/dog",
        ],
    ],
)
def test_a_metric_that_does_not_exist_is_refused_with_those_that_do(fit: Fit, words: list[str]) -> None:
    assert fit(*words).failed(2, "metric-missing", words[-1].rpartition("=")[2], *METRICS)
    assert list(Path().iterdir()) == []


def test_a_plateau_without_a_metric_is_refused(fit: Fit) -> None:
    result = fit("--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau")
    assert result.failed(2, "metric-missing", "pytorch_lightning.cli.ReduceLROnPlateau")


def test_without_validation_there_is_no_metric_to_monitor(fit: Fit) -> None:
    for flag in ("--data.val_size=0", "--trainer.limit_val_batches=0"):
        result = fit(*with_callback("EarlyStopping", monitor="loss/val"), flag)
        assert result.failed(2, "metric-missing", "loss/val", "--data.val_size")


@pytest.mark.parametrize(
    "words",
    [
        with_callback("EarlyStopping", monitor="val_class/bird"),
        with_callback("ModelCheckpoint", monitor="step", mode="max", filename="{step}"),
        [
            *with_callback("test_requirements.LogsItsOwn"),
            *with_callback("ModelCheckpoint", monitor="val/mine", filename="mine"),
        ],
    ],
)
def test_a_metric_that_exists_or_that_a_callback_may_log_is_monitored(fit: Fit, words: list[str]) -> None:
    result = fit(*words)
    assert result.code == 0, result.err


def test_from_python_a_missing_metric_is_refused_before_training(pictures: Path, tmp_path: Path) -> None:
    data = CIFAR10DataModule(str(pictures), val_size=6)
    trainer = Trainer(max_epochs=1, logger=False, callbacks=[EarlyStopping("val_acc")], default_root_dir=tmp_path)
    net = Net(3)
    before = net.conv1.weight.clone()
    with refused(UsageError, "metric-missing", "val_acc", *METRICS):
        trainer.fit(LitClassifier(net), datamodule=data)
    assert torch.equal(net.conv1.weight, before)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"save_last": "true"}, "last.ckpt"),
        ({"save_last": "link"}, "last.ckpt"),
        ({"filename": "last"}, "last.ckpt"),
        ({"filename": "best", "monitor": "loss/val"}, "best.ckpt"),
        ({"filename": "Best"}, "est.ckpt"),
        ({"filename": "best", "dirpath": "lightning_logs/tutorial/version_0/checkpoints"}, "best.ckpt"),
    ],
)
def test_a_model_checkpoint_that_would_overwrite_ours_is_refused(fit: Fit, options: dict[str, Any], name: str) -> None:
    assert fit(*with_callback("ModelCheckpoint", **options)).failed(2, "output-refused", "ModelCheckpoint", name)
    assert list(Path().iterdir()) == []


def test_a_model_checkpoint_in_a_folder_of_its_own_may_have_these_names(fit: Fit, tmp_path: Path) -> None:
    result = fit(*with_callback("ModelCheckpoint", dirpath=tmp_path / "mine", filename="best", save_last="true"))
    assert result.code == 0, result.err
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_every_validation_in_the_middle_of_an_epoch_shows_its_accuracy_once(fit: Fit) -> None:
    result = fit("--trainer.max_epochs=2", "--trainer.val_check_interval=4", "--trainer.check_val_every_n_epoch=null")
    assert result.code == 0, result.err
    lines = [line for line in result.out.splitlines() if line.startswith("epoch ")]
    # of 9 batches in an epoch: after the 4th, 8th, 12th and 16th of all
    places = [re.sub(r"  \D.*", "", line) for line in lines]
    assert places == [f"epoch {step // 10 + 1}/2, step {step:>2}" for step in (4, 8, 9, 12, 16, 18)]
    assert [ACCURACY in line for line in lines] == [True, True, False, True, True, False]


def test_a_line_repeats_nothing_that_one_of_the_same_step_has_told(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_cifar.training.callbacks.progress.BATCHES_BETWEEN_LINES", 3)
    result = fit("--trainer.max_epochs=-1", "--trainer.max_steps=6", "--trainer.val_check_interval=2", *EACH)
    assert result.code == 0, result.err
    lines = [line for line in result.out.splitlines() if line.startswith("epoch ")]
    places = [re.match(r"epoch 1, step (./6)  (loss|validation)", line) for line in lines]
    assert [place and place.groups() for place in places] == [
        ("2/6", "loss"),
        ("3/6", "loss"),
        ("4/6", "loss"),
        ("6/6", "loss"),
        ("6/6", "validation"),
    ]
    assert [ACCURACY in line for line in lines] == [True, False, True, False, True]
