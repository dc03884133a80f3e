"""Which networks of this project take images of a size, found by trying them on tensors without content."""

import inspect
from contextlib import suppress
from importlib import import_module

import torch

from lit_cifar.nets import NETS, class_path


@torch.no_grad()
def nets_for(side: int) -> list[str]:
    """Returns the names of our networks that turn images `[N, 3, side, side]` into logits, one of each family."""
    return [name for name in NETS if _takes(name, side)]


def _takes(name: str, side: int) -> bool:
    module, _, kind = class_path(name).rpartition(".")
    # what fails is not for this size, needs further arguments, or a package that isn't installed
    with suppress(Exception), torch.device("meta"), torch.random.fork_rng(devices=[]):
        net = getattr(import_module(module), kind)
        if any(
            base.__name__ in NETS for base in net.__bases__
        ):  # a deeper one of the same family: ResNet110 would take a second
            return False
        made = net(**({"image_size": side} if "image_size" in inspect.signature(net).parameters else {}))
        return bool(made.eval()(torch.empty(2, 3, side, side)).ndim == 2)
    return False
