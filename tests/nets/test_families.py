"""Networks of the literature: sizes as published, and the same logits as other implementations."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from conftest import Cli
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, gelu, layer_norm, linear, pad, scaled_dot_product_attention
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.resnet import BasicBlock, Bottleneck

from lit_cifar import LitClassifier, Trainer
from lit_cifar.nets.convmixer import ConvMixer
from lit_cifar.nets.densenet import DenseNet
from lit_cifar.nets.resnet import ResNet18, ResNet20, ResNet34, ResNet50
from lit_cifar.nets.vision_transformer import CCT, ViTLite
from lit_cifar.nets.wide_resnet import WideResNet

SMALL: dict[type[nn.Module], dict[str, Any]] = {
    WideResNet: {"depth": 10, "widen": 2, "dropout": 0.3},
    DenseNet: {"depth": 10, "growth": 4, "dropout": 0.1},
    ConvMixer: {"width": 8, "depth": 2},
    CCT: {"width": 16, "depth": 2},
    ViTLite: {"width": 16, "depth": 2, "dropout": 0.1},
    ResNet20: {},
}
small = pytest.mark.parametrize("made", SMALL, ids=lambda made: made.__name__)


def unlike_new(net: nn.Module) -> nn.Module:
    """The network in evaluation mode and float64, with weights and statistics of which none is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (*net.parameters(), *(each for each in net.buffers() if each.is_floating_point())):
            value.mul_(0.3).add_(torch.rand(value.shape, generator=generator) * 0.2 + 0.05)
    return net.double().eval()


def images(count: int = 2, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


class ThinResNet18(ResNet18):
    depths = (1, 1, 1, 1)


class ThinResNet50(ResNet50):
    depths = (1, 1, 1, 1)


def resnet(block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int]) -> nn.Module:
    net = torchvision.models.ResNet(block, depths, num_classes=10)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return net


def densenet(growth: int, layers: int) -> nn.Module:
    net = torchvision.models.DenseNet(growth, (layers,) * 3, 2 * growth, num_classes=10)
    net.features.conv0 = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(net.features, name, nn.Identity())
    return net


def convmixer(width: int, depth: int) -> nn.Module:
    convmixer = pytest.importorskip("timm.models.convmixer", reason="needs timm")
    return convmixer.ConvMixer(width, depth, 5, 2, num_classes=10)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ThinResNet18, lambda: resnet(BasicBlock, (1, 1, 1, 1))),
        (ThinResNet50, lambda: resnet(Bottleneck, (1, 1, 1, 1))),
        (lambda: DenseNet(depth=10, growth=4), lambda: densenet(4, 1)),
        (lambda: ConvMixer(width=8, depth=3), lambda: convmixer(8, 3)),
        pytest.param(ResNet18, lambda: resnet(BasicBlock, (2, 2, 2, 2)), marks=pytest.mark.slow),
        pytest.param(ResNet34, lambda: resnet(BasicBlock, (3, 4, 6, 3)), marks=pytest.mark.slow),
        pytest.param(ResNet50, lambda: resnet(Bottleneck, (3, 4, 6, 3)), marks=pytest.mark.slow),
        pytest.param(DenseNet, lambda: densenet(12, 16), marks=pytest.mark.slow),
        pytest.param(ConvMixer, lambda: convmixer(256, 8), marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_with_the_same_weights_logits_are_those_of_torchvision_and_timm(
    ours: Callable[[], nn.Module], theirs: Callable[[], nn.Module]
) -> None:
    net, other = ours().double().eval(), unlike_new(theirs())
    net.load_state_dict(dict(zip(net.state_dict(), other.state_dict().values(), strict=True)))
    torch.testing.assert_close(net(images().double()), other(images().double()), rtol=1e-9, atol=0)


class Weights:
    """Takes a network's weights one after the other, in the order of its layers."""

    def __init__(self, net: nn.Module) -> None:
        named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        self.left = [named[name] for name in net.state_dict() if not name.endswith("num_batches_tracked")]

    def take(self, count: int) -> Iterable[Tensor]:
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def norm(self, x: Tensor) -> Tensor:
        weight, bias, mean, variance = self.take(4)
        return batch_norm(x, mean, variance, weight, bias)

    def conv(self, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        (weight,) = self.take(1)
        return conv2d(x, weight, stride=stride, padding=padding)

    def linear(self, x: Tensor) -> Tensor:
        weight, bias = self.take(2)
        return linear(x, weight, bias)

    def layer_norm(self, x: Tensor) -> Tensor:
        weight, bias = self.take(2)
        return layer_norm(x, weight.shape, weight, bias)


def wide_resnet(net: nn.Module, x: Tensor) -> Tensor:
    """As in the authors' functional PyTorch code, where a shortcut with weights starts behind the first activation."""
    weights = Weights(net)
    x = weights.conv(x)
    for stride in (1, 2, 2):
        first = weights.norm(x).relu()
        y = weights.norm(weights.conv(first, stride)).relu()
        x = weights.conv(y) + weights.conv(first, stride, 0)
    x = weights.norm(x).relu().mean((2, 3))
    return weights.linear(x)


def resnet20(net: nn.Module, x: Tensor) -> Tensor:
    weights = Weights(net)
    x = weights.norm(weights.conv(x)).relu()
    for channels, stride in ((0, 1), (0, 1), (0, 1), (16, 2), (0, 1), (0, 1), (32, 2), (0, 1), (0, 1)):
        y = weights.norm(weights.conv(weights.norm(weights.conv(x, stride)).relu()))
        x = (y + pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, channels // 2, channels // 2))).relu()
    return weights.linear(x.mean((2, 3)))


def transformer(net: nn.Module, x: Tensor) -> Tensor:
    weights = Weights(net)
    if isinstance(net, ViTLite):
        class_token, positions, kernel, bias = weights.take(4)
        x = conv2d(x, kernel, bias, 4).flatten(2).transpose(1, 2)
        x = torch.cat((class_token.repeat(len(x), 1, 1), x), 1) + positions
    else:
        (positions,) = weights.take(1)
        x = nn.functional.max_pool2d(weights.conv(x).relu(), 3, 2, 1).flatten(2).transpose(1, 2) + positions
    for _ in range(2):
        y, second = weights.layer_norm(x), [*weights.take(2)]
        (qkv,) = weights.take(1)
        query, key, value = (linear(y, part).unflatten(2, (4, 4)).transpose(1, 2) for part in qkv.chunk(3))
        x = x + weights.linear(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        x = layer_norm(x, second[0].shape, second[0], second[1])
        x = x + weights.linear(gelu(weights.linear(x)))
    x = weights.layer_norm(x)
    if isinstance(net, ViTLite):
        return weights.linear(x[:, 0])
    head = [*weights.take(2)]
    shares = weights.linear(x).softmax(1)
    return linear((shares * x).sum(1), *head)


@pytest.mark.parametrize(
    ("net", "forward"),
    [
        (WideResNet(depth=10, widen=2), wide_resnet),
        (ResNet20(), resnet20),
        (CCT(width=16, depth=2), transformer),
        (ViTLite(width=16, depth=2), transformer),
    ],
    ids=["WideResNet", "ResNet20", "CCT", "ViTLite"],
)
@torch.no_grad()
def test_logits_are_those_of_the_paper_s_formulas(
    net: nn.Module, forward: Callable[[nn.Module, Tensor], Tensor]
) -> None:
    expected = forward(unlike_new(net), images().double())
    torch.testing.assert_close(net(images().double()), expected, rtol=1e-9, atol=0)


@small
def test_a_network_trains_a_step_and_its_checkpoint_gives_the_same_bits(made: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LitClassifier(made(num_classes=3, **SMALL[made]), torch.optim.Adam)
    before = {name: weight.clone() for name, weight in model.net.named_parameters()}
    batch = DataLoader(TensorDataset(images(), torch.tensor([0, 2])), batch_size=2)
    trainer = Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(model, batch)
    for name, weight in model.net.named_parameters():
        assert not torch.equal(weight, before[name]), name
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    loaded = LitClassifier.load_from_checkpoint(tmp_path / "net.ckpt")
    assert type(loaded.net) is made
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images()), model.eval()(images()))
        with torch.autocast("cpu", torch.bfloat16):
            assert model.train()(images(1)).isfinite().all()


@pytest.mark.parametrize(
    ("made", "arguments"),
    [
        (WideResNet, {"depth": 27}),
        (WideResNet, {"widen": 0}),
        (WideResNet, {"dropout": 1.0}),
        (DenseNet, {"depth": 101}),
        (DenseNet, {"growth": 0}),
        (DenseNet, {"reduction": 2.0}),
        (DenseNet, {"dropout": -0.1}),
        (ConvMixer, {"kernel_size": 4}),
        (ConvMixer, {"patch_size": 0}),
        (CCT, {"heads": 3}),
        (CCT, {"kernel_size": 2}),
        (CCT, {"convolutions": 0}),
        (CCT, {"attention_dropout": 1.5}),
        (ViTLite, {"patch_size": 5}),
        (ViTLite, {"depth": 0}),
    ],
)
def test_a_wrong_argument_is_a_value_error_that_names_it(made: type[nn.Module], arguments: dict[str, float]) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name} {value}"):
        made(**arguments)


def test_a_transformer_says_which_images_it_takes() -> None:
    with pytest.raises(ValueError, match="16 × 16 pixels"):
        CCT(width=16, depth=1)(images(1, 16))
    assert CCT(width=16, depth=1, image_size=16)(images(1, 16)).shape == (1, 10)


@pytest.mark.slow
@small
def test_a_network_is_exported_and_tested_on_shifted_images(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: type[nn.Module]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = (f"--data.root={pictures}", "--data.val_size=6", "--data.batch_size=18", "--trainer.max_epochs=1")
    words = [f"--model.net.{name}={value}" for name, value in SMALL[made].items()]
    views = "--model.test_time_augmentation=flip-shift"
    assert cli("fit", *data, f"--model.net={made.__name__}", *words, views).code == 0
    assert f"class_path: {made.__module__}.{made.__name__}" in next(tmp_path.rglob("config.yaml")).read_text()
    for name, suffix in (("onnx", "onnx"), ("torch", "pt2"), ("safetensors", "safetensors")):
        result = cli("export", f"--data.root={pictures}", f"--format={name}", f"--output=net.{suffix}")
        assert result.code == 0, result


@pytest.mark.slow
@small
def test_a_compiled_network_gives_the_same_logits(made: type[nn.Module]) -> None:
    net = made(**SMALL[made]).eval()
    compiled = torch.compile(net)
    torch.testing.assert_close(compiled(images()), net(images()), rtol=1e-4, atol=1e-5)
    net.train()
    compiled(images()).sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())
