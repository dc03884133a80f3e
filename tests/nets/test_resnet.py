"""The ResNet-18 that papers use."""

import pytest
import torch
from torch import Tensor, nn

from lit_cifar.nets.cpu import layers
from lit_cifar.nets.resnet import ResNet18


def test_resnet18_has_the_parameters_and_layer_shapes_of_the_cifar_adaptation() -> None:
    net = ResNet18().eval()
    assert sum(weight.numel() for weight in net.parameters()) == 11_173_962
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 1 + 2 * 8 + 3  # the first, two a block, and three ways round
    shapes: list[tuple[int, ...]] = []
    for stage in net.stages[1::2]:
        stage.register_forward_hook(lambda module, images, output: shapes.append(tuple(output.shape[1:])))
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


def test_it_learns_what_it_would_with_torch_s_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, images = ResNet18(), torch.randn(8, 3, 32, 32)

    def outcome() -> list[Tensor]:
        net.zero_grad()
        logits = net(images)
        nn.functional.cross_entropy(logits, torch.arange(8)).backward()
        return [logits.detach(), *(weight.grad for weight in net.parameters() if weight.grad is not None)]

    found = outcome()
    monkeypatch.setattr(layers, "FEWEST", 1000)
    expected = outcome()

    assert len(found) == len(list(net.parameters())) + 1
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < 0.1 * other.norm()  # where a ReLU is near 0; of bf16, 0.4
    assert not torch.equal(found[0], expected[0])  # they were not torch's
