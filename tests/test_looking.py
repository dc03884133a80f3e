"""Where a network looked."""

import io

import pytest
import torch
from conftest import refused
from PIL import Image
from serving import classifier_of, picture
from torch import Tensor, nn

from lit_cifar.data.image_files import TO_32, Scaling
from lit_cifar.deploy.demo.looking import activation_map, heat_map, legend, look
from lit_cifar.deploy.demo.reading import read
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


def test_a_map_has_the_colours_of_its_legend_which_grow_lighter() -> None:
    grey = torch.full((3, 32, 32), 128, dtype=torch.uint8)
    colours = legend()
    assert colours.shape == (3, 1, 256)
    lightness = (colours.float() * torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(0)[0]
    assert (lightness.diff()[:-16] > -0.7).all() and lightness[-1] - lightness[0] > 100  # rounded to whole numbers
    for value in (0, 51, 255):
        drawn = heat_map(grey, torch.full((4, 4), value / 255))
        assert drawn.shape == (3, 256, 256)
        assert torch.equal(drawn, colours[:, :, value, None].expand_as(drawn))
    dark = heat_map(torch.zeros(3, 224, 224, dtype=torch.uint8), torch.ones(7, 7))
    assert dark.shape == (3, 224, 224)
    assert (dark[:, 0, 0] < colours[:, 0, 255]).all()  # the picture shows through


def progressive(passes: int) -> bytes:
    """A JPEG whose last pass is repeated until it has so many."""
    file = io.BytesIO()
    Image.new("L", (32, 32), 200).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * (passes - content.count(b"\xff\xda") + 1) + content[-2:]


def test_a_jpeg_of_up_to_100_passes_is_decoded() -> None:
    assert read(progressive(100), "a.jpg", Scaling(64)).pixels.shape == (3, 64, 64)
    with refused(UserError, "picture-too-large", "a.jpg", "100 passes"):
        read(progressive(101), "a.jpg", TO_32)


def test_a_photo_is_shown_as_its_exif_data_turn_it() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6  # turned by 90°
    Image.new("RGB", (64, 16), "green").save(file, "TIFF", exif=exif)
    turned = read(file.getvalue(), "a.tif", TO_32)
    assert (turned.size, turned.preview.size) == ((16, 64), (16, 64))


def test_a_network_without_convolutions_has_no_map() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    answer = look(classifier_of(net), read(picture(), "a.png", TO_32), None, None)
    assert answer["map"] is None
    assert answer["caption"] == "No map of where it looked: this network has no convolution"
    assert len(answer["classes"]) == 10
