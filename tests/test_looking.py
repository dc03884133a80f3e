"""Where a network looked."""

import pytest
import torch
from serving import classifier_of, picture
from torch import Tensor, nn

from lit_cifar.deploy.demo.looking import activation_map, look
from lit_cifar.nets.resnet import ResNet18
from lit_cifar.nets.speedrun import SpeedrunNet
from lit_cifar.nets.tutorial import Net


@pytest.mark.parametrize("net", [Net, SpeedrunNet, ResNet18])
def test_every_network_of_the_project_tells_where_it_looked(net: type[nn.Module]) -> None:
    torch.manual_seed(0)
    classifier, pixels = classifier_of(net()), torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    maps = [activation_map(classifier, pixels, label) for label in range(10)]
    for values in maps:
        assert values is not None
        assert values.dim() == 2 and min(values.shape) > 1
        assert values.min() >= 0
        assert values.max() in (0, 1)
    assert any(values is not None and values.max() == 1 for values in maps)


class SeesRed(nn.Module):
    """Its first class is the mean of red."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1, bias=False)
        self.conv.weight.data = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        mean = self.conv(images).relu().mean((2, 3))
        return torch.cat((mean, torch.zeros(len(images), 9)), 1)


def test_the_map_is_highest_where_a_network_that_sees_red_finds_it() -> None:
    pixels = torch.zeros(3, 32, 32, dtype=torch.uint8)
    pixels[1] = 200
    pixels[:, 4:12, 20:28] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    values = activation_map(classifier_of(SeesRed()), pixels, 0)
    assert values is not None
    assert values[4:12, 20:28].min() == 1
    values[4:12, 20:28] = 0
    assert values.max() == 0


def test_a_network_without_convolutions_has_no_map() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    answer = look(classifier_of(net), picture())
    assert answer["map"] is None
    assert answer["caption"] == "No map of where it looked: this network has no convolution"
    assert len(answer["classes"]) == 10
