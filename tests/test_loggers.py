"""What loggers get beside the curves: hyperparameters and figures."""

import json
from functools import partial
from math import inf
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from conftest import Cli, checkpoint, refused
from drawing import some_images
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from running import curves_in, shown_settings
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

from lit_cifar import CIFAR10DataModule, LitClassifier, RunReport, Trainer
from lit_cifar.errors import UsageError
from lit_cifar.nets.tutorial import Net
from lit_cifar.report.figures import image_grid
from lit_cifar.report.hyperparameters import hyperparameters
from lit_cifar.report.loggers import log_figures, planned_epochs
from lit_cifar.runs.card import RunCard
from lit_cifar.runs.folder import RunLogger
from lit_cifar.training.callbacks.checkpoints import BestCheckpoint
from lit_cifar.training.history import TrainingRecord

UNCHANGED = {
    **{"recipe": "python", "dataset": "drawn", "net": "Net", "optimizer": "SGD", "lr_scheduler": "none"},
    **{"loss": "cross_entropy", "batch_size": 4, "val_size": 1000, "seed": 0, "flip": "false", "crop": 0, "cutout": 0},
    **{"erase": 0.0, "mixup": 0.0, "cutmix": 0.0, "trivial_augment": "false"},
    **{"optimizer.lr": 0.001, "optimizer.momentum": 0.9, "optimizer.weight_decay": 0},
}


class ImageLogger(CSVLogger):
    """Takes images as Weights & Biases does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.taken: list[tuple[str, int | None]] = []

    def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
        assert Path(images[0]).read_bytes().startswith(b"\x89PNG")
        self.taken.append((key, step))


def test_figures_have_names_that_group_and_the_step_of_the_test(tmp_path: Path) -> None:
    figure = image_grid(some_images(1), ["猫"], "Confusion")
    board, images = TensorBoardLogger(tmp_path / "board"), ImageLogger(tmp_path / "images")
    log_figures([board, images], {"confusion": figure, "training images": figure}, 29)
    assert images.taken == [("test/confusion", 29), ("train/images", 29)]
    events = EventAccumulator(board.log_dir)
    events.Reload()
    for name in ("test/confusion", "train/images"):
        assert [event.step for event in events.Images(name)] == [29]


def test_settings_are_those_that_differ_from_their_defaults_and_those_that_runs_are_compared_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    data: dict[str, Any] = {"dataset": "drawn", "val_size": 1000}
    plain = LitClassifier(Net(), partial(torch.optim.SGD, lr=0.001, momentum=0.9))
    assert hyperparameters(plain.make_card(CIFAR10DataModule(**data))) == UNCHANGED

    changed = LitClassifier(
        Net(7),
        partial(torch.optim.AdamW, lr=0.1, amsgrad=True, eps=1e-8),
        partial(torch.optim.lr_scheduler.StepLR, step_size=5, gamma=0.1),
        "step",
        torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        sides=[(0, 16)],
    )
    changed.described = {"net": {"class_path": "lit_cifar.nets.tutorial.Net", "init_args": {"num_classes": 7}}}
    settings: dict[str, Any] = {"fraction": 0.5, "mixup": 0.2, "mix_until": 0.8, "flip": "alternate", "jitter": 0.1}
    card = changed.make_card(CIFAR10DataModule(**data, **settings, normalize=[[0.4] * 3, [0.2] * 3]))
    expected = {**settings}
    expected |= {"net.num_classes": 7, "optimizer": "AdamW", "optimizer.lr": 0.1, "optimizer.amsgrad": "true"}
    expected |= {"optimizer.weight_decay": 0.01, "lr_scheduler": "StepLR", "lr_scheduler.step_size": 5}
    expected |= {"lr_scheduler.interval": "step", "loss": "CrossEntropyLoss", "loss.label_smoothing": 0.1}
    expected |= {"sides": "[[0, 16]]", "normalize": "[[0.4, 0.4, 0.4], [0.2, 0.2, 0.2]]"}
    assert hyperparameters(card) == {
        name: value for name, value in (UNCHANGED | expected).items() if name != "optimizer.momentum"
    }


def test_a_card_of_before_these_settings_and_of_a_class_that_is_not_here_says_what_it_knows() -> None:
    content = LitClassifier(Net()).make_card(CIFAR10DataModule(dataset="drawn", val_size=1000)).as_dict()
    content["augmentation"] = {"flip": True}
    content["optimizer"] = {"class_path": "not_here.Lion", "init_args": {"lr": float("nan"), "betas": [0.9, None]}}
    found = hyperparameters(RunCard.from_dict(content))
    assert found.items() >= {"flip": "true", "mixup": 0.0, "optimizer": "Lion", "optimizer.lr": "nan"}.items()
    assert found["optimizer.betas"] == "[0.9, None]"
    assert "precision" not in found


def test_a_resumed_run_replaces_its_settings(tmp_path: Path) -> None:
    for resumed, epochs in ((None, 2), ("version_0", 3)):
        logger = RunLogger(str(tmp_path), "runs", resumed)
        logger.log_metrics({"loss/val": 1.0}, epochs)
        logger.log_hyperparams({"epochs": epochs, "flip": "true"})
        logger.finalize("success")
        assert shown_settings(tmp_path / "runs" / "version_0") == {"epochs": epochs, "flip": "true"}


def test_what_trains_nothing_leaves_no_empty_runs(cli: Cli, runs: Path, tmp_path: Path) -> None:
    root, folder = f"--trainer.default_root_dir={tmp_path}", tmp_path / "lightning_logs" / "tutorial"
    words = (f"--ckpt_path={checkpoint(runs)}", f"--data.root={runs / 'pictures'}", root)
    assert cli("validate", *words).code == 0
    assert list(tmp_path.iterdir()) == []
    logger = ("--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'csv'}")
    assert cli("predict", *words, *logger).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["lightning_logs"]
    assert {path.name for path in (folder / "version_0").iterdir()} == {"config.yaml", "predictions.csv"}
    assert cli("validate", *words, *logger).code == 0
    (metrics,) = tmp_path.glob("csv/**/metrics.csv")
    assert "accuracy/val" in metrics.read_text().splitlines()[0].split(",")

    assert cli("test", *words).code == 0
    tested = json.loads((folder / "version_1" / "report.json").read_text())
    curves = curves_in(folder / "version_1")
    assert {len(points) for points in curves.values()} == {1}
    last = {name: value for name, ((_, value),) in curves.items()}
    assert last == pytest.approx(
        {
            "accuracy/test": tested["test_accuracy"],
            "accuracy/val": tested["val_accuracy"],
            "loss/test": tested["test_loss"],
            "fit_seconds": tested["train_seconds"],
        }
    )
    settings = shown_settings(folder / "version_1")
    assert settings == shown_settings(checkpoint(runs).parents[1]) | {"epochs": tested["epochs"]}
    assert settings.items() >= {"dataset": "folder pictures", "net.num_classes": 3, "precision": "32-true"}.items()


def test_a_logger_without_a_needed_argument_is_told_in_a_sentence(cli: Cli) -> None:
    result = cli("fit", "--trainer.logger=CSVLogger")
    assert result.code == 2
    assert all(name in result.err for name in ("--trainer.logger", "save_dir"))
    assert result.err.count("\n") == 1


def test_points_logged_after_the_settings_are_read_by_a_tensorboard_that_is_open(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path), "run", default_hp_metric=False)
    logger.log_metrics({"loss/train": 2.0}, 1)
    logger.log_hyperparams({"mixup": 0.2, "layers": [64, 128]})
    logger.save()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    logger.log_metrics({"loss/train": 1.0}, 2)
    logger.save()
    events.Reload()
    assert [point.step for point in events.Scalars("loss/train")] == [1, 2]
    logger.finalize("success")


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "accumulated", "expected"),
    [(2, -1, 1, 2), (-1, 3, 4, 1), (2, 15, 1, 1.5), (-1, -1, 1, inf)],
)
def test_planned_epochs_are_those_that_steps_allow(
    max_epochs: int, max_steps: int, accumulated: int, expected: float
) -> None:
    trainer = Trainer(max_epochs=max_epochs, max_steps=max_steps, accumulate_grad_batches=accumulated, logger=False)
    with patch.object(Trainer, "num_training_batches", 10):
        assert planned_epochs(trainer) == expected


def test_a_report_of_data_of_ones_own_is_refused_before_training() -> None:
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, callbacks=RunReport())
    data = DataLoader(TensorDataset(torch.rand(4, 3, 32, 32), torch.zeros(4).long()))
    with refused(UsageError, "data-unfit", "RunReport", "CIFAR10DataModule"):
        trainer.fit(LitClassifier(Net()), data)


def test_curves_of_checkpoints_of_version_0_2_0_go_on_under_the_new_names() -> None:
    before, after, trainer = TrainingRecord(), TrainingRecord(), Trainer(logger=False)
    state = before.state_dict(trainer)
    state["curves"] = {"train/loss": torch.tensor([[1, 2.5]]), "val/loss": torch.tensor([[2, 1.5]])}
    after.load_state_dict(state, trainer)
    assert (after.curves["loss/train"], after.curves["loss/val"]) == ([(1, 2.5)], [(2, 1.5)])
    assert "val/accuracy" in BestCheckpoint().state_key  # under which its best score is found again
