"""`Timm`: any network of timm, made for small images."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from torch import nn

from lit_cifar.errors import UsageError, UserError
from lit_cifar.nets import net_name
from lit_cifar.nets.resnet import ResNet18
from lit_cifar.nets.timm import Timm
from lit_cifar.runs.card import describe
from lit_cifar.runs.network import build_net

if importlib.util.find_spec("timm") is None:
    pytest.skip("needs timm", allow_module_level=True)
import timm


def first_convolution(net: nn.Module) -> tuple[int, int]:
    """Its kernel and its stride."""
    layer = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))
    return layer.kernel_size[0], layer.stride[0]


@pytest.mark.parametrize(
    ("name", "first", "places"),
    [
        ("resnet18d", (3, 1), 4 * 4),
        ("convnext_atto", (3, 1), 4 * 4),
        ("regnetx_002", (3, 1), 4 * 4),
        ("vit_tiny_patch16_224.augreg_in21k", (4, 4), 8 * 8 + 1),
        pytest.param("densenet121", (3, 1), 4 * 4, marks=pytest.mark.slow),
        pytest.param("tf_efficientnet_b0", (3, 1), 4 * 4, marks=pytest.mark.slow),
        pytest.param("mobilenetv3_small_050", (3, 1), 4 * 4, marks=pytest.mark.slow),
        pytest.param("vgg11", (3, 1), 4 * 4, marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", (3, 1), 4 * 4, marks=pytest.mark.slow),
        pytest.param("vit_small_patch32_224", (4, 4), 8 * 8 + 1, marks=pytest.mark.slow),
        pytest.param("mixer_s16_224", (4, 4), 8 * 8, marks=pytest.mark.slow),
    ],
)
def test_the_stem_leaves_small_images_4_by_4_places_or_patches_of_4_pixels(
    name: str, first: tuple[int, int], places: int
) -> None:
    with torch.device("meta"):
        net: Any = Timm(name)
        features = net.net.forward_features(torch.zeros(2, 3, 32, 32))
        assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert first_convolution(net) == first
    assert features.numel() == 2 * places * net.net.num_features


def test_a_resnet_has_no_pooling_and_as_many_weights_as_ours() -> None:
    net = Timm("resnet18")
    assert not [layer for layer in net.modules() if isinstance(layer, nn.MaxPool2d)]
    assert sum(map(torch.numel, net.parameters())) == sum(map(torch.numel, ResNet18().parameters())) == 11_173_962
    assert first_convolution(Timm("resnet18", stem="original")) == (7, 2)


def test_new_weights_of_a_smaller_kernel_are_as_spread_as_its_number_of_inputs_asks() -> None:
    layer = next(layer for layer in Timm("resnet18").modules() if isinstance(layer, nn.Conv2d))
    assert float(layer.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)  # He et al., by outputs


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_pretrained_weights_see_of_an_image_what_timm_s_see_of_it_enlarged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from safetensors.torch import save_file

    folder = tmp_path / f"models--timm--{name}.r160_in1k"  # as the hub's cache keeps downloads
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abc")
    (folder / "snapshots" / "0123abc").mkdir(parents=True)
    save_file(timm.create_model(name).state_dict(), folder / "snapshots" / "0123abc" / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    size: dict[str, Any] = {"img_size": 128} if name == "test_vit" else {}
    theirs: Any = timm.create_model(name, pretrained=True, num_classes=3, **size).eval()
    ours: Any = Timm(name, pretrained=True, num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    enlarged = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        torch.testing.assert_close(ours.net.forward_features(images), theirs.forward_features(enlarged))
    assert describe(ours)["init_args"]["pretrained"] is False


def test_a_description_makes_the_network_again() -> None:
    net = Timm("test_resnet", "original", num_classes=3, image_size=48, drop_path_rate=0.25)
    again = build_net(describe(net))
    assert net_name(describe(net)) == "Timm test_resnet"
    assert isinstance(again, Timm)
    assert (again.name, again.stem, again.num_classes, again.image_size) == ("test_resnet", "original", 3, 48)
    assert again.further == {"drop_path_rate": 0.25}
    again.load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ({"name": "resnet1"}, "network-unknown", ["resnet1", "resnet18"]),
        ({"name": "ResNet_18"}, "network-unknown", ["resnet18"]),
        ({"name": "resnet18.a9_in1k"}, "network-unknown", ["resnet18.a1_in1k"]),
        ({"name": "hf-hub:timm/resnet18"}, "network-unknown", ["hf-hub:timm/resnet18"]),
        ({"name": "local-dir:/tmp"}, "network-unknown", ["local-dir:/tmp"]),
        ({"name": ""}, "network-unknown", ["name"]),
        ({"name": "test_resnet", "stem": "small"}, "value-out-of-range", ["stem small", "cifar", "original"]),
        ({"name": "test_resnet", "image_size": 0}, "value-out-of-range", ["image_size 0"]),
        ({"name": "test_resnet", "drop": 0.1}, "value-invalid", ["test_resnet", "drop 0.1"]),
        ({"name": "test_resnet", "checkpoint_path": "weights.pt"}, "value-invalid", ["checkpoint_path"]),
        ({"name": "test_resnet", "pretrained_cfg": {"file": "weights.pt"}}, "value-invalid", ["pretrained_cfg"]),
        ({"name": "test_vit", "image_size": 30}, "network-unfit", ["test_vit", "30 × 30", "24", "28", "32"]),
        ({"name": "test_vit2", "stem": "original", "image_size": 8}, "network-unfit", ["8 × 8", "16"]),
        ({"name": "tresnet_m"}, "network-unfit", ["tresnet_m", "stem", "original"]),
        ({"name": "resnet26", "pretrained": True}, "download-failed", ["resnet26", "weights"]),
        ({"name": "swinv2_cr_tiny_224", "pretrained": True}, "value-invalid", ["weights", "swinv2_cr_tiny_224"]),
    ],
)
def test_what_timm_does_not_have_or_take_is_refused(
    arguments: dict[str, Any], error: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing answers
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nowhere")
    kind = UserError if error == "download-failed" else UsageError
    with refused(kind, error, *names):
        Timm(**arguments)


def test_without_timm_one_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with refused(UsageError, "package-missing", "timm", "pip install"):
        Timm("resnet18")
