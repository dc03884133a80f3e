"""Convolutions by Winograd's filtering give the results of torch's, and are used only for training in float32."""

import pytest
import torch
from torch import Tensor, nn

from lit_cifar.nets.cpu import layers, winograd
from lit_cifar.nets.cpu.layers import FEWEST, Convolution, MaxPool, Norm
from lit_cifar.nets.resnet import ResNet18
from lit_cifar.nets.speedrun import SpeedrunNet


def error(result: Tensor, exact: Tensor) -> float:
    """In units of the exact result's deviation."""
    return ((result - exact).square().mean().sqrt() / exact.std()).item()


def passes(layer: nn.Module, x: Tensor, seed: int = 1) -> tuple[Tensor, ...]:
    """The layer's output, and the gradients of its input and weights for random ones of its output."""
    x = x.detach().requires_grad_()
    y = layer(x)
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    return y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), gradient)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The widths of images that went Winograd's way."""
    widths: list[int] = []
    convolve = winograd.convolve

    def counted(x: Tensor, weight: Tensor) -> Tensor:
        widths.append(x.shape[3])
        return convolve(x, weight)

    monkeypatch.setattr(winograd, "convolve", counted)
    return widths


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (7, 7), (8, 8), (9, 9), (15, 15), (31, 31), (6, 17)]
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradients_are_those_of_torch(
    height: int, width: int, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch, calls: list[int]
) -> None:
    monkeypatch.setattr(winograd, "PART", 2**20)  # several parts, the last of which is smaller
    torch.manual_seed(0)
    layer = Convolution(FEWEST, FEWEST + 3)
    x = torch.randn(13, FEWEST, height, width).to(memory_format=memory_format)
    exact = nn.Conv2d(FEWEST, FEWEST + 3, 3, padding=1, bias=False).double()
    exact.weight.data.copy_(layer.weight.data)

    found = passes(layer, x)

    for result, expected in zip(found, passes(exact, x.double()), strict=True):
        assert result.shape == expected.shape
        assert error(result, expected) < 2e-4
    assert calls == [width]


def test_an_input_without_gradient_costs_none() -> None:
    layer, x = Convolution(FEWEST, FEWEST), torch.randn(4, FEWEST, 7, 7)

    layer(x).square().sum().backward()

    weight = layer.weight.detach().clone().requires_grad_()
    nn.functional.conv2d(x, weight, padding=1).square().sum().backward()
    assert x.grad is None
    assert layer.weight.grad is not None and weight.grad is not None
    assert error(layer.weight.grad, weight.grad) < 2e-4


@pytest.mark.parametrize("way", ["evaluation", "autocast", "few channels", "float64"])
def test_otherwise_it_is_torch_s_convolution(way: str, calls: list[int]) -> None:
    channels = FEWEST - 1 if way == "few channels" else FEWEST
    layer = Convolution(channels, channels).train(way != "evaluation")
    x = torch.randn(4, channels, 7, 7)
    if way == "float64":
        layer, x = layer.double(), x.double()

    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        y, expected = layer(x), nn.functional.conv2d(x, layer.weight, padding=1)

    assert torch.equal(y, expected)
    assert calls == []


@pytest.mark.parametrize(
    ("net", "number"),
    [
        (ResNet18(), 13),  # two in each of eight blocks, but for the three that halve the image
        (SpeedrunNet(), 5),  # two in each of three groups, but for the first, which has 24 channels in
        (SpeedrunNet(widths=(32, 48, 64), depth=3), 2),  # of the last group, with 64 channels in and out
    ],
)
def test_the_networks_train_winograd_s_way_in_float32_and_predict_torch_s(
    net: nn.Module, number: int, calls: list[int]
) -> None:
    net(torch.randn(2, 3, 32, 32))
    assert len(calls) == number
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.randn(2, 3, 32, 32))
    net.eval()(torch.randn(2, 3, 32, 32))
    assert len(calls) == number


@pytest.mark.parametrize("side", [2, 7, 8])
def test_normalisation_and_pooling_do_not_depend_on_the_order_in_memory(side: int) -> None:
    x = torch.randn(5, 6, side, side)
    places_first = x.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    for layer, plain in ((Norm(6), nn.BatchNorm2d(6)), (MaxPool(), nn.MaxPool2d(2))):
        for result, expected in zip(passes(layer, places_first), passes(plain, x), strict=True):
            torch.testing.assert_close(result, expected)
        for result, expected in zip(layer.state_dict().values(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("depth", [2, 3])
def test_a_net_learns_the_same(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, images = SpeedrunNet(widths=(64, 80, 96), depth=depth), torch.randn(20, 3, 24, 24)

    def gradients() -> list[Tensor]:
        net.zero_grad()
        nn.functional.cross_entropy(net(images), torch.arange(20) % 10).backward()
        return [weight.grad for weight in net.parameters() if weight.grad is not None]

    found = gradients()
    monkeypatch.setattr(layers, "FEWEST", 1000)

    for gradient, expected in zip(found, gradients(), strict=True):
        assert error(gradient, expected) < 2e-3  # where two places of a pool are near equal, the other may be taken
