"""Schedules, accumulated gradients and validations, where a training ends and goes on."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from conftest import Cli, Result
from pytorch_lightning import Callback
from running import differences
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

BATCHES = 14  # of four images in an epoch
Fit = Callable[..., Result]


@pytest.fixture
def fit(cli: Cli, pictures: Path, tmp_path: Path) -> Fit:
    """Trains the tutorial recipe in a folder of this name."""

    def call(name: str, *flags: str, epochs: int = 2) -> Result:
        data = ("--data.root", pictures, "--data.val_size=6", "--model.net.init_args.num_classes=3")
        words = ("--trainer.log_every_n_steps=1", f"--trainer.default_root_dir={tmp_path / name}")
        return cli("fit", *data, *words, f"--trainer.max_epochs={epochs}", "--resume=auto", *flags)

    return call


def run_folder(root: Path) -> Path:
    return root / "lightning_logs" / "tutorial" / "version_0"


def last(root: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(run_folder(root) / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


def assert_same(tmp_path: Path) -> None:
    """`whole` and `parts` ended with the same weights, momenta, rates and schedules."""
    whole, parts = last(tmp_path / "whole"), last(tmp_path / "parts")
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert differences(whole[part], parts[part]) == []


@pytest.mark.slow
def test_a_plateau_is_remembered_at_the_end_of_each_epoch(fit: Fit, tmp_path: Path) -> None:
    words = ("=pytorch_lightning.cli.ReduceLROnPlateau", ".monitor=loss/val", ".mode=max", ".patience=0")
    plateau = [f"--model.lr_scheduler{word}" for word in words]  # to which every epoch is worse
    assert fit("whole", *plateau, epochs=4).code == 0
    for epochs in (1, 2, 4):
        assert fit("parts", *plateau, epochs=epochs).code == 0
    assert last(tmp_path / "whole")["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1e-6)
    assert_same(tmp_path)


def test_a_plateau_can_not_be_asked_between_validations(fit: Fit) -> None:
    plateau = ("--model.lr_scheduler=pytorch_lightning.cli.ReduceLROnPlateau", "--model.lr_scheduler.monitor=loss/val")
    refused = fit("parts", *plateau, "--model.lr_scheduler_interval=step")
    assert refused.failed(2, "schedule-refused", "ReduceLROnPlateau", "--model.lr_scheduler_interval")


@pytest.mark.parametrize("flag", ["--data.val_size=0", "--trainer.check_val_every_n_epoch=2"])
def test_a_plateau_needs_the_validation_of_every_epoch(fit: Fit, tmp_path: Path, flag: str) -> None:
    plateau = ("--model.lr_scheduler=pytorch_lightning.cli.ReduceLROnPlateau", "--model.lr_scheduler.monitor=loss/val")
    refused = fit("parts", *plateau, flag)
    assert refused.failed(2, "schedule-refused", "ReduceLROnPlateau", flag.split("=")[0])
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_rate_that_fell_to_0_is_higher_again_if_the_training_is_made_longer(fit: Fit, tmp_path: Path) -> None:
    falling = ("--model.lr_scheduler=lit_cifar.training.schedules.LinearToZero", "--model.optimizer.lr=0.008")
    for epochs in (2, 4):
        assert fit("parts", *falling, epochs=epochs).code == 0
    events = EventAccumulator(str(run_folder(tmp_path / "parts"))).Reload()
    rates = [event.value for event in events.Scalars("lr")[::BATCHES]]
    assert rates == pytest.approx([0.008, 0.004, 0.004, 0.002])


def test_one_cycle_serves_a_training_that_max_steps_ends_and_can_not_be_made_longer(fit: Fit) -> None:
    cycle = (
        "--model.lr_scheduler=OneCycleLR",
        "--model.lr_scheduler.max_lr=0.01",
        "--model.lr_scheduler_interval=step",
    )
    short = fit("parts", *cycle, "--model.lr_scheduler.total_steps=20")
    assert short.failed(2, "schedule-refused", "OneCycleLR", "20", "total_steps 28")
    first = fit("parts", *cycle, "--model.lr_scheduler.total_steps=20", "--trainer.max_steps=20")
    assert (first.code, first.err) == (0, "")
    longer = fit("parts", *cycle, "--model.lr_scheduler.total_steps=28")
    names = ("--model.lr_scheduler.total_steps (20, now 28)", "--init_from")
    assert longer.failed(2, "checkpoint-of-another-training", *names)


def test_one_cycle_gets_the_length_of_the_training_unless_it_is_given(fit: Fit, tmp_path: Path) -> None:
    cycle = (
        "--model.lr_scheduler=OneCycleLR",
        "--model.lr_scheduler.max_lr=0.01",
        "--model.lr_scheduler_interval=step",
    )
    assert fit("whole", *cycle).code == 0
    assert last(tmp_path / "whole")["lr_schedulers"][0]["total_steps"] == 2 * BATCHES
    product = ("--model.lr_scheduler.epochs=3", f"--model.lr_scheduler.steps_per_epoch={BATCHES}")
    assert fit("given", *cycle, *product).code == 0
    assert last(tmp_path / "given")["lr_schedulers"][0]["total_steps"] == 3 * BATCHES


class Fails(Callback):
    """Fails, has the run stopped, or ends it, at a batch of the first epoch."""

    def __init__(self, batch: int, how: Literal["error", "signal", "end"] = "error") -> None:
        self.batch, self.how = batch, how

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx + 1) == (0, self.batch):
            if self.how == "error":
                raise RuntimeError("no more")
            if self.how == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                trainer.should_stop = True


FAILS = ("--trainer.callbacks+=test_resuming.Fails", "--trainer.callbacks.batch")


def test_a_checkpoint_waits_for_the_step_of_accumulated_gradients(fit: Fit, tmp_path: Path) -> None:
    words = ("--trainer.accumulate_grad_batches=4", "--checkpoint_seconds=0")
    assert fit("whole", *words, *FAILS, "99").code == 0
    assert fit("parts", *words, *FAILS, "7").code == 1
    assert last(tmp_path / "parts")["global_step"] == 1
    assert fit("parts", *words, *FAILS, "99").code == 0
    assert_same(tmp_path)


def test_a_callback_ends_a_training_after_the_step_of_accumulated_gradients(fit: Fit, tmp_path: Path) -> None:
    words = ("--trainer.accumulate_grad_batches=4",)
    assert fit("whole", *words).code == 0
    ended = fit("parts", *words, *FAILS, "6", "--trainer.callbacks.how=end")
    assert "2 steps in" in ended.out  # of 8 batches
    assert fit("parts", *words).code == 0
    assert_same(tmp_path)


@pytest.mark.slow
def test_a_training_that_mixes_until_the_middle_of_an_epoch_resumes_before_and_after_it(
    fit: Fit, tmp_path: Path
) -> None:
    words = (
        "--data.mixup=0.4",
        "--data.cutmix=1",
        "--data.erase=0.5",
        "--data.mix_until=0.3",
        "--checkpoint_seconds=0",
    )
    assert fit("whole", *words).code == 0  # 8 of 28 batches are mixed
    for batch in ("5", "11"):
        assert fit("parts", *words, *FAILS, batch).code == 1
    other = fit("parts", "--data.mixup=0.4", "--data.erase=0.5", "--data.mix_until=0.3")
    assert other.failed(2, "checkpoint-of-another-training", "--data.cutmix (1.0, now 0.0)")
    assert fit("parts", *words).code == 0
    assert_same(tmp_path)


@pytest.mark.slow
def test_gradients_are_accumulated_as_scheduled_if_an_epoch_is_resumed(fit: Fit, tmp_path: Path) -> None:
    words = ("--trainer.callbacks+=GradientAccumulationScheduler", "--trainer.callbacks.scheduling={0: 4}")
    assert fit("whole", *words).code == 0
    assert fit("parts", *words, "--trainer.max_steps=2").code == 0
    assert fit("parts", *words).code == 0
    assert last(tmp_path / "parts")["global_step"] == 8
    assert_same(tmp_path)


def test_a_signal_is_answered_even_if_validation_follows_every_batch(fit: Fit, tmp_path: Path) -> None:
    every = ("--trainer.val_check_interval=1",)
    stopped = fit("parts", *every, *FAILS, "3", "--trainer.callbacks.how=signal")
    path = run_folder(tmp_path / "parts") / "checkpoints" / "last.ckpt"
    assert stopped.failed(143, "interrupted", "SIGTERM", f"--ckpt_path {path}")
    assert last(tmp_path / "parts")["global_step"] == 3
    for name in ("parts", "whole"):
        assert fit(name, *every).code == 0
    assert_same(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("interval", [0.5, 1.0])
def test_best_is_resumed_although_its_epoch_was_validated_before(fit: Fit, interval: float) -> None:
    words = [f"--trainer.val_check_interval={interval}", "--trainer.limit_train_batches=10"]
    words += ["--model.lr_scheduler=pytorch_lightning.cli.ReduceLROnPlateau", "--model.lr_scheduler.monitor=loss/val"]
    assert fit("parts", *words, epochs=1).code == 0
    again = fit("parts", *words, "--ckpt_path=best", epochs=3)
    assert (again.code, again.err) == (0, "")
    assert "Finished training: 3 epochs, 30 steps" in again.out


def test_the_time_of_a_training_includes_that_before_it_was_resumed(fit: Fit, tmp_path: Path) -> None:
    assert fit("parts", epochs=1).code == 0
    checkpoint = last(tmp_path / "parts")
    checkpoint["lit_cifar"]["history"]["trained"]["seconds"] = 5000.0  # as if it had taken so long
    torch.save(checkpoint, run_folder(tmp_path / "parts") / "checkpoints" / "last.ckpt")
    assert fit("parts").code == 0
    report = json.loads((run_folder(tmp_path / "parts") / "report.json").read_text())
    assert 5000 < report["train_seconds"] < 5300


def test_fast_dev_run_leaves_checkpoints_alone(fit: Fit, tmp_path: Path) -> None:
    assert fit("alone", "--trainer.logger=false").code == 0
    path = tmp_path / "alone" / "checkpoints" / "last.ckpt"
    before = path.read_bytes()
    assert fit("alone", "--resume=never", "--trainer.fast_dev_run=true").code == 0
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("in_recipe", [False, True])
def test_a_tilde_is_the_home_in_every_place(
    cli: Cli, fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_recipe: bool
) -> None:
    recipe = tmp_path / "tutorial.yaml"
    content = yaml.safe_load((Path(__file__).parents[1] / "configs" / "tutorial.yaml").read_text())
    if in_recipe:
        content["trainer"]["default_root_dir"] = "~/runs"
    recipe.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    root = () if in_recipe else ("--trainer.default_root_dir=~/runs",)
    data = (f"--config={recipe}", "--data.root=~/pictures", "--data.val_size=6", "--model.net.num_classes=3")
    for epochs in (1, 2):
        result = cli("fit", *data, *root, f"--trainer.max_epochs={epochs}", "--resume=auto")
        assert (result.code, result.err) == (0, "")
    assert last(tmp_path / "runs")["global_step"] == 2 * BATCHES
    assert [path.name for path in run_folder(tmp_path / "runs").parent.iterdir()] == ["version_0"]
    assert cli("test", "--ckpt_path=last", "--trainer.default_root_dir=~/runs", "--data.root=~/pictures").code == 0
    assert not Path("~").exists()


@pytest.mark.slow
def test_what_a_kill_left_of_a_checkpoint_is_deleted_when_the_run_is_resumed(fit: Fit, tmp_path: Path) -> None:
    assert fit("parts", epochs=1).code == 0
    part = run_folder(tmp_path / "parts") / "checkpoints" / ".last.ckpt.1.part"
    part.mkdir()
    (part / "last.ckpt").write_bytes(b"half")
    assert fit("parts").code == 0
    assert not part.exists()


@pytest.mark.slow
def test_last_is_the_newest_of_real_and_drawn_runs_unless_the_data_are_named(fit: Fit, tmp_path: Path) -> None:
    assert fit("both", "--trainer.max_steps=2", epochs=1).code == 0
    real = run_folder(tmp_path / "both") / "checkpoints" / "last.ckpt"
    os.utime(real, (1, 1))
    drawn = ("--data.dataset=drawn", "--model.net.init_args.num_classes=10", "--trainer.limit_test_batches=1")
    assert fit("both", *drawn, "--trainer.max_steps=2", epochs=1).code == 0
    assert fit("both", "--data.dataset=auto", epochs=1).failed(2, "checkpoint-of-another-training", "network")
    assert fit("both", "--data.dataset=folder", epochs=1).code == 0
    assert last(tmp_path / "both")["global_step"] == BATCHES
