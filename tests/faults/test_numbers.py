"""Numbers that are not finite end a training and keep the last good checkpoint; odd data train like any others."""

import json
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli, Result, refused
from PIL import Image
from running import start
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.errors import UserError
from lit_cifar.nets.tutorial import Net

FIT = ("fit", "--config=configs/tutorial.yaml", "--data.val_size=6", "--data.batch_size=4", "--model.net.num_classes=3")
WHERE = re.compile(r"at step (\d+) \(learning rate (\S+)\): the (?:weight|output of the layer) (\S+) is the first")


def lost_at(result: Result) -> tuple[int, str, str]:
    """The step, the learning rate, and the layer or weight that the sentence of a diverged training names."""
    assert result.failed(1, "diverged", "--model.optimizer.lr")
    match = WHERE.search(result.err)
    assert match, result.err
    return int(match[1]), match[2], match[3]


def fit(cli: Cli, data: Path, root: Path, *words: str) -> Result:
    return cli(*FIT, f"--data.root={data}", f"--trainer.default_root_dir={root}", *words)


def test_a_validation_keeps_no_weights_that_are_not_finite(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    words = ("--model.optimizer.lr=1e25", "--trainer.val_check_interval=5", "--trainer.max_epochs=1")
    result = fit(cli, pictures, tmp_path, *words)
    assert lost_at(result)
    assert not list(tmp_path.glob("lightning_logs/**/*.ckpt"))


@pytest.mark.parametrize(
    "path",
    [
        (),  # recorded
        ("--data.batch_size=20",),  # sliced
        pytest.param(("--trainer.profiler=simple",), marks=pytest.mark.slow),  # Lightning's own loop
        pytest.param(("--trainer.accumulate_grad_batches=2",), marks=pytest.mark.slow),
        pytest.param(("--trainer.enable_checkpointing=false",), marks=pytest.mark.slow),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_run_within_ten_steps(
    cli: Cli, pictures: Path, tmp_path: Path, path: tuple[str, ...]
) -> None:
    result = fit(cli, pictures, tmp_path, "--model.optimizer.lr=1e6", "--trainer.max_epochs=9", *path)
    step, rate, weight = lost_at(result)
    assert step <= 14  # lost after the second step, or somewhat later
    assert rate == "1e+06"
    assert weight in dict(Net().named_parameters())
    for checkpoint in tmp_path.glob("lightning_logs/**/*.ckpt"):
        weights = torch.load(checkpoint, weights_only=True)["state_dict"].values()
        assert all(weight.isfinite().all() for weight in weights)
    assert not list(tmp_path.glob("lightning_logs/**/report.json"))


@pytest.mark.slow
def test_several_devices_end_together_with_one_message(pictures: Path, tmp_path: Path) -> None:
    words = ("--model.optimizer.lr=1e6", "--trainer.devices=2", "--trainer.max_epochs=9")
    process = start(*FIT, f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}", *words)
    _, err = process.communicate(timeout=200)
    assert lost_at(Result(process.returncode, "", err))


def test_weights_that_are_not_finite_are_never_written_even_if_a_checkpoint_is_due_at_every_step(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    assert fit(cli, pictures, tmp_path, "--trainer.max_epochs=1").code == 0
    (last,) = tmp_path.glob("lightning_logs/tutorial/*/checkpoints/last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    for group in checkpoint["optimizer_states"][0]["param_groups"]:
        group["lr"] = 1e30  # as a schedule may have it
    torch.save(checkpoint, last)
    result = fit(cli, pictures, tmp_path, "--trainer.max_epochs=2", "--resume=auto", "--checkpoint_seconds=0")
    assert lost_at(result)
    kept = torch.load(last, weights_only=True)
    assert kept["global_step"] >= checkpoint["global_step"]
    assert all(weight.isfinite().all() for weight in kept["state_dict"].values())


class Overflowing(nn.Module):
    """Loses its numbers in training: in a layer, between two, or at its end."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.first, self.second = nn.Linear(3072, 8), nn.Linear(8, 3)
        nn.init.ones_(self.first.weight)

    def forward(self, images: Tensor) -> Tensor:
        large = {self.where: 1e38} if self.training else {}
        hidden = self.first(images.flatten(1) * large.get("first", 1)) * large.get("between", 1) ** 2
        return self.second(hidden) * large.get("output", 1) ** 2


class Standing(torch.optim.SGD):
    """Leaves the weights as they are."""

    def step(self, closure: Any = None) -> Any:
        return closure() if closure else None


def lost(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels) / 0


@pytest.mark.parametrize(
    ("where", "loss", "names"),
    [
        ("first", F.cross_entropy, ("output", "layer first")),
        ("between", F.cross_entropy, ("input", "layer second")),
        ("output", F.cross_entropy, ("network's output",)),
        ("", lost, ("loss itself",)),
    ],
)
def test_what_is_first_not_finite_is_named(
    pictures: Path, where: str, loss: Callable[[Tensor, Tensor], Tensor], names: tuple[str, ...]
) -> None:
    data = CIFAR10DataModule(str(pictures), val_size=0)
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False)
    with refused(UserError, "diverged", "at step 10", *names):
        trainer.fit(LitClassifier(Overflowing(where), partial(Standing, lr=0.1), loss=loss), datamodule=data)


def test_a_training_in_python_without_validation_warns_of_nothing(pictures: Path) -> None:
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(LitClassifier(Net(num_classes=3)), datamodule=CIFAR10DataModule(str(pictures), val_size=0))
    assert [str(warning.message) for warning in caught if "LeafSpec" not in str(warning.message)] == []


def paint(root: Path, classes: Sequence[str], count: int, shuffled: bool = False, plain: bool = False) -> Path:
    """Fewer pictures than usual, of one colour where they are plain, and with labels that mean nothing."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                hue = int(generator.integers(3)) if shuffled else label % 3
                pixels = np.zeros((32, 32, 3), np.uint8) if plain else generator.integers(0, 120, (32, 32, 3), np.uint8)
                pixels[..., hue] += np.uint8(120)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "count", "kind", "words"),
    [
        ("abc", 1, {}, ("--data.val_size=0",)),  # a single image of each class
        ("a", 12, {}, ()),  # one class only
        ("abc", 8, {"plain": True}, ()),  # images of one colour
        ("abc", 8, {"shuffled": True}, ()),  # labels that mean nothing
        ("abc", 8, {}, ("--data.eval_batch_size=4", "--trainer.limit_test_batches=1")),  # tested on one class
        ("ab", 1, {}, ("--data.val_size=1", "--data.batch_size=1")),
    ],
)
def test_odd_data_are_trained_on_and_reported_without_a_warning(
    cli: Cli, tmp_path: Path, classes: str, count: int, kind: dict[str, bool], words: tuple[str, ...]
) -> None:
    data = paint(tmp_path / "data", classes, count, **kind)
    options = (f"--model.net.num_classes={len(classes)}", "--trainer.max_epochs=2", *words)
    result = fit(cli, data, tmp_path, *options)
    assert result.code == 0, result.err
    assert result.err == ""
    (path,) = tmp_path.glob("lightning_logs/tutorial/version_0/report.json")
    report = json.loads(path.read_text())
    tested = sum(map(sum, report["confusion_matrix"]))
    assert tested == (4 if "--trainer.limit_test_batches=1" in words else count * len(classes))
    assert 0 <= report["test_accuracy"] <= 1
    assert report["test_loss"] >= 0
    if classes == "a":
        assert report["test_accuracy"] == 1
    seen = {name: accuracy is not None for name, accuracy in report["class_accuracy"].items()}
    assert seen == {name: tested > 4 or name == "a" or tested < 4 for name in classes}
