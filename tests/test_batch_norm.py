"""Batch normalization on several processes gives what torch's gives on one; in float64, rounding flips no ReLU."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy

from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.loader import BatchLoader
from lit_cifar.nets.resnet import ResNet18
from lit_cifar.nets.speedrun import SpeedrunNet
from lit_cifar.nets.timm import Timm
from lit_cifar.training.step import DirectStep, GradientExchange, take_share

STEPS, RATE = 3, 0.02


class Head(nn.Module):
    """Normalises single numbers of an image, without gains, by an average over all batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.BatchNorm1d(8, affine=False, momentum=None))
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images).relu())


NETS: dict[str, Callable[[], nn.Module]] = {
    "head": Head,
    "speedrun": partial(SpeedrunNet, 10, (8, 16, 16)),
    "resnet": ResNet18,
    "timm test_resnet": partial(Timm, "test_resnet"),
    "timm resnetv2_18": partial(Timm, "resnetv2_18", channels=(16, 16, 32, 32)),
    "timm test_efficientnet": partial(Timm, "test_efficientnet"),
}


def trained(name: str, batch: int, slice_size: int, rank: int = 0, processes: int = 1) -> dict[str, Tensor]:
    """Weights and running statistics after some steps."""
    torch.manual_seed(0)
    net = NETS[name]().double()
    images = STEPS * batch - batch // 2  # the last batch is short
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8)
    data = ImageSet(pixels, torch.arange(images) % 10, tuple("abcdefghij"))
    loader = BatchLoader(data, batch, shuffle=True, rank=rank, world_size=processes, slice_size=slice_size)
    exchange = GradientExchange(net.parameters()) if processes > 1 else None
    step = DirectStep(net, cross_entropy, torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9), exchange)
    for place, (mine, labels) in enumerate(loader):
        whole = loader.labels_in_batch(place)
        share = take_share((mine.double(), labels), whole, cross_entropy, slice_size, rank, processes)
        step(share._replace(sync_batchnorm=processes > 1))
    return net.state_dict()


def train(rank: int, folder: Path, name: str, batch: int, slice_size: int, processes: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=processes)
    torch.save(trained(name, batch, slice_size, rank, processes), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch", "slice_size", "processes"),
    [
        *[("head", 5, 0, 2), ("head", 4, 2, 3), ("speedrun", 7, 0, 3), ("speedrun", 7, 4, 2), ("resnet", 7, 3, 2)],
        *[("timm test_resnet", 7, 0, 2), ("timm resnetv2_18", 7, 0, 2), ("timm test_efficientnet", 7, 3, 2)],
    ],
)  # of slices of two images, one of three processes has none
def test_weights_and_running_statistics_are_those_of_one_process(
    tmp_path: Path, name: str, batch: int, slice_size: int, processes: int
) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm", reason="needs timm")
    expected = trained(name, batch, slice_size)
    work = partial(train, folder=tmp_path, name=name, batch=batch, slice_size=slice_size, processes=processes)
    spawn(work, nprocs=processes)
    for rank in range(processes):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-8, atol=1e-10)
