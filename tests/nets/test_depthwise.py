"""Depthwise convolutions of 5×5 and more give what torch's do, and are used for training alone."""

import pytest
import torch
from torch import Tensor, nn

from lit_cifar.nets.convmixer import ConvMixer
from lit_cifar.nets.cpu import depthwise
from lit_cifar.nets.cpu.layers import LARGE, Depthwise


def error(result: Tensor, exact: Tensor) -> float:
    """In units of the exact result's length."""
    return ((result.double() - exact).norm() / exact.norm().clamp_min(1e-9)).item()


def passes(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The layer's output, and the gradients of its input, weights and biases for random ones of its output."""
    x = x.detach().requires_grad_()
    y = layer(x)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(y.dtype)
    return y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), gradient)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """What was convolved this way."""
    found: list[torch.dtype] = []
    convolve = depthwise.convolve

    def counted(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found.append(x.dtype)
        return convolve(x, weight, bias)

    monkeypatch.setattr(depthwise, "convolve", counted)
    return found


@pytest.mark.parametrize(
    ("images", "height", "width", "side"), [(1, 1, 1, 5), (3, 2, 7, 5), (13, 8, 8, 7), (4, 9, 6, 9)]
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_output_and_gradients_are_those_of_torch(
    images: int,
    height: int,
    width: int,
    side: int,
    memory_format: torch.memory_format,
    dtype: torch.dtype,
    most: float,
    calls: list[torch.dtype],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(depthwise, "PART", 10_000)  # several parts, the last of which is smaller
    torch.manual_seed(0)
    layer = Depthwise(24, side).to(dtype)
    x = torch.randn(images, 24, height, width).to(dtype, memory_format=memory_format)
    exact = nn.Conv2d(24, 24, side, padding=side // 2, groups=24).double()
    exact.load_state_dict(layer.state_dict())

    found = passes(layer, x)

    assert calls == [dtype]
    for result, expected in zip(found, passes(exact, x.double()), strict=True):
        assert result.shape == expected.shape and result.dtype == dtype
        assert error(result, expected) < most


def test_autocast_gives_weights_gradients_in_float32(calls: list[torch.dtype]) -> None:
    layer, x = Depthwise(8, 5), torch.randn(4, 8, 6, 6)

    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()

    assert calls == [torch.bfloat16] and y.dtype == torch.bfloat16
    assert all(each.grad is not None and each.grad.dtype == torch.float32 for each in layer.parameters())


@pytest.mark.parametrize("way", ["evaluation", "float64", "small", "no image"])
def test_elsewhere_it_is_torch_s_convolution(way: str, calls: list[torch.dtype]) -> None:
    layer = Depthwise(8, LARGE - 2 if way == "small" else LARGE).train(way != "evaluation")
    x = torch.randn(0 if way == "no image" else 4, 8, 6, 6)
    layer, x = (layer.double(), x.double()) if way == "float64" else (layer, x)

    y = layer(x)

    assert torch.equal(y, nn.functional.conv2d(x, layer.weight, layer.bias, padding=layer.padding, groups=8))
    assert calls == []
    y.sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("bf16", [False, True])
def test_a_net_learns_the_same(bf16: bool, calls: list[torch.dtype], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, images = ConvMixer(width=32, depth=3), torch.randn(20, 3, 32, 32)

    def gradients() -> list[Tensor]:
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = net(images)
        nn.functional.cross_entropy(logits, torch.arange(20) % 10).backward()
        return [weight.grad for weight in net.parameters() if weight.grad is not None]

    found = gradients()
    assert len(calls) == 3
    monkeypatch.setattr("lit_cifar.nets.cpu.layers.LARGE", 99)

    for gradient, expected in zip(found, gradients(), strict=True):
        assert error(gradient, expected.double()) < (0.05 if bf16 else 1e-4)
    assert len(calls) == 3


def test_a_gradient_s_gradient_is_that_of_torch(calls: list[torch.dtype]) -> None:
    torch.manual_seed(0)
    layer, exact, x = Depthwise(8, 5), nn.Conv2d(8, 8, 5, padding=2, groups=8), torch.randn(6, 8, 7, 7)
    exact.load_state_dict(layer.state_dict())

    def penalty(module: nn.Module) -> tuple[Tensor, ...]:
        images = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(module(images).square().sum(), images, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), (images, *module.parameters()))

    for result, expected in zip(penalty(layer), penalty(exact), strict=True):
        assert error(result, expected.double()) < 1e-4
    assert calls == [torch.float32]
