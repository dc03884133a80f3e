"""The ResNet-18 that papers use."""

import torch
from torch import nn

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
