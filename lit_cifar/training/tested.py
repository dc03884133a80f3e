"""Which weights are tested: from which checkpoint, of which epoch, and what validation gave exactly these weights.

Weights may change without a step after a validation: callbacks average them. So they are known by a fingerprint.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Validated(NamedTuple):
    """What a validation during training gave; checkpoints hold it as a list."""

    fingerprint: int  # of the weights
    correct: int
    images: int


class Tested(NamedTuple):
    """The weights that are tested, or that were trained last."""

    path: Path | None  # None if they are in no checkpoint
    epochs: float
    step: int
    validated: Validated | None
    """None if they were not validated, or by a version that didn't write it down."""

    @classmethod
    def of(cls, path: str | Path | None, trained: Mapping[str, Any], validated: Any) -> "Tested":
        """Returns what the history of a training says, be it of a checkpoint or still in memory."""
        numbers = validated if isinstance(validated, list | tuple) and len(validated) == 3 else ()
        known = numbers and all(type(number) is int for number in numbers) and 0 <= numbers[1] <= numbers[2] > 0
        found = Validated(*numbers) if known else None
        return cls(Path(path) if path else None, trained["epochs"], trained["steps"], found)


@torch.no_grad()
def fingerprint(net: nn.Module) -> Tensor:
    """Returns a number, int64 on the network's device, that differs if a weight or a buffer differs.

    A sum of the bits as integers is the same in any order, and so on any device. It does not wait for the device.
    """
    tensors = [tensor for tensor in net.state_dict().values() if isinstance(tensor, Tensor)]
    sums = [_bits(tensor).sum(dtype=torch.int64) for tensor in tensors]
    return sum(((2 * i + 1) * each for i, each in enumerate(sums)), torch.tensor(0))


def _bits(tensor: Tensor) -> Tensor:
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.float().view(torch.int32) if tensor.is_floating_point() else tensor
