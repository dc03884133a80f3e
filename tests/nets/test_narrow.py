"""Convolutions of narrow images in bf16 give what torch's do, and are used for training in bf16 alone."""

import pytest
import torch
from torch import Tensor, nn

from lit_cifar.nets.cpu import layers, narrow
from lit_cifar.nets.cpu.layers import NARROW, Convolution
from lit_cifar.nets.speedrun import SpeedrunNet


def error(result: Tensor, exact: Tensor) -> float:
    """In units of the exact result's deviation."""
    return ((result.double() - exact).square().mean().sqrt() / exact.std()).item()


def passes(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The layer's output, and the gradients of its input and weights for random ones of its output."""
    x = x.detach().requires_grad_()
    y = layer(x)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(y.dtype)
    return y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), gradient)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The widths of images that went the narrow way."""
    widths: list[int] = []
    convolve = narrow.convolve

    def counted(x: Tensor, weight: Tensor) -> Tensor:
        widths.append(x.shape[3])
        return convolve(x, weight)

    monkeypatch.setattr(narrow, "convolve", counted)
    return widths


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 3), (7, 7), (9, 9), (12, 5), (2, 9)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradients_are_those_of_torch(
    height: int, width: int, memory_format: torch.memory_format, calls: list[int]
) -> None:
    torch.manual_seed(0)
    layer = Convolution(16, 24).bfloat16()
    x = torch.randn(13, 16, height, width).bfloat16().to(memory_format=memory_format)
    exact = nn.Conv2d(16, 24, 3, padding=1, bias=False).double()
    exact.weight.data.copy_(layer.weight.data)

    found = passes(layer, x)

    assert calls == [width]
    for result, expected in zip(found, passes(exact, x.double()), strict=True):
        assert result.shape == expected.shape and result.dtype == torch.bfloat16
        assert error(result, expected) < 1e-2  # a number in bf16 is off by up to 4e-3, and may be rounded twice


def test_an_input_without_gradient_costs_none(calls: list[int]) -> None:
    layer, x = Convolution(8, 8), torch.randn(4, 8, 7, 7).bfloat16()

    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().square().sum().backward()

    assert calls == [7] and x.grad is None
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("way", ["evaluation", "float32", "wide"])
def test_elsewhere_it_is_torch_s_convolution(way: str, calls: list[int]) -> None:
    layer = Convolution(8, 8).train(way != "evaluation")
    side = NARROW + 1 if way == "wide" else NARROW
    x = torch.randn(4, 8, side, side)

    with torch.autocast("cpu", torch.bfloat16, enabled=way != "float32"):
        y = layer(x if way == "float32" else x.bfloat16())
        expected = nn.functional.conv2d(x, layer.weight, padding=1)

    assert torch.equal(y, expected)
    assert calls == []


@pytest.mark.parametrize("net", [SpeedrunNet(), SpeedrunNet(widths=(32, 48, 64), depth=3)])
def test_a_net_learns_the_same(net: nn.Module, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    images = torch.randn(20, 3, 32, 32)

    def gradients() -> list[Tensor]:
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(images)
        nn.functional.cross_entropy(logits, torch.arange(20) % 10).backward()
        return [weight.grad for weight in net.parameters() if weight.grad is not None]

    found = gradients()
    assert min(calls) < NARROW
    monkeypatch.setattr(layers, "NARROW", 0)

    for gradient, expected in zip(found, gradients(), strict=True):
        assert error(gradient, expected.double()) < 0.02
