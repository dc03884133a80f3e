"""Networks, one family a file. A network keeps its constructor's arguments as attributes of the same names."""

from collections.abc import Mapping
from typing import Any, NamedTuple

NETS = {
    "Net": "tutorial",
    "SpeedrunNet": "speedrun",
    "ResNet20": "resnet",
    "ResNet56": "resnet",
    "ResNet110": "resnet",
    "ResNet18": "resnet",
    "ResNet34": "resnet",
    "ResNet50": "resnet",
    "WideResNet": "wide_resnet",
    "DenseNet": "densenet",
    "ConvMixer": "convmixer",
    "CCT": "vision_transformer",
    "ViTLite": "vision_transformer",
    "Timm": "timm",
}
"""The names of networks that the command line takes, and the file of this folder that each is in."""


class Published(NamedTuple):
    """An accuracy that others have published for a network, on the test images of CIFAR-10 or CIFAR-100."""

    dataset: str
    percent: float
    source: str


def class_path(name: str) -> str:
    """Returns the import path of one of the networks in NETS."""
    return f"{__name__}.{NETS[name]}.{name}"


def net_name(net: Mapping[str, Any]) -> str:
    """Returns a described network's class and, if it makes networks by name, that of this one: `Timm resnet18`."""
    arguments = net.get("init_args")
    known = arguments.items() if isinstance(arguments, Mapping) else ()
    names = [value for key, value in known if key == "name" or str(key).endswith("_name")]
    named = (name for name in names if isinstance(name, str) and name.isprintable())
    return " ".join([net["class_path"].rpartition(".")[2], *named])
