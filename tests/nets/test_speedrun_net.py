"""The speedrun's networks, and that every recipe names what exists."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import Cli
from published import NAMES, batch, cifar100_files, pickled, publish, tar, write_batches

from lit_cifar.nets.speedrun import Group, SpeedrunNet

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SMALLER = {  # networks that would take long
    "cct": ("--model.net.depth=1", "--model.net.width=64"),
    "convmixer": ("--model.net.depth=1", "--model.net.width=64"),
    "wrn-28-10": ("--model.net.depth=10", "--model.net.widen=1"),
    "cifar100-wrn-28-10": ("--model.net.depth=10", "--model.net.widen=1"),
}
SLOW = ("convmixer", "wrn-28-10", "cifar100-resnet18", "cifar100-wrn-28-10")


@pytest.mark.parametrize(
    ("widths", "depth", "parameters"), [((64, 256, 256), 2, 1_972_792), ((128, 384, 512), 3, 9_918_776)]
)
def test_the_speedrun_nets_have_their_parameters_and_take_images_from_16_pixels(
    widths: tuple[int, int, int], depth: int, parameters: int
) -> None:
    net = SpeedrunNet(widths=widths, depth=depth)
    assert sum(weight.numel() for weight in net.parameters()) == parameters
    for side in (16, 20, 32):
        assert net(torch.randn(2, 3, side, side)).shape == (2, 10)


def test_a_third_convolution_is_added_to_the_first() -> None:
    torch.manual_seed(0)
    net = SpeedrunNet(widths=(4, 8, 8), depth=3).eval()
    images = torch.randn(2, 3, 32, 32)
    group = net.groups[0]
    assert isinstance(group, Group)
    whitened = net.activation(net.whiten(images))
    first = net.activation(group.norm1(group.pool(group.conv1(whitened))))
    with torch.no_grad():
        group.conv3.weight.zero_()
        assert torch.allclose(group(whitened), net.activation(first), atol=1e-6)


def test_the_whitening_bias_stops_learning_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    net, images = SpeedrunNet(widths=(4, 8, 8)), torch.randn(6, 3, 20, 20)
    gradients = []
    for done in (0.0, 0.5):
        net.begin_epoch(done)
        net.zero_grad()
        net(images).square().sum().backward()
        gradients.append({name: w.grad.clone() for name, w in net.named_parameters() if w.grad is not None})
    early, late = gradients
    assert early.keys() == late.keys()
    assert early.pop("whiten.bias").abs().max() > 0
    assert late.pop("whiten.bias").abs().max() == 0
    assert all(torch.equal(early[name], late[name]) for name in early)


def test_a_last_batch_of_one_small_image_trains() -> None:
    net = SpeedrunNet(widths=(4, 8, 8))
    net(torch.randn(1, 3, 16, 16)).sum().backward()  # the last group normalises a single place
    assert all(w.grad is not None and w.grad.isfinite().all() for w in net.parameters() if w.requires_grad)
    assert all(buffer.isfinite().all() for buffer in net.buffers())


def test_another_depth_is_refused(cli: Cli, pictures: Path) -> None:
    words = (f"--config={RECIPES[0].with_name('speedrun.yaml')}", f"--data.root={pictures}")
    result = cli("fit", *words, "--model.net.init_args.depth=4")
    assert result.code == 2
    assert "depth 4" in result.err


def both_published(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small copies of CIFAR-10, unpacked, and of the archive of CIFAR-100."""
    files = {name: pickled(batch(number)) for number, name in enumerate(NAMES)}
    publish(monkeypatch, files, b"")
    write_batches(root, files)
    files = cifar100_files()
    archive = tar(files, "cifar-100-python")
    publish(monkeypatch, files, archive, "cifar100")
    (root / "cifar-100-python.tar.gz").write_bytes(archive)
    return root


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in SLOW else ()) for path in RECIPES],
)
def test_every_recipe_trains(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Path
) -> None:
    words = [f"--config={recipe}", "--trainer.max_steps=2", f"--trainer.default_root_dir={tmp_path}"]
    if recipe.stem == "parallel":
        result = cli("fit", *words)
        assert "Outside: input size [30, 5] output size [30, 2]" in result.out
        return
    words += SMALLER.get(recipe.stem, ())
    if recipe.stem.startswith("cifar100"):
        words += [f"--data.root={both_published(tmp_path / 'data', monkeypatch)}"]
    else:
        words += [f"--data.root={pictures}", "--model.net.init_args.num_classes=3"]
    words += ["--data.batch_size=4", "--data.val_size=3", "--data.eval_batch_size=4"]
    result = cli("fit", *words, "--trainer.limit_test_batches=1")
    assert (result.code, result.err) == (0, "")
    report = json.loads((tmp_path / "lightning_logs" / recipe.stem / "version_0" / "report.json").read_text())
    assert report["steps"] == 2
    assert report["images_per_second"] * report["train_seconds"] == pytest.approx(2 * 4)
    assert math.isfinite(report["test_loss"])
    assert len(report["class_accuracy"]) == (100 if recipe.stem.startswith("cifar100") else 3)
