"""What the shares of a batch weigh, against the gradient of the whole batch, for every way to compute a step."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy

from lit_cifar import LitClassifier
from lit_cifar.nets.tutorial import Net
from lit_cifar.training.history import TrainingRecord
from lit_cifar.training.recorded import RecordedStep
from lit_cifar.training.step import DirectStep, GradientExchange, Share, count, take_share

SHARED = [(5, 1), (5, 2), (5, 3), (1, 2), (2, 3)]  # images and processes; in the last two, a share is empty


def batch_of(images: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(images)
    return torch.randn(images, 3, 32, 32, generator=generator), torch.arange(images) % 3


def shares_of(images: int, processes: int) -> list[tuple[Tensor, Tensor]]:
    pixels, labels = batch_of(images)
    return list(zip(pixels.tensor_split(processes), labels.tensor_split(processes), strict=True))


def net_of_seed() -> Net:
    torch.manual_seed(0)
    return Net(3)


def gradient_of_batch(images: int) -> list[Tensor]:
    """By plain PyTorch."""
    net, (pixels, labels) = net_of_seed(), batch_of(images)
    return [*torch.autograd.grad(cross_entropy(net(pixels), labels), [*net.parameters()])]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("whole", "processes", "mine", "weight", "averaged", "slices"),
    [
        (5, 1, 5, 1.0, 1.0, 3),
        (5, 2, 3, 0.6, 1.2, 2),
        (5, 2, 2, 0.4, 0.8, 2),
        (1, 2, 1, 1.0, 2.0, 1),
        (1, 2, 0, 0.0, 0.0, 1),
    ],
)
def test_a_share_weighs_as_much_as_its_part_of_the_images(
    whole: int, processes: int, mine: int, weight: float, averaged: float, slices: int
) -> None:
    share = take_share(batch_of(mine), whole, processes, slice_size=2)
    assert share.weight() == pytest.approx(weight)
    assert share.weight(processes) == pytest.approx(averaged)
    assert share.slices == slices
    assert len(share.images) == len(share.labels) == max(1, mine)


@pytest.mark.parametrize(("images", "processes"), SHARED)
def test_lightnings_average_of_training_steps_is_the_gradient_of_the_batch(images: int, processes: int) -> None:
    total = [torch.zeros_like(weight) for weight in net_of_seed().parameters()]
    for batch in shares_of(images, processes):
        module = LitClassifier(net_of_seed(), slice_size=2)
        loader = SimpleNamespace(images_in_batch=lambda _: images)
        module.trainer = SimpleNamespace(world_size=processes, train_dataloader=loader)  # type: ignore[assignment]
        module.training_step(batch, 0).backward()
        for sum_, weight in zip(total, module.net.parameters(), strict=True):
            assert weight.grad is not None  # an empty share takes part in the exchange, too
            sum_ += weight.grad / processes
        assert module.record.trained["images"] == images
    assert_close(total, gradient_of_batch(images))


@pytest.mark.parametrize("kind", [DirectStep, RecordedStep])
@pytest.mark.parametrize(("images", "processes"), SHARED)
def test_direct_steps_exchange_gradients_whose_weighted_sum_is_that_of_the_batch(
    images: int, processes: int, kind: type[DirectStep]
) -> None:
    total = [torch.zeros_like(weight) for weight in net_of_seed().parameters()]
    record = TrainingRecord()
    for batch in shares_of(images, processes):
        net = net_of_seed()

        def exchange(weight: float, net: Net = net) -> None:
            for sum_, each in zip(total, net.parameters(), strict=True):
                assert each.grad is not None
                sum_ += each.grad * weight

        step = kind(net, cross_entropy, torch.optim.SGD(net.parameters(), lr=0.1), exchange)  # type: ignore[arg-type]
        share = take_share(batch, images, processes)
        _, counts = step(share)
        record.add(share._replace(whole=0), counts)
    assert_close(total, gradient_of_batch(images))
    net, (pixels, labels) = net_of_seed(), batch_of(images)
    logits = net(pixels)
    right = int((logits.argmax(1) == labels).sum())
    record.add(Share(pixels, labels, 0, images, 1), torch.full((2,), torch.nan))  # an empty share counts nothing
    one_process: Any = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda sums, reduce_op: sums))
    means = record.means(one_process)
    assert means["train/loss"] == pytest.approx(float(cross_entropy(logits, labels).detach()), rel=1e-4)
    assert means["train/accuracy"] == pytest.approx(right / images)


@pytest.mark.parametrize("size", [3, 4, 10, 100])
def test_slices_give_the_gradient_of_the_whole_batch(size: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(5))
    images, labels = torch.randn(10, 3, 8, 8), torch.randint(0, 5, (10,))
    logits = net(images)
    loss = cross_entropy(logits, labels)
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    loss, logits = loss.detach(), logits.detach()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    step = DirectStep(net, cross_entropy, optimizer, context=torch.enable_grad)
    sliced_loss, counts = step(take_share((images, labels), 10, slice_size=size))
    assert float(sliced_loss) == pytest.approx(float(loss), rel=1e-5)
    assert torch.allclose(counts, count(loss, logits, labels), rtol=1e-5)
    for weight, gradient in zip(net.parameters(), gradients, strict=True):
        assert weight.grad is not None
        assert torch.allclose(weight.grad, gradient, atol=1e-6)


def test_a_batch_is_cut_into_even_slices() -> None:
    sizes: list[int] = []

    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(12, 3)

        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return self.head(images.flatten(1))

    net = Seen()
    batch = torch.zeros(501, 3, 2, 2), torch.zeros(501, dtype=torch.int64)
    DirectStep(net, cross_entropy, torch.optim.SGD(net.parameters()))(take_share(batch, 501, slice_size=250))
    assert sizes == [167] * 3


def in_a_process(rank: int, store: str, work: Callable[[int], None]) -> None:
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    work(rank)
    torch.distributed.destroy_process_group()


def exchanged(rank: int) -> None:
    """Weights of 0.6 and 0.4, and then of 1 and 0, where the empty share's gradient is not even a number."""
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1, 1)), nn.Parameter(torch.zeros(3))]
    for shares, others, expected in (((0.6, 0.4), 10.0, 4.6), ((1.0, 0.0), torch.nan, 1.0)):
        for weight in weights[:2]:  # nobody needs a gradient of the third
            weight.grad = torch.full_like(weight, 1.0 if rank == 0 else others)
        GradientExchange(weights)(shares[rank])
        for weight in weights[:2]:
            assert weight.grad is not None
            torch.testing.assert_close(weight.grad, torch.full_like(weight, expected))
        assert weights[2].grad is None


def test_processes_get_the_weighted_sum_of_their_gradients(tmp_path: Path) -> None:
    spawn(partial(in_a_process, store=str(tmp_path / "store"), work=exchanged), nprocs=2)
