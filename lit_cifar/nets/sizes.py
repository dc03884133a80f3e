"""Which networks of this project take images of a size, found by trying them on tensors without content."""

import inspect
from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules

import torch
from torch import nn

from lit_cifar import nets


@torch.no_grad()
def nets_for(side: int) -> list[str]:
    """Returns the names of our networks that turn images `[N, 3, side, side]` into logits; one of each family."""
    found = []
    for file in iter_modules(nets.__path__, f"{nets.__name__}."):
        # what fails is not for this size, needs further arguments, or a package that isn't installed
        with suppress(Exception):
            for name, net in inspect.getmembers(import_module(file.name), inspect.isclass):
                if net.__module__ == file.name and nn.Module in net.__bases__ and _takes(net, side):
                    found.append(name)
    return sorted(found)


def _takes(net: type, side: int) -> bool:
    arguments = inspect.signature(net).parameters
    with suppress(Exception), torch.device("meta"), torch.random.fork_rng(devices=[]):
        if "num_classes" in arguments:
            made = net(**({"image_size": side} if "image_size" in arguments else {}))
            return bool(made.eval()(torch.empty(2, 3, side, side)).ndim == 2)
    return False
