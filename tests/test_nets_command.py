"""`python -m lit_cifar nets`, and networks that are named without their module."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import Cli, checkpoint

from lit_cifar.nets import NETS, class_path
from lit_cifar.nets.vision_transformer import CCT

PUBLISHED = {  # parameters with 10 classes, and millions of multiplications for an image
    "Net": (62_006, 0.65),
    "SpeedrunNet": (1_972_792, 118),
    "ResNet20": (269_722, 40.6),
    "ResNet56": (853_018, 125.5),
    "ResNet110": (1_727_962, 253),
    "ResNet18": (11_173_962, 556),
    "ResNet34": (21_282_122, 1160),
    "ResNet50": (23_520_842, 1300),
    "WideResNet": (36_479_194, 5240),
    "DenseNet": (769_162, 288),
    "ConvMixer": (594_186, 148),
    "CCT": (3_760_139, 947 + 7 * 2 * 256 * 256**2 / 1e6),  # SHI-Labs' number is without products between tokens
    "ViTLite": (3_716_874, 239 + 7 * 2 * 256 * 65**2 / 1e6),
}


def test_the_table_has_the_sizes_that_were_published_and_fits_on_a_terminal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = cli("nets")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    rows = {line.split()[0]: line.split()[1:] for line in lines[1 : len(NETS) + 1]}
    assert list(rows) == list(NETS)
    for name, (parameters, millions) in PUBLISHED.items():
        count, multiplications = (float(number.replace(",", "")) for number in rows[name][:2])
        assert count == parameters
        assert multiplications == pytest.approx(millions, rel=0.01 if millions > 1 else 0.1)
    assert rows["WideResNet"][2:] == ["96.00", "[5]", "80.75", "[5]"]
    assert "[5] github.com/szagoruyko" in result.out
    small = CCT(depth=2, width=128, heads=2, mlp_ratio=1, convolutions=2)  # CCT-2/3x2
    assert sum(weight.numel() for weight in small.parameters()) == 283_723


def test_a_single_network_is_measured_for_other_images(cli: Cli) -> None:
    result = cli("nets", "--net=Net", "--measure", "--classes=3")
    assert result.code == 0
    row = result.out.splitlines()[1].split()
    assert row[:2] == ["Net", f"{62_006 - 7 * 85:,}"]
    assert float(row[-1].replace(",", "")) > 10
    result = cli("nets", "--net=ViTLite", "--image_size=30", "--measure")
    assert (result.code, result.out.splitlines()[1].split()[2]) == (0, "–")
    assert "image_size 30 must be a multiple of patch_size 4" in result.out


@pytest.mark.parametrize(
    ("words", "error", "names"),
    [
        (["--net=Resnet20"], "network-unknown", ["Resnet20", "ResNet20"]),
        (["--net=transformer"], "network-unknown", ["transformer", "CCT"]),
        (["--classes=0"], "value-out-of-range", ["--classes 0"]),
        (["--image_size=1000"], "value-out-of-range", ["--image_size 1000", "224"]),
        (["--mesure"], "flag-unknown", ["--mesure", "--measure"]),
    ],
)
def test_what_it_cannot_do_is_refused(cli: Cli, words: list[str], error: str, names: list[str]) -> None:
    assert cli("nets", *words).failed(2, error, *names)


def chosen(cli: Cli, *words: str) -> str:
    """The class path of the network in the settings that a command prints."""
    result = cli("fit", *words, "--print_config")
    assert result.code == 0, result
    return str(yaml.safe_load(result.out)["model"]["net"]["class_path"])


def test_a_network_of_ours_needs_no_module_in_flags_and_recipes(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    assert chosen(cli, "--model.net=ResNet56") == "lit_cifar.nets.resnet.ResNet56"
    assert chosen(cli, "--model.net", "CCT", "--model.net.depth", "2") == class_path("CCT")
    assert chosen(cli, "--model.net=torchvision.models.resnet18") == "torchvision.models.resnet18"
    for net in ("DenseNet", "{class_path: DenseNet, init_args: {growth: 24}}"):
        recipe.write_text(f"model: {{net: {net}}}\n")
        assert chosen(cli, f"--config={recipe}") == class_path("DenseNet")


def test_config_card_and_checkpoint_hold_the_whole_class_path(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}", "--data.val_size=6")
    small = ("--model.net.width=8", "--model.net.depth=1", "--trainer.max_steps=1", "--data.batch_size=2")
    assert cli("fit", *root, "--model.net=ConvMixer", *small).code == 0
    (config,) = tmp_path.rglob("config.yaml")
    net = yaml.safe_load(config.read_text())["model"]["net"]
    assert (net["class_path"], net["init_args"]["num_classes"]) == (class_path("ConvMixer"), 3)
    card = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)["lit_cifar"]["card"]
    assert card["net"]["class_path"] == net["class_path"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Resnet20", "did you mean ResNet20"),
        ("resnet-18", "did you mean ResNet18"),
        ("lit_cifar.nets.resnet.ResNet19", "did you mean ResNet1"),
        ("Squeezer", "ConvMixer"),
    ],
)
def test_a_misspelled_name_is_refused_with_the_nearest_of_ours(
    cli: Cli, tmp_path: Path, runs: Path, name: str, hint: str
) -> None:
    assert cli("fit", "--model.net", name).failed(2, "network-unknown", f"--model.net {name}", hint)
    (tmp_path / "recipe.yaml").write_text(f"model: {{net: {name}}}\n")
    result = cli("fit", f"--config={tmp_path / 'recipe.yaml'}")
    assert result.failed(2, "network-unknown", "recipe.yaml", name, hint)
    picture = runs / "pictures" / "test" / "bird" / "000.png"
    result = cli("predict", picture, f"--ckpt_path={checkpoint(runs)}", f"--model.net={name}")
    assert result.failed(2, "network-unknown", name, hint)
