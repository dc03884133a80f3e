"""What callbacks freeze, hook, replace and average: each way to compute a step sees it, and resuming keeps it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import Cli, Result, paint_pictures
from pytorch_lightning.callbacks import BaseFinetuning, Callback
from running import differences
from torch import nn
from torch.nn.utils import parametrize

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.nets.tutorial import Net
from lit_cifar.training.recorded import RecordedStep
from lit_cifar.training.step import torch_threads

BATCHES = 14  # of four images in an epoch
RUN = Path("lightning_logs", "tutorial", "version_0")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_pictures(tmp_path_factory.mktemp("small") / "pictures")


class At(Callback):
    """Does something to the network before a step."""

    def __init__(self, step: int, act: Callable[[Any], Any]) -> None:
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            self.act(pl_module)


def trained(root: Path, kind: type[pl.Trainer], *callbacks: Callback) -> tuple[pl.Trainer, list[torch.Tensor]]:
    pl.seed_everything(0)
    module = LitClassifier(Net(3), lambda weights: torch.optim.SGD(weights, lr=0.02, momentum=0.9, fused=True))
    options: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "logger": False}
    trainer = kind(accelerator="cpu", max_steps=20, callbacks=[*callbacks], enable_model_summary=False, **options)
    with torch_threads(1):
        trainer.fit(module, datamodule=CIFAR10DataModule(str(root), batch_size=4, val_size=6))
    return trainer, [weight.detach() for weight in module.net.parameters()]


class Halved(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


def replace_weight(module: LitClassifier) -> None:
    weight = module.net.get_parameter("conv1.weight")
    weight.data.zero_()
    module.net.get_submodule("conv1").weight = nn.Parameter(torch.full_like(weight, 0.1))


def share_weight(module: LitClassifier) -> None:
    module.net.get_submodule("fc2").weight = module.net.get_submodule("fc2").weight  # the same: nothing changes
    bias = module.net.get_parameter("fc3.bias")
    module.net.get_submodule("conv1").bias = nn.Parameter(bias.detach().repeat(2))


ACTS: dict[str, Callable[[Any], Any]] = {
    "frozen": lambda module: module.net.conv1.requires_grad_(False),
    "only a bias learns": lambda module: [
        weight.requires_grad_(name == "fc3.bias") for name, weight in module.net.named_parameters()
    ],
    "hook of a layer": lambda module: module.net.conv1.register_forward_hook(lambda *args: args[2] * 0.5),
    "hook before a layer": lambda module: module.net.fc2.register_forward_pre_hook(lambda _, args: args[0] * 0.5),
    "backward hook of a layer": lambda module: module.net.fc2.register_full_backward_hook(
        lambda _, before, after: tuple(each * 0.1 for each in before)
    ),
    "hook of the module": lambda module: module.register_forward_hook(lambda *args: args[2] * 0.5),
    "hook of a weight": lambda module: module.net.conv1.weight.register_hook(lambda gradient: gradient * 0.1),
    "hook after a weight's gradient": lambda module: module.net.fc1.weight.register_post_accumulate_grad_hook(
        lambda weight: setattr(weight, "grad", weight.grad * 0.1)
    ),
    "parametrized": lambda module: parametrize.register_parametrization(module.net.conv1, "weight", Halved()),
    "weight replaced": replace_weight,
    "weight shared": share_weight,
    "layer replaced": lambda module: setattr(module.net, "pool", nn.AvgPool2d(2)),
    "layer added": lambda module: setattr(module.net, "pool", nn.Sequential(nn.MaxPool2d(2), nn.Dropout(0.0))),
    "network replaced": lambda module: setattr(module, "net", replaced_net()),
    "attribute changed": lambda module: setattr(module.net.conv2, "padding_mode", "reflect"),
    "forward replaced": lambda module: setattr(module.net.fc1, "forward", lambda x: x[:, :120] * 2),
}


def replaced_net() -> Net:
    torch.manual_seed(1)
    return Net(3)


@pytest.mark.parametrize("name", ACTS)
def test_a_recorded_step_sees_what_a_callback_does(root: Path, name: str) -> None:
    trainer, fast = trained(root, Trainer, At(7, ACTS[name]))
    slow = trained(root, pl.Trainer, At(7, ACTS[name]))[1]
    assert isinstance(trainer, Trainer)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_recording_is_used_again_when_all_is_as_before(root: Path) -> None:
    frozen, free = At(5, ACTS["frozen"]), At(9, lambda module: module.net.conv1.requires_grad_(True))
    trainer, fast = trained(root, Trainer, frozen, free)
    slow = trained(root, pl.Trainer, frozen, free)[1]
    assert isinstance(trainer, Trainer)
    assert isinstance(trainer.direct_step, RecordedStep)
    assert trainer.direct_step.is_valid()
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


class FreezesFrom(Callback):
    """Freezes the first layer from an epoch on."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net.conv1.requires_grad_(trainer.current_epoch < self.epoch)


class FreezesAfter(Callback):
    """Freezes the first layer after a step, and the second one at the end of the epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            pl_module.net.conv1.requires_grad_(False)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net.conv2.requires_grad_(False)


class HeadFirst(BaseFinetuning):
    """Trains the convolutions from an epoch on."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze([pl_module.net.conv1, pl_module.net.conv2])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == self.epoch:
            self.unfreeze_and_add_param_group([pl_module.net.conv1, pl_module.net.conv2], optimizer, lr=0.004)


class Stops(Callback):
    """Has the run stopped after a step."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == self.after:
            os.kill(os.getpid(), signal.SIGTERM)


Fit = Callable[..., Result]


@pytest.fixture
def fit(cli: Cli, root: Path, tmp_path: Path) -> Fit:
    """Trains the tutorial recipe for three epochs of 14 steps in a folder of this name."""

    def call(name: str, callback: str, *flags: str, stop: int = 999) -> Result:
        data = ("--data.root", root, "--data.val_size=6", "--model.net.num_classes=3", "--model.optimizer.lr=0.02")
        words = (f"--trainer.default_root_dir={tmp_path / name}", "--trainer.max_epochs=3", "--resume=auto")
        path, _, value = callback.partition("=")
        callbacks = (f"--trainer.callbacks+={path}", *([f"--trainer.callbacks.{value}"] if value else []))
        stops = ("--trainer.callbacks+=test_callbacks.Stops", f"--trainer.callbacks.after={stop}")
        return cli("fit", *data, *callbacks, *flags, *words, *stops)

    return call


def last(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / RUN / "checkpoints" / "last.ckpt", weights_only=True)
    return content


@pytest.mark.parametrize(
    ("callback", "stop", "kept"),
    [
        ("test_callbacks.FreezesFrom=epoch=1", 33, 28),  # in the last epoch, to whose start it goes back
        ("test_callbacks.FreezesAfter=step=5", 8, 8),
        ("test_callbacks.HeadFirst=epoch=1", 20, 14),
        ("test_callbacks.HeadFirst=epoch=1", 33, 28),
    ],
)
def test_an_interrupted_training_ends_with_the_same_weights(
    fit: Fit, tmp_path: Path, callback: str, stop: int, kept: int
) -> None:
    decay = ("--model.decay_norms_and_biases=false", "--model.optimizer.weight_decay=0.01") if kept == 28 else ()
    whole = fit("whole", callback, *decay)
    assert (whole.code, whole.err) == (0, "")
    stopped = fit("parts", callback, *decay, stop=stop)
    assert stopped.failed(143, "interrupted", "last.ckpt")
    assert last(tmp_path / "parts")["global_step"] == kept
    assert (callback.split("=")[0].rpartition(".")[2] in stopped.out) is (kept < stop)  # one line names it
    assert fit("parts", callback, *decay).code == 0
    a, b = last(tmp_path / "whole"), last(tmp_path / "parts")
    assert a["lit_cifar"]["frozen"] == b["lit_cifar"]["frozen"]
    for part in ("state_dict", "optimizer_states"):
        assert differences(a[part], b[part]) == []


def test_frozen_weights_are_named_in_the_checkpoint_and_do_not_change(fit: Fit, tmp_path: Path) -> None:
    assert fit("a", "test_callbacks.FreezesAfter=step=5", "--trainer.max_steps=5").code == 0
    before = last(tmp_path / "a")
    assert before["lit_cifar"]["frozen"] == ["net.conv2.weight", "net.conv2.bias"]
    assert fit("a", "test_callbacks.FreezesAfter=step=5").code == 0
    after = last(tmp_path / "a")
    assert len(after["lit_cifar"]["frozen"]) == 4
    for name, weight in before["state_dict"].items():
        assert torch.equal(after["state_dict"][name], weight) is name.startswith("net.conv")


def test_a_layer_that_is_unfrozen_learns_with_the_rate_that_finetuning_gives_it(fit: Fit, tmp_path: Path) -> None:
    assert fit("a", "test_callbacks.HeadFirst=epoch=1").code == 0
    groups = last(tmp_path / "a")["optimizer_states"][0]["param_groups"]
    assert [(group["lr"], len(group["params"])) for group in groups] == [(0.02, 6), (0.004, 4)]


def test_finetuning_trains_with_a_schedule(fit: Fit) -> None:
    cycle = (
        "--model.lr_scheduler=OneCycleLR",
        "--model.lr_scheduler.max_lr=0.01",
        "--model.lr_scheduler_interval=step",
    )
    assert fit("a", "test_callbacks.HeadFirst=epoch=1", *cycle).code == 0


def test_a_training_in_mid_epoch_is_not_resumed_with_a_callback_that_acts_at_its_start(fit: Fit) -> None:
    assert fit("a", "test_callbacks.FreezesAfter=step=5", stop=8).code == 143
    refused = fit("a", "test_callbacks.FreezesFrom=epoch=1")
    assert refused.failed(2, "callback-unresumable", "FreezesFrom", "last.ckpt")


AVERAGING = ("--trainer.callbacks.swa_lrs=0.01", "--trainer.callbacks.swa_epoch_start=2")
NORMED = ("--model.net=test_callbacks.Normed", "--model.net.num_classes=3")


class Normed(nn.Sequential):
    """Has batch normalisation, for which averaging adds an epoch."""

    def __init__(self, num_classes: int = 10) -> None:
        self.num_classes = num_classes
        super().__init__(nn.Conv2d(3, 4, 5, 4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(196, num_classes))


@pytest.mark.parametrize("net", [(), pytest.param(NORMED, marks=pytest.mark.slow)])
def test_weights_are_averaged_as_by_lightning_and_tested(fit: Fit, tmp_path: Path, net: tuple[str, ...]) -> None:
    cycle = (
        "--model.lr_scheduler=OneCycleLR",
        "--model.lr_scheduler.max_lr=0.01",
        "--model.lr_scheduler_interval=step",
    )
    averaged = fit("whole", "StochasticWeightAveraging", *AVERAGING, *net, *cycle)
    assert averaged.code == 0, averaged.err
    stopped = fit("parts", "StochasticWeightAveraging", *AVERAGING, *net, *cycle, stop=33)
    assert stopped.failed(143, "interrupted")
    assert last(tmp_path / "parts")["global_step"] == BATCHES  # before the averages began
    assert "StochasticWeightAveraging" in stopped.out
    assert fit("parts", "StochasticWeightAveraging", *AVERAGING, *net, *cycle).code == 0
    assert differences(last(tmp_path / "whole")["state_dict"], last(tmp_path / "parts")["state_dict"]) == []
    again = fit("parts", "StochasticWeightAveraging", *AVERAGING, *net, *cycle)
    assert again.failed(2, "callback-unresumable", "StochasticWeightAveraging")
