"""The leaner loop and the recorded step give the numbers of Lightning's own loop, and callbacks see the same."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import paint_pictures
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, LambdaCallback, ModelCheckpoint
from running import differences

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.nets.tutorial import Net
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.recorded import RecordedStep
from lit_cifar.training.step import DirectStep, torch_threads
from lit_cifar.training.trainer import Trainer

STEPS, STEPS_AN_EPOCH = 60, 14  # the last of an epoch has two images

Trained = tuple[pl.Trainer, LitClassifier]
Train = Callable[..., Trained]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Train]:
    """Trains for 60 steps on small pictures, with our Trainer or with Lightning's, both with one thread."""
    with torch_threads(1):
        yield partial(train_on, paint_pictures(tmp_path_factory.mktemp("pictures")))


def train_on(
    root: Path, fast: bool, *callbacks: Callback, batch_size: int = 4, net: type[Net] = Net, **options: Any
) -> Trained:
    ckpt_path = options.pop("ckpt_path", None)
    pl.seed_everything(0)
    module = LitClassifier(
        net(3),
        lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9, fused=True),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
        "step",
    )
    trainer = (Trainer if fast else pl.Trainer)(
        accelerator="cpu",
        max_steps=STEPS,
        log_every_n_steps=10,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"enable_checkpointing": False} | options,
    )
    data = CIFAR10DataModule(str(root), batch_size=batch_size, val_size=6, flip=True)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer, module


def step_of(trainer: pl.Trainer) -> type | None:
    assert isinstance(trainer, Trainer)
    return None if trainer.direct_step is None else type(trainer.direct_step)


def furthest(a: LitClassifier, b: LitClassifier) -> float:
    """The largest relative difference of a weight tensor."""
    pairs = zip(a.net.parameters(), b.net.parameters(), strict=True)
    return max(float((x - y).detach().norm() / y.detach().norm()) for x, y in pairs)


def test_the_recorded_step_gives_the_numbers_of_lightnings_own(train: Train) -> None:
    fast_trainer, fast = train(True)
    slow_trainer, slow = train(False)
    assert step_of(fast_trainer) is RecordedStep
    assert 0 < furthest(fast, slow) < 1e-5  # the order in which convolutions sum is another
    assert [step for step, _ in fast.record.curves["loss/train"]] == [10, 20, 30, 40, 50, 60]
    for name in ("loss/train", "loss/val"):
        for (step, loss), (other_step, other) in zip(fast.record.curves[name], slow.record.curves[name], strict=True):
            assert step == other_step
            assert loss == pytest.approx(other, rel=1e-5)
    assert fast.record.trained["images"] == slow.record.trained["images"] == 4 * 54 + 4 * 4
    assert differences(fast_trainer.fit_loop.state_dict(), slow_trainer.fit_loop.state_dict()) == []
    assert fast_trainer.optimizers[0].param_groups[0]["lr"] == slow_trainer.optimizers[0].param_groups[0]["lr"]


def test_at_larger_batches_the_lean_loop_changes_no_bit(train: Train) -> None:
    fast_trainer, fast = train(True, batch_size=32)
    slow_trainer, slow = train(False, batch_size=32)
    assert step_of(fast_trainer) is DirectStep
    assert furthest(fast, slow) == 0
    assert fast.record.curves == slow.record.curves
    assert differences(fast_trainer.fit_loop.state_dict(), slow_trainer.fit_loop.state_dict()) == []


class Batches(Callback):
    """Notes what it is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        assert len(batch[1]) == (2 if batch_idx == STEPS_AN_EPOCH - 1 else 4)
        self.seen.append((trainer.global_step, trainer.current_epoch, batch_idx))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.log("batch_loss", outputs["loss"])
        self.losses.append(float(outputs["loss"]))


def test_a_callback_that_looks_at_batches_sees_each_and_changes_nothing(train: Train) -> None:
    batches = Batches()
    trainer, watched = train(True, batches)
    assert step_of(trainer) is RecordedStep
    assert batches.seen == [(step, step // STEPS_AN_EPOCH, step % STEPS_AN_EPOCH) for step in range(STEPS)]
    assert float(trainer.callback_metrics["batch_loss"]) == batches.losses[-1]
    assert sum(batches.losses[:10]) / 10 == pytest.approx(watched.record.curves["loss/train"][0][1])
    assert furthest(watched, train(True)[1]) == 0


class Gradients(Callback):
    """Notes their norm before each step."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.norms.append(float(pl_module.net.conv1.weight.grad.norm()))


def test_a_callback_that_looks_at_gradients_gets_lightnings_own_step(train: Train) -> None:
    gradients = Gradients()
    trainer, watched = train(True, gradients)
    assert step_of(trainer) is None
    assert len(gradients.norms) == STEPS
    assert min(gradients.norms) > 0
    assert furthest(watched, train(False)[1]) == 0


def test_hooks_of_a_lambda_callback_are_called(train: Train) -> None:
    called = dict.fromkeys(("on_train_batch_start", "on_after_backward", "on_train_batch_end"), 0)

    def count(name: str, *_: Any) -> None:
        called[name] += 1

    train(True, LambdaCallback(**{name: partial(count, name) for name in called}))
    assert set(called.values()) == {STEPS}


class Norms(Callback):
    """Logs the gradients' norm in each step."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        pl_module.log("norm", pl_module.net.conv1.weight.grad.norm())


def test_what_a_callback_logs_of_gradients_is_logged(train: Train) -> None:
    (fast, _), (slow, _) = train(True, Norms()), train(False, Norms())
    assert fast.callback_metrics["norm"] == slow.callback_metrics["norm"] > 0


def test_a_model_checkpoint_of_epochs_leaves_the_leaner_loop_on(train: Train, tmp_path: Path) -> None:
    every_epoch, every_batch = ModelCheckpoint(tmp_path / "a"), ModelCheckpoint(tmp_path / "b", every_n_train_steps=50)
    for callback, is_lean in ((every_epoch, True), (every_batch, False)):
        trainer, _ = train(True, callback, enable_checkpointing=True)
        assert isinstance(trainer, Trainer)
        assert trainer.is_lean == is_lean
    assert [len(list((tmp_path / name).iterdir())) for name in "ab"] == [1, 1]


def test_averaging_weights_leaves_the_leaner_loop_on_and_changes_no_bit(train: Train, tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"

    def save(trainer: Any, *_: Any) -> None:
        if trainer.global_step == 31:  # the first of two steps of an epoch
            trainer.save_checkpoint(path)

    saving = LambdaCallback(on_train_batch_end=save)
    lean, ours = train(True, EMAWeightAveraging(decay=0.9), batch_size=32)
    _, theirs = train(False, EMAWeightAveraging(decay=0.9), saving, batch_size=32)
    _, resumed = train(True, EMAWeightAveraging(decay=0.9), batch_size=32, ckpt_path=path)
    assert isinstance(lean, Trainer)
    assert lean.is_lean
    assert furthest(ours, theirs) == furthest(resumed, theirs) == 0


class Dropped(Net):
    """Has dropout, and is recorded none the less."""

    traceable = True  # a subclass has to say so again

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.fc1 = torch.nn.Sequential(self.fc1, torch.nn.Dropout(0.5))  # type: ignore[assignment]


def test_recording_draws_no_random_numbers(train: Train) -> None:
    trainer, fast = train(True, net=Dropped)
    assert step_of(trainer) is RecordedStep
    assert furthest(fast, train(False, net=Dropped)[1]) < 1e-4  # whose dropout drew the same


class OutOfMemory(Callback):
    """Fails in the middle of a training."""

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        assert torch.get_num_threads() == 1
        raise MemoryError


def test_torch_has_its_threads_again_after_a_training_that_failed(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(MemoryError):
            train(True, OutOfMemory())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


class Threads(Callback):
    """Notes how many threads torch has in training and in validation."""

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self.training = torch.get_num_threads()

    def on_validation_batch_end(self, *_: Any) -> None:
        self.validation = torch.get_num_threads()


@pytest.mark.parametrize(("batch_size", "number"), [(4, 1), (32, 3)])
def test_only_small_batches_train_with_one_thread(train: Train, batch_size: int, number: int) -> None:
    threads = Threads()
    with torch_threads(3):
        train(True, threads, batch_size=batch_size)
    assert (threads.training, threads.validation) == (number, 3)


class Unsure(Net):
    """Does not say that it is traceable."""

    traceable = False


class WithBuffer(Net):
    """Has a buffer, which a recording would hide."""

    calls: torch.Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(images)


@pytest.mark.parametrize("kind", [Unsure, WithBuffer])
def test_a_network_that_can_not_be_recorded_gets_lightnings_own_step(train: Train, kind: type[Net]) -> None:
    trainer, fast = train(True, net=kind)
    assert step_of(trainer) is DirectStep
    assert furthest(fast, train(False, net=kind)[1]) == 0
    assert float(getattr(fast.net, "calls", STEPS)) >= STEPS


def test_a_hook_on_a_layer_is_called_in_every_step(train: Train) -> None:
    calls = []

    class Hooked(Net):
        def __init__(self, num_classes: int) -> None:
            super().__init__(num_classes)
            self.fc1.register_forward_hook(lambda *_: calls.append(1))

    trainer, _ = train(True, net=Hooked)
    assert step_of(trainer) is DirectStep
    assert len(calls) >= STEPS


@pytest.mark.parametrize("option", [{"gradient_clip_val": 0.5}, {"accumulate_grad_batches": 2}, {"profiler": "simple"}])
def test_options_of_the_trainer_that_change_a_step_are_heeded(train: Train, option: dict[str, Any]) -> None:
    fast_trainer, fast = train(True, **option)
    slow_trainer, slow = train(False, **option)
    assert furthest(fast, slow) < 1e-5
    assert fast_trainer.global_step == slow_trainer.global_step
    assert furthest(fast, train(True)[1]) > 1e-4 or "profiler" in option


def test_a_trainer_of_another_precision_gets_lightnings_own_loop(train: Train) -> None:
    (_, fast), (_, slow) = (train(ours, precision="64-true") for ours in (True, False))
    assert next(fast.net.parameters()).dtype == torch.float64
    assert furthest(fast, slow) == 0
