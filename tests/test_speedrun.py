"""What the speedrun recipe is made of: Muon, slices, growing images, alternating flips, views, and a fast precision."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import pytorch_lightning as pl
import torch
import yaml
from conftest import Cli, refused
from PIL import Image, ImageFilter, ImageOps
from running import differences
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from lit_cifar import CIFAR10DataModule, LitClassifier
from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.loader import BatchLoader
from lit_cifar.data.sources import open_images
from lit_cifar.errors import UsageError
from lit_cifar.evaluation.test_time_augmentation import Views, mean_logits
from lit_cifar.nets.speedrun import STEEPNESS, SpeedrunNet
from lit_cifar.training.preparation import fast_precision
from lit_cifar.training.schedules import CosineWithWarmup, LinearToZero

RECIPE = Path(__file__).parent.parent / "configs" / "speedrun.yaml"
SMALL = (
    f"--config={RECIPE}",
    "--model.net.init_args.num_classes=3",
    "--model.net.init_args.widths=[8,16,256]",
    "--model.optimizer.init_args.head_lr=13",
    "--model.optimizer.init_args.bias_lr=1",
    "--model.slice_size=5",
    "--model.sides=[[0,16],[0.5,24]]",
    "--data.batch_size=20",
    "--trainer.max_epochs=8",
    "--trainer.log_every_n_steps=1",
)


def path_of_last(root: Path) -> Path:
    return root / "lightning_logs" / "speedrun" / "version_0" / "checkpoints" / "last.ckpt"


def last(root: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path_of_last(root), weights_only=True)
    return checkpoint


def test_a_named_precision_takes_precedence_over_the_fast_one_and_config_yaml_keeps_it(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    other = "32-true" if fast_precision(torch.device("cpu")) == "bf16-mixed" else "bf16-mixed"
    words = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=1")
    assert f"precision {other}" in cli("fit", *SMALL, *words, f"--trainer.precision={other}").out
    config = path_of_last(tmp_path).parents[1] / "config.yaml"
    assert f"precision {other}" in cli("fit", f"--config={config}").out


def test_a_trained_network_keeps_its_whitening_when_it_learns_on_other_images(pictures: Path, tmp_path: Path) -> None:
    def fit(classifier: LitClassifier) -> pl.Trainer:
        trainer = pl.Trainer(max_epochs=1, logger=False, default_root_dir=tmp_path, enable_checkpointing=False)
        trainer.fit(classifier, datamodule=CIFAR10DataModule(str(pictures), batch_size=60, val_size=0))
        return trainer

    net = SpeedrunNet(num_classes=3, widths=(4, 8, 8))
    fit(LitClassifier(net)).save_checkpoint(tmp_path / "trained.ckpt")
    for path in pictures.glob("train/*/*.png"):
        ImageOps.invert(Image.open(path).filter(ImageFilter.BLUR)).save(path)
    classifier = LitClassifier.load_from_checkpoint(tmp_path / "trained.ckpt").train()
    fit(classifier)
    assert torch.equal(classifier.net.get_parameter("whiten.weight"), net.whiten.weight)


@pytest.mark.slow
def test_the_recipe_learns_in_the_precision_that_is_fast_and_resumes_bit_for_bit(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    root = f"--data.root={pictures}"
    whole = cli("fit", *SMALL, root, f"--trainer.default_root_dir={tmp_path / 'whole'}")
    assert whole.code == 0, whole.err
    assert f"precision {fast_precision(torch.device('cpu'))}" in whole.out
    report = json.loads((tmp_path / "whole" / "lightning_logs" / "speedrun" / "version_0" / "report.json").read_text())
    assert report["test_accuracy"] > 0.9
    again = f"--trainer.default_root_dir={tmp_path / 'parts'}"
    for _ in range(2):
        assert cli("fit", *SMALL, root, again, "--resume=auto", "--trainer.max_steps=5").code == 0
    assert cli("fit", *SMALL, root, again, "--resume=auto").code == 0
    assert last(tmp_path / "parts")["global_step"] == 24
    checkpoints = [last(tmp_path / name) for name in ("whole", "parts")]
    for part in ("state_dict", "lr_schedulers"):
        assert differences(checkpoints[0][part], checkpoints[1][part]) == []
    tested = cli("test", root, "--ckpt_path=last", f"--trainer.default_root_dir={tmp_path / 'parts'}")
    assert re.findall("^Accuracy of .*", tested.out, re.M) == re.findall("^Accuracy of .*", whole.out, re.M)
    path = path_of_last(tmp_path / "parts")
    settings = yaml.safe_load(cli("test", root, f"--ckpt_path={path}", "--print_config").out)["model"]
    assert (settings["test_time_augmentation"], settings["confidence_threshold"]) == ("flip-shift", 0.6)
    assert LitClassifier.load_from_checkpoint(path).confidence_threshold == 0.6
    (schedule,) = checkpoints[0]["lr_schedulers"]
    assert schedule["total_steps"] == 24
    assert schedule["_last_lr"] == [0.0, 0.0, 0.0]


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(2, 2))], lr=2.0)


def test_the_schedule_needs_its_length_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="total_steps"):
        LinearToZero(sgd())


def test_the_schedule_falls_in_a_line_to_zero() -> None:
    assert rates(LinearToZero(sgd(), 4), 6) == [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]


def test_the_schedule_rises_before_it_falls_and_goes_on_in_a_longer_training() -> None:
    schedule = LinearToZero(sgd(), 8, rise=0.375)
    assert rates(schedule, 9) == pytest.approx([0.5, 1.0, 1.5, 2.0, 1.6, 1.2, 0.8, 0.4, 0.0])
    longer = LinearToZero(sgd(), 18)
    longer.load_state_dict(schedule.state_dict())
    longer.step()
    assert rates(longer, 2) == pytest.approx([2 * 8 / 18, 2 * 7 / 18])


def test_a_cosine_with_warmup_is_torchs() -> None:
    assert rates(CosineWithWarmup(sgd(), 12), 13) == pytest.approx(rates(CosineAnnealingLR(sgd(), 12), 13), abs=1e-9)
    both = sgd()
    linear, cosine = LinearLR(both, 1 / 4, total_iters=3), CosineAnnealingLR(both, 9, eta_min=0.5)
    theirs = SequentialLR(both, [linear, cosine], milestones=[3])
    ours = CosineWithWarmup(sgd(), 12, warmup=0.25, final=0.25)
    assert rates(ours, 13) == pytest.approx(rates(theirs, 13), abs=1e-9)
    assert rates(ours, 2) == [0.5, 0.5]
    for options in ({"warmup": 1.0}, {"warmup": -0.1}, {"final": 1.1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            CosineWithWarmup(sgd(), 12, **options)


def test_the_first_step_of_a_training_has_the_rate_that_a_rise_begins_with(pictures: Path, tmp_path: Path) -> None:
    classifier = LitClassifier(
        SpeedrunNet(num_classes=3, widths=(4, 8, 8)),
        lambda weights: torch.optim.SGD(weights, lr=1.0),
        partial(LinearToZero, rise=0.5),
        "step",
    )
    seen: list[float] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = pl.Trainer(max_epochs=2, logger=False, default_root_dir=tmp_path, callbacks=[Look()])
    trainer.fit(classifier, datamodule=CIFAR10DataModule(str(pictures), batch_size=20, val_size=0))
    assert seen == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 2 / 3, 1 / 3])


def test_an_alternating_flip_mirrors_half_of_the_images_and_in_the_next_epoch_the_others(pictures: Path) -> None:
    images = open_images(pictures).train.images
    indices = torch.arange(len(images))
    flip = Augmentation(flip="alternate")
    epochs = [flip(images, indices, 0, epoch) for epoch in range(3)]
    mirrored = [(epoch == images.flip(-1)).flatten(1).all(1) for epoch in epochs]
    assert 15 <= int(mirrored[0].sum()) <= 45
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(epochs[0], epochs[2])
    assert torch.equal(epochs[1], epochs[0].flip(-1))


def test_a_loader_scales_images_to_a_side_and_remembers_it(pictures: Path) -> None:
    loader = BatchLoader(open_images(pictures).train, 7, shuffle=True)
    loader.set_epoch(1, 20)
    images, _ = next(iter(loader))
    assert images.shape == (7, 3, 20, 20)
    other = BatchLoader(open_images(pictures).train, 7, shuffle=True)
    other.load_state_dict(loader.state_dict())
    assert next(iter(other))[0].shape == (7, 3, 20, 20)
    loader.set_epoch(2)
    assert next(iter(loader))[0].shape == (7, 3, 32, 32)


def test_views_make_the_logits_of_an_image_and_its_mirror_image_the_same() -> None:
    torch.manual_seed(0)
    net = SpeedrunNet(widths=(4, 8, 8)).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(mean_logits(net, images, "none"), net(images))
        for views in get_args(Views)[1:]:
            both = [mean_logits(net, batch, views) for batch in (images, images.flip(-1))]
            assert not torch.allclose(both[0], net(images))
            if views == "flip":
                assert torch.allclose(both[0], both[1], atol=1e-6)


def test_only_images_of_which_the_network_is_unsure_get_more_views() -> None:
    torch.manual_seed(0)
    net = SpeedrunNet(widths=(4, 8, 8)).eval()
    images = torch.randn(20, 3, 32, 32)
    with torch.no_grad():
        first, six = net(images), mean_logits(net, images, "flip-shift")
        confidences = first.softmax(1).amax(1)
        chosen = mean_logits(net, images, "flip-shift", float(confidences.median()))
        none = mean_logits(net, images, "flip-shift", float(confidences.min()) / 2)
    sure = confidences >= confidences.median()
    assert 0 < sure.sum() < 20
    assert torch.equal(chosen[sure], first[sure])
    assert torch.allclose(chosen[~sure], six[~sure], atol=1e-6)
    assert not torch.allclose(chosen[~sure], first[~sure])
    assert torch.equal(none, first)


def test_the_whitening_layer_gives_uncorrelated_numbers_of_one_variance() -> None:
    torch.manual_seed(0)
    net = SpeedrunNet(widths=(4, 8, 8))
    mixed = torch.einsum("nchw,dc->ndhw", torch.randn(50, 3, 32, 32), 100 * torch.randn(3, 3))
    net.compute_whitening(mixed)
    responses = nn.functional.conv2d(mixed, net.whiten.weight[:12]).transpose(0, 1).flatten(1)
    covariance = responses @ responses.T / responses.shape[1]
    assert torch.allclose(covariance / STEEPNESS**2, torch.eye(12), atol=0.05)


class Shown(SpeedrunNet):
    def compute_whitening(self, images: torch.Tensor) -> None:
        self.shown = images


def test_images_of_every_class_whiten_a_network_although_a_folder_is_sorted_by_class(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_cifar.training.preparation.WHITENING_IMAGES", 6)
    net = Shown(num_classes=3, widths=(4, 8, 8))
    data = CIFAR10DataModule(str(pictures), batch_size=60, val_size=0)
    pl.Trainer(max_steps=1, logger=False, default_root_dir=tmp_path).fit(LitClassifier(net), datamodule=data)
    strongest = net.shown.mean((2, 3)).argmax(1)  # a class is told by its colour
    assert strongest.bincount(minlength=3).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("words", "error", "name"),
    [
        (["--model.slice_size=-1"], "value-out-of-range", "--model.slice_size -1"),
        (["--model.sides=[[1.5,20]]"], "value-out-of-range", "--model.sides"),
        (["--model.confidence_threshold=0"], "value-out-of-range", "--model.confidence_threshold 0.0"),
        (["--model.optimizer.lr=-1"], "optimizer-refused", "Muon"),
        (["--model.lr_scheduler.rise=1"], "schedule-refused", "rise 1.0"),
        (["--model.lr_scheduler=CosineWithWarmup", "--model.lr_scheduler.warmup=1.5"], "schedule-refused", "1.5"),
        (["--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=0"], "schedule-refused", "step_size 0"),
        (["--trainer.max_epochs=-1", "--trainer.max_time=00:00:01:00"], "schedule-refused", "--trainer.max_epochs"),
    ],
)
def test_a_value_that_can_not_be_is_refused(
    cli: Cli, pictures: Path, tmp_path: Path, words: list[str], error: str, name: str
) -> None:
    result = cli("fit", *SMALL, f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}", *words)
    assert result.failed(2, error, name)
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.parametrize("flag", ["--model.test_time_augmentation=rotate", "--seed_everything=true"])
def test_a_word_that_is_not_a_choice_is_refused(cli: Cli, pictures: Path, tmp_path: Path, flag: str) -> None:
    result = cli("fit", *SMALL, f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}", flag)
    assert result.code == 2
    assert flag.split("=")[0] in result.err
    assert result.err.count("\n") == 1


def test_unknown_views_are_refused_from_python_too() -> None:
    with refused(UsageError, "value-out-of-range", "test_time_augmentation flip_shift"):
        LitClassifier(SpeedrunNet(), test_time_augmentation="flip_shift")  # type: ignore[arg-type]
