"""A test says which weights it tested, and what validation gave exactly these."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli, checkpoint
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, StochasticWeightAveraging
from scipy import stats

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.training.callbacks.checkpoints import LastCheckpoint

Report = dict[str, Any]


def report(root: Path) -> Report:
    content: Report = json.loads((root / "lightning_logs/tutorial/version_0/report.json").read_text())
    return content


def held_out_right(weights: LitClassifier, data: CIFAR10DataModule) -> int:
    """How many images of validation the weights predict right."""
    held_out, train = data.split()[1], data.images.train
    return int((weights.predict(train.images[held_out]).argmax(1) == train.labels[held_out]).sum())


def without_validation(path: Path, to: Path) -> Path:
    """A checkpoint as it was before it held what validation gave."""
    content = torch.load(path, weights_only=True)
    del content["lit_cifar"]["history"]["validated"]
    torch.save(content, to)
    return to


def test_fit_and_test_say_which_checkpoint_was_tested(cli: Cli, runs: Path, tmp_path: Path) -> None:
    best = checkpoint(runs)
    data = CIFAR10DataModule(str(runs / "pictures"), val_size=6)
    right = held_out_right(LitClassifier.load_from_checkpoint(best), data)
    found = torch.load(best, weights_only=True)
    after = {"checkpoint_epoch": found["epoch"] + 1, "checkpoint_step": found["global_step"]}
    interval = stats.binomtest(right, 6).proportion_ci(method="wilson")
    after |= {"val_size": 6, "val_accuracy": right / 6, "val_accuracy_interval": pytest.approx([*interval])}
    expected = after | {"checkpoint": "checkpoints/best.ckpt", "chosen_by": "validation accuracy", "test_size": 24}
    assert expected.items() <= report(runs).items()
    count = round(report(runs)["test_accuracy"] * 24)
    interval = stats.binomtest(count, 24).proportion_ci(method="wilson")
    assert report(runs)["test_accuracy_interval"] == pytest.approx([*interval])
    assert abs(datetime.now().astimezone() - datetime.fromisoformat(report(runs)["date"])).days < 1

    words = (f"--data.root={runs / 'pictures'}", f"--trainer.default_root_dir={tmp_path}")
    assert cli("test", *words, f"--ckpt_path={best}").code == 0
    expected = after | {"checkpoint": best.resolve().as_posix(), "chosen_by": "validation accuracy"}
    assert expected.items() <= report(tmp_path).items()
    named = without_validation(best, tmp_path / "mine.ckpt")
    result = cli("validate", *words, f"--ckpt_path={named}")
    assert f"Validating {named} after 1 epoch\n" in result.out
    low, high = after["val_accuracy_interval"].expected
    assert result.out.count(f"95 % interval: {low * 100:.1f}–{high * 100:.1f}") == 1


@pytest.mark.parametrize(
    ("callback", "options", "is_known"),
    [
        (None, {}, True),
        (EMAWeightAveraging(decay=0.5), {}, True),
        (StochasticWeightAveraging(swa_lrs=0.1, swa_epoch_start=1), {}, False),
        (None, {"val_size": 0}, False),
        (None, {"max_steps": 20}, False),  # a step after the last validation
    ],
)
def test_validation_accuracy_is_that_of_exactly_the_tested_weights(
    callback: Callback | None, options: dict[str, Any], is_known: bool, pictures: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3, bias=False))
    data = CIFAR10DataModule(str(pictures), val_size=options.pop("val_size", 6))
    callbacks = [*filter(None, [callback]), LastCheckpoint()]
    settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=2, callbacks=callbacks, default_root_dir=tmp_path, **settings, **options)
    module = LitClassifier(net, lambda weights: torch.optim.SGD(weights, lr=0.1))
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    in_memory = module.tested_weights()
    assert in_memory.path is None
    last = tmp_path / "checkpoints" / "last.ckpt"
    for path in (without_validation(last, tmp_path / "old.ckpt"), last):
        Trainer(**settings).test(module, data, ckpt_path=str(path), verbose=False, weights_only=True)
        loaded = module.tested_weights()
        assert loaded == in_memory._replace(path=path, validated=in_memory.validated if path == last else None)
    assert (loaded.validated is not None) == is_known
    if loaded.validated:
        assert loaded.validated[1:] == (held_out_right(module, data), 6)
