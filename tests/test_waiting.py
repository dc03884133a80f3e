"""Without a GPU: a step neither mixes tensors of CPU and GPU nor waits for the GPU, as far as Python tells.

torch's fake tensors say that they are on a GPU and compute nothing but shapes. They raise an error if a tensor of the
CPU meets one of the GPU, and if a number is read from the GPU; copies are noted here. Backward passes need a real GPU:
see tests/test_gpu.py.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from lit_cifar.data import trivial_augment
from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.image_set import CIFAR10_CLASSES, ImageSet
from lit_cifar.data.loader import BatchLoader
from lit_cifar.nets.resnet import ResNet18
from lit_cifar.nets.speedrun import SpeedrunNet
from lit_cifar.training.history import TrainingRecord
from lit_cifar.training.optimizers import Muon
from lit_cifar.training.step import DirectStep, moved, take_share

AUGMENTATION = Augmentation(flip="alternate", crop=3, cutout=6, jitter=0.1)
FAKE = FakeTensorMode()  # one for all tests, since tables of the augmentation are kept
TRAINER: Any = SimpleNamespace(num_training_batches=3, accumulate_grad_batches=1, log_every_n_steps=50)


class Copies(TorchDispatchMode):
    """Notes copies between CPU and GPU, for which one waits for the other."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::_to_copy", "aten::copy_"):
            tensors = [each for each in (*args, result) if isinstance(each, Tensor)]
            if len({each.device.type for each in tensors}) > 1:
                self.found.append(str(func))
        return result


@pytest.mark.parametrize(
    ("net", "make_loss", "make_optimizer"),
    [
        (SpeedrunNet, lambda: nn.CrossEntropyLoss(label_smoothing=0.2), Muon),
        (SpeedrunNet, lambda: nn.CrossEntropyLoss(torch.ones(10)), partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
        (ResNet18, lambda: partial(F.cross_entropy, weight=torch.ones(10), ignore_index=3), torch.optim.AdamW),
    ],
    ids=["speedrun", "weighted", "resnet18, weights of a function"],
)
def test_a_step_does_not_wait_for_a_gpu(
    net: Any, make_loss: Callable[[], Any], make_optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.Module, "to", lambda self, *args, **kwargs: self)  # fake weights have no memory format
    with FAKE, Copies() as copies:
        with torch.device("cuda"):
            network, loss = net(), make_loss()
        images = ImageSet(
            torch.zeros(300, 3, 32, 32, dtype=torch.uint8), torch.zeros(300, dtype=torch.int64), CIFAR10_CLASSES
        )
        loader = BatchLoader(images, 100, shuffle=True, augmentation=AUGMENTATION, device="cuda")
        step = DirectStep(network, loss, make_optimizer(network.parameters()))
        record = TrainingRecord()
        record.begin(TRAINER, torch.device("cuda"))

        def backward(_: Tensor) -> None:
            for weight in network.parameters():
                weight.grad = torch.zeros_like(weight) if weight.requires_grad else None

        monkeypatch.setattr(Tensor, "backward", backward)
        loader.set_epoch(1, side=24)
        copies.found.clear()  # of the data set, to the GPU
        for batch in loader:
            assert copies.found == ["aten._to_copy.default"]  # of the epoch's order: before the first step alone
            share = take_share(batch, batch[1], loss, slice_size=40)
            total, counts = step(share)
            record.add(share, counts)
            assert {each.device.type for each in (*batch, total, counts)} == {"cuda"}
        assert len(copies.found) == 1


def test_trivial_augment_copies_its_tables_once_and_does_not_wait_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_to_fake = torch.zeros(5 * trivial_augment.SIGNED, 48 * 48, dtype=torch.int32)
    monkeypatch.setattr(trivial_augment, "_sources", lambda *_: FAKE.from_tensor(slow_to_fake))
    with FAKE, Copies() as copies:
        images = torch.zeros(20, 3, 48, 48, dtype=torch.uint8, device="cuda")
        for epoch in range(2):
            copies.found.clear()
            Augmentation(trivial_augment=True)(images, torch.arange(20, device="cuda"), 0, epoch)
    assert not copies.found


def test_class_weights_of_a_function_are_moved_with_its_other_arguments() -> None:
    loss: Any = partial(F.cross_entropy, weight=torch.ones(3), ignore_index=2)
    there: Any = moved(loss, torch.device("meta"))
    assert there.func is F.cross_entropy
    assert there.keywords["weight"].device.type == "meta"
    assert there.keywords["ignore_index"] == 2
    assert moved(loss, torch.device("cpu")) is loss


def test_a_number_read_from_the_gpu_and_a_tensor_of_the_cpu_are_noticed() -> None:
    with FAKE:
        here, there = torch.zeros(3), torch.zeros(3, device="cuda")
        for wrong in (
            lambda: there.sum().item(),
            lambda: bool(there.any()),
            lambda: there[there > 0],
            lambda: here + there,
        ):
            with pytest.raises(RuntimeError):
                wrong()
