"""What the shares of a batch weigh, against the gradient of the whole batch, for every way to compute a step."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy, nll_loss

from lit_cifar import LitClassifier
from lit_cifar.data.loader import BatchLoader
from lit_cifar.nets.tutorial import Net
from lit_cifar.training.history import TrainingRecord
from lit_cifar.training.recorded import RecordedStep
from lit_cifar.training.step import DirectStep, GradientExchange, Loss, count, take_share

SHARED = [(5, 1), (5, 2), (5, 3), (1, 2), (2, 3)]  # images and processes; in the last two, a share is empty
WEIGHTS = torch.tensor([0.1, 5.0, 1.0])


class OwnWeights(nn.CrossEntropyLoss):
    """torch's loss with weights that a recipe can write down."""

    def __init__(self) -> None:
        super().__init__(WEIGHTS)


LOSSES: dict[str, Loss] = {
    "plain": cross_entropy,
    "weights": nn.CrossEntropyLoss(WEIGHTS),
    "ignored": nn.CrossEntropyLoss(ignore_index=1),  # of one image, in a batch of two
    "all": nn.CrossEntropyLoss(WEIGHTS, ignore_index=1, label_smoothing=0.2),
    "nll": nn.NLLLoss(WEIGHTS),
    "subclass": OwnWeights(),
    "partial": partial(cross_entropy, weight=WEIGHTS, label_smoothing=0.1),
    "partial nll": partial(nll_loss, ignore_index=2),
    "mean over images": nn.MultiMarginLoss(weight=WEIGHTS),
}


def batch_of(images: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(images)
    return torch.randn(images, 3, 32, 32, generator=generator), torch.arange(images) % 3


def shares_of(images: int, processes: int, slice_size: int = 0) -> list[tuple[Tensor, Tensor]]:
    """What BatchLoader gives each process: its part of every slice."""
    pixels, labels = batch_of(images)
    slices = -(-images // slice_size) if slice_size else 1
    places = [part.tensor_split(processes) for part in torch.arange(images).tensor_split(slices)]
    taken = [torch.cat([part[rank] for part in places]) for rank in range(processes)]
    return [(pixels[each], labels[each]) for each in taken]


def net_of_seed() -> Net:
    torch.manual_seed(0)
    return Net(3)


def gradient_of_batch(images: int, loss: Loss = cross_entropy) -> list[Tensor]:
    """By plain PyTorch."""
    net, (pixels, labels) = net_of_seed(), batch_of(images)
    return [*torch.autograd.grad(loss(net(pixels), labels), [*net.parameters()])]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def trainer_of(images: int, rank: int, processes: int) -> Any:
    """Of a process that trains on a batch of so many images."""
    loader = Mock(spec=BatchLoader, world_size=processes, labels_in_batch=lambda _: batch_of(images)[1])
    return SimpleNamespace(global_rank=rank, world_size=processes, train_dataloader=loader)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize(("images", "processes"), SHARED)
@pytest.mark.parametrize("slice_size", [0, 2])
def test_lightnings_average_of_training_steps_is_the_gradient_of_the_batch(
    images: int, processes: int, slice_size: int, loss: Loss
) -> None:
    total = [torch.zeros_like(weight) for weight in net_of_seed().parameters()]
    for rank, batch in enumerate(shares_of(images, processes, slice_size)):
        module = LitClassifier(net_of_seed(), slice_size=slice_size, loss=loss)
        module.trainer = trainer_of(images, rank, processes)
        module.training_step(batch, 0).backward()
        for sum_, weight in zip(total, module.net.parameters(), strict=True):
            assert weight.grad is not None  # an empty share takes part in the exchange, too
            sum_ += weight.grad / processes
        assert module.record.trained["images"] == images
    assert_close(total, gradient_of_batch(images, loss))


@pytest.mark.parametrize(
    ("kind", "loss"), [(RecordedStep, cross_entropy), *((DirectStep, each) for each in LOSSES.values())]
)
@pytest.mark.parametrize(("images", "processes"), SHARED)
def test_direct_steps_exchange_gradients_whose_sum_is_that_of_the_batch(
    images: int, processes: int, kind: type[DirectStep], loss: Loss
) -> None:
    total = [torch.zeros_like(weight) for weight in net_of_seed().parameters()]
    record, losses = TrainingRecord(), list[float]()
    pixels, labels = batch_of(images)
    for rank, batch in enumerate(shares_of(images, processes)):
        net = net_of_seed()

        def exchange(weight: float, net: Net = net) -> None:
            for sum_, each in zip(total, net.parameters(), strict=True):
                assert each.grad is not None
                sum_ += each.grad * weight

        step = kind(net, loss, torch.optim.SGD(net.parameters(), lr=0.1), exchange)  # type: ignore[arg-type]
        share = take_share(batch, labels, loss, rank=rank, processes=processes)
        mean, counts = step(share)
        losses.append(float(mean))
        record.add(share if rank == 0 else share._replace(whole=0, divisor=0), counts)
    assert_close(total, gradient_of_batch(images, loss))
    logits = net_of_seed()(pixels)
    expected = float(loss(logits, labels).detach())
    means = record.means(SimpleNamespace(strategy=SimpleNamespace(reduce=lambda sums, reduce_op: sums)))  # type: ignore[arg-type]
    assert means["loss/train"] == pytest.approx(expected, rel=1e-5)
    assert means["accuracy/train"] == pytest.approx(int((logits.argmax(1) == labels).sum()) / images)
    assert sum(losses) / processes == pytest.approx(expected, rel=1e-5)


def test_a_batch_whose_images_are_all_ignored_changes_nothing() -> None:
    net, loss = net_of_seed(), nn.CrossEntropyLoss(ignore_index=0)
    pixels, labels = batch_of(4)
    record = TrainingRecord()
    for each in (torch.zeros_like(labels), labels):
        step = DirectStep(net, loss, torch.optim.SGD(net.parameters(), lr=0.0))
        _, counts = step(share := take_share((pixels, each), each, loss))
        record.add(share, counts)
        if each is not labels:
            assert all(weight.grad is not None and not weight.grad.any() for weight in net.parameters())
    means = record.means(SimpleNamespace(strategy=SimpleNamespace(reduce=lambda sums, reduce_op: sums)))  # type: ignore[arg-type]
    assert means["loss/train"] == pytest.approx(float(loss(net(pixels), labels).detach()), rel=1e-5)


MIXED_LOSSES: list[Loss] = [
    cross_entropy,
    nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.2),
    partial(cross_entropy, weight=WEIGHTS, label_smoothing=0.1),
]


@pytest.mark.parametrize(
    ("kind", "loss"), [(RecordedStep, cross_entropy), *((DirectStep, each) for each in MIXED_LOSSES)]
)
@pytest.mark.parametrize(("images", "processes"), SHARED)
def test_labels_that_are_probabilities_give_the_gradient_of_the_batch(
    kind: type[DirectStep], images: int, processes: int, loss: Loss
) -> None:
    mixed = torch.rand(images, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
    pixels, total, counts = batch_of(images)[0], list[Tensor](), torch.zeros(2)
    for rank in range(processes):
        net = net_of_seed()
        own = pixels.tensor_split(processes)[rank], mixed.tensor_split(processes)[rank]
        exchange = Mock() if kind is RecordedStep else None
        step = kind(net, loss, torch.optim.SGD(net.parameters(), lr=0.0), exchange)
        _, counted = step(take_share(own, mixed, loss, 0, rank, processes))
        weight = exchange.call_args.args[0] if exchange else 1.0
        gradients = [weight * each.grad for each in net.parameters() if each.grad is not None]
        total = [a + b for a, b in zip(total, gradients, strict=True)] if total else gradients
        counts += counted if len(own[1]) else 0
    net = net_of_seed()
    logits = net(pixels)
    expected = loss(logits, mixed)
    assert_close(total, [*torch.autograd.grad(expected, [*net.parameters()])])
    right = int((logits.argmax(1) == mixed.argmax(1)).sum())
    assert counts.tolist() == pytest.approx([expected.item() * images, right])


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
    sliced_loss, counts = step(take_share((images, labels), labels, cross_entropy, size))
    assert float(sliced_loss) == pytest.approx(float(loss), rel=1e-5)
    assert torch.allclose(counts, count(loss, 10, logits, labels), rtol=1e-5)
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
    share = take_share(batch, batch[1], cross_entropy, 250)
    DirectStep(net, cross_entropy, torch.optim.SGD(net.parameters()))(share)
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
