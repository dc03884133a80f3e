"""best.ckpt holds the best epoch, and a network learns shapes if colour does not tell the class."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import Cli
from PIL import Image

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.training.callbacks.checkpoints import BestCheckpoint, LastCheckpoint

RIGHT, WRONG, NONE = torch.eye(3), torch.eye(3).roll(1, 1), torch.zeros(3, 3)
"""Weights of a layer that tells classes by their colour: accuracies of 1, 0 and 1/3."""


class Given(pl.Callback):
    """Gives the network weights of a known accuracy before each epoch."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        with torch.no_grad():
            pl_module.net[2].weight.copy_((NONE, RIGHT, WRONG, NONE)[trainer.current_epoch])


def test_best_holds_the_weights_of_the_epoch_with_the_highest_accuracy(pictures: Path, tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3, bias=False))
    best = BestCheckpoint()
    trainer = Trainer(max_epochs=4, callbacks=[Given(), best], accelerator="cpu", default_root_dir=tmp_path)
    module = LitClassifier(net, lambda weights: torch.optim.SGD(weights, lr=0.0))
    trainer.fit(module, datamodule=CIFAR10DataModule(str(pictures), val_size=6))
    checkpoint = torch.load(best.best_model_path, weights_only=True)
    assert torch.equal(checkpoint["state_dict"]["net.2.weight"], RIGHT)
    assert best.best_model_score == 1
    assert [path.name for path in Path(best.best_model_path).parent.glob("best*.ckpt")] == ["best.ckpt"]


def test_the_best_epoch_after_a_resumption_is_kept(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for epochs, resumed in ((1, None), (2, "checkpoints/last.ckpt")):
        net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3, bias=False))
        callbacks = [Given(), BestCheckpoint(), LastCheckpoint()]
        options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "default_root_dir": "."}
        module = LitClassifier(net, lambda weights: torch.optim.SGD(weights, lr=0.0))
        data = CIFAR10DataModule(str(pictures), val_size=6)
        Trainer(max_epochs=epochs, callbacks=callbacks, **options).fit(module, data, ckpt_path=resumed)
    assert torch.load("checkpoints/best.ckpt", weights_only=True)["epoch"] == 1


def paint_stripes(root: Path) -> Path:
    """Horizontal, vertical and no stripes, in random colours that are the same for all classes on average."""
    generator = np.random.default_rng(0)
    stripes = (np.arange(32) // 4 % 2)[:, None] * np.ones((1, 32))
    patterns = {"bird": stripes, "cat": stripes.T, "ship": np.full((32, 32), 0.5)}
    for split, count in (("train", 60), ("test", 40)):
        for name, pattern in patterns.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                a = generator.uniform(0, 255, 3)
                b = (a + generator.uniform(64, 192, 3)) % 256  # different enough to be seen
                pixels = a + (b - a) * pattern[..., None] + generator.normal(0, 10, (32, 32, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


def test_a_network_learns_what_colour_does_not_tell(cli: Cli, tmp_path: Path) -> None:
    data = (f"--data.root={paint_stripes(tmp_path / 'stripes')}", "--data.val_size=0", "--model.net.num_classes=3")
    learn = ("--trainer.max_epochs=8", "--model.optimizer.lr=0.01", f"--trainer.default_root_dir={tmp_path}")
    assert cli("fit", "--config=configs/tutorial.yaml", *data, *learn).code == 0
    report = json.loads((tmp_path / "lightning_logs" / "tutorial" / "version_0" / "report.json").read_text())
    assert report["test_accuracy"] > 0.9
    assert min(report["class_accuracy"].values()) > 0.8
    assert report["test_accuracy"] == pytest.approx(np.trace(report["confusion_matrix"]) / 120)
