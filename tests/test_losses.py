"""Losses with class weights and ignored classes, from the command line: the same numbers however the images are cut."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli
from running import largest_relative_difference, run
from torch.nn.functional import cross_entropy

from lit_cifar import CIFAR10DataModule, LitClassifier

WEIGHTED = ("--model.loss=torch.nn.CrossEntropyLoss", "--model.loss.weight=[0.1,5,1]", "--model.loss.ignore_index=2")
TUTORIAL = Path("lightning_logs", "tutorial", "version_0")


def words_of(pictures: Path, root: Path) -> list[str]:
    words = [f"--data.root={pictures}", "--data.val_size=6", f"--trainer.default_root_dir={root}"]
    return [*words, "--model.net.num_classes=3", "--trainer.precision=32-true"]


def report_of(root: Path) -> dict[str, Any]:
    return json.loads((root / TUTORIAL / "report.json").read_text())


@pytest.mark.slow
def test_a_test_of_a_weighted_loss_is_that_of_the_whole_data_set_whatever_its_batches(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    train = ("--data.batch_size=18", "--trainer.max_epochs=1", "--model.optimizer.lr=0.05", *WEIGHTED)
    assert cli("fit", *words_of(pictures, root), *train).code == 0
    checkpoint = root / TUTORIAL / "checkpoints" / "last.ckpt"
    model = LitClassifier.load_from_checkpoint(checkpoint)
    assert model.card is not None
    assert model.card.loss["init_args"]["weight"] == [0.1, 5, 1]
    data = CIFAR10DataModule(str(pictures), eval_batch_size=100, val_size=6)
    ((images, labels),) = data.test_dataloader()
    with torch.no_grad():
        expected = float(cross_entropy(model(images), labels, torch.tensor([0.1, 5, 1]), ignore_index=2))
    for size in (5, 24):  # the loss is the checkpoint's; of 24 images, the last 8 are ignored
        tested = tmp_path / str(size)
        words = [f"--data.root={pictures}", f"--trainer.default_root_dir={tested}", f"--data.eval_batch_size={size}"]
        assert cli("test", "--ckpt_path", checkpoint, *words).code == 0
        assert report_of(tested)["test_loss"] == pytest.approx(expected, rel=1e-5)
    config = root / TUTORIAL / "config.yaml"
    again = cli("fit", "--config", config, f"--trainer.default_root_dir={tmp_path / 'again'}")
    assert again.code == 0, again.err
    one, two = (last_checkpoint_of(each) for each in (root, tmp_path / "again"))
    assert largest_relative_difference(one, two) == 0


def last_checkpoint_of(root: Path) -> dict[str, Any]:
    return torch.load(root / TUTORIAL / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--model.loss.reduction=sum"], "reduction"),
        (["--model.loss.weight=[1,2]"], "--model.loss"),
        (["--model.loss.ignore_index=2", "--data.mixup=0.2"], "--data.mixup"),
        (["--model.loss=torch.nn.NLLLoss", "--data.cutmix=1"], "--data.cutmix"),
    ],
)
def test_a_loss_that_is_no_mean_has_weights_of_other_classes_or_takes_no_mixed_labels_is_refused(
    cli: Cli, pictures: Path, tmp_path: Path, words: list[str], name: str
) -> None:
    result = cli("fit", *words_of(pictures, tmp_path), "--model.loss=torch.nn.CrossEntropyLoss", *words)
    assert result.failed(2, "loss-unfit", name)
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.slow
def test_a_weighted_loss_trains_on_three_devices_like_on_one(pictures: Path, tmp_path: Path) -> None:
    for devices in (1, 3):
        words = words_of(pictures, tmp_path / str(devices))
        train = (
            "--data.batch_size=7",
            "--trainer.max_epochs=1",
            "--model.slice_size=3",
            f"--trainer.devices={devices}",
        )
        run("fit", *words, *train, *WEIGHTED, "--trainer.log_every_n_steps=1")
    one, three = (last_checkpoint_of(tmp_path / devices) for devices in "13")
    assert largest_relative_difference(one, three) < 1e-5
    losses = [each["lit_cifar"]["history"]["curves"]["loss/train"] for each in (one, three)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    assert report_of(tmp_path / "1")["test_loss"] == pytest.approx(report_of(tmp_path / "3")["test_loss"], rel=1e-5)
