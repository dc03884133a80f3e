"""Where a network looked."""

import io

import pytest
import torch
from conftest import refused
from PIL import Image
from serving import classifier_of, picture
from torch import Tensor, nn

from lit_cifar.data.image_files import TO_32, Scaling
from lit_cifar.deploy.demo.looking import activation_map, decode, enlarged, look
from lit_cifar.errors import UserError
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


class SeesColours(nn.Module):
    """Class k is the mean of channel k; the modules are listed in the opposite order of that in which they run."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(3, 3, 2, stride=2, bias=False)
        self.first = nn.Conv2d(3, 3, 1, bias=False)
        self.first.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.second.weight.data = torch.eye(3).view(3, 3, 1, 1).expand(3, 3, 2, 2) / 4

    def forward(self, images: Tensor) -> Tensor:
        mean = self.second(self.first(images)).relu().mean((2, 3))
        return torch.cat((mean, torch.zeros(len(images), 7)), 1)


def test_the_map_is_that_of_the_class_asked_for_on_the_convolution_that_runs_last() -> None:
    classifier, pixels = classifier_of(SeesColours()), torch.zeros(3, 32, 32, dtype=torch.uint8)
    for channel in range(3):
        pixels[channel, :, 8 * channel : 8 * channel + 8] = 255
    for channel in range(3):
        values = activation_map(classifier, pixels, channel)
        assert values is not None
        expected = torch.zeros(16, 16)
        expected[:, 4 * channel : 4 * channel + 4] = 1
        torch.testing.assert_close(values, expected)


def test_what_the_network_looked_at_stays_clear_and_the_rest_turns_grey() -> None:
    pixels = torch.tensor([0, 128, 200], dtype=torch.uint8).view(1, 3, 1).expand(3, 3, 2)
    assert torch.equal(enlarged(pixels, torch.ones(4, 4)), enlarged(pixels))
    assert torch.equal(enlarged(pixels)[:, ::128, ::128], pixels)
    grey = enlarged(pixels, torch.zeros(4, 4))
    assert grey[0, ::128, 0].tolist() == [109, 128, 139]  # 15 % of the way from 128: 108.8, 128, 138.8


def progressive(passes: int) -> bytes:
    """A JPEG whose last pass is repeated until it has so many."""
    file = io.BytesIO()
    Image.new("L", (32, 32), 200).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * (passes - content.count(b"\xff\xda") + 1) + content[-2:]


def test_a_jpeg_of_up_to_100_passes_is_decoded() -> None:
    assert decode(progressive(100), Scaling(64)).shape == (3, 64, 64)
    with refused(UserError, "picture-too-large", "100 passes"):
        decode(progressive(101), TO_32)


def test_a_network_without_convolutions_has_no_map() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    answer = look(classifier_of(net), picture())
    assert answer["map"] is None
    assert answer["caption"] == "No map of where it looked: this network has no convolution"
    assert len(answer["classes"]) == 10
