"""Muon against a plain reference and against torch's own, its groups and its checkpoints."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from running import differences
from torch import Tensor, nn

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.errors import UsageError
from lit_cifar.nets.tutorial import Net
from lit_cifar.training.optimizers import Muon, orthogonal
from lit_cifar.training.schedules import LinearToZero


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4))


def set_gradients(weights: Iterable[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)


def test_orthogonal_brings_all_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((20, 50), (50, 20)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape), 6))
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_muon_keeps_the_norm_of_filters_and_only_the_others_decay() -> None:
    net = small_net()
    optimizer = Muon(net.parameters(), lr=0.1, head_lr=0.1, bias_lr=0.1, weight_decay=0.01)
    before = [weight.detach().clone() for weight in net.parameters()]
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    filters, bias, matrix, _ = net.parameters()
    assert float(filters.detach().norm()) == pytest.approx(8**0.5, rel=1e-5)
    assert torch.allclose(filters, before[0] * 8**0.5 / before[0].norm(), atol=1e-6)
    for now, then in ((bias, before[1]), (matrix, before[2])):
        assert torch.allclose(now, then * (1 - 0.01 * 1.85), atol=1e-6)  # Nesterov: 1 + 0.85 of the first gradient


def reference_step(weight: Tensor, gradients: list[Tensor], lr: float, momentum: float, decay: float) -> Tensor:
    """What a weight is after so many gradients, from the formula; decay and momentum as SGD's with Nesterov."""
    buffer = torch.zeros_like(weight)
    for gradient in gradients:
        if weight.dim() == 4:
            buffer = momentum * buffer + gradient
            u, _, v = torch.linalg.svd((gradient + momentum * buffer).flatten(1), full_matrices=False)
            weight = weight * len(weight) ** 0.5 / weight.norm() - lr * (u @ v).view_as(weight)
        else:
            gradient = gradient + decay / lr * weight
            buffer = momentum * buffer + gradient
            weight = weight - lr * (gradient + momentum * buffer)
    return weight


def test_weights_decay_by_their_rate_over_the_initial_one() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.zeros(2)
    optimizer = Muon([weight], bias_lr=0.1, weight_decay=0.01)
    LinearToZero(optimizer, total_steps=2)
    optimizer.param_groups[0]["lr"] = 0.05  # half of the initial one
    optimizer.step()
    assert weight.tolist() == pytest.approx([1 - 0.5 * 0.01 * 1.85] * 2)  # Nesterov: 1 + 0.85 of the first gradient


def newton_schulz(matrix: Tensor, steps: int) -> Tensor:
    """The iteration in float64, from its formula."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(steps):
        x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    return x


@pytest.mark.parametrize(("precision", "least", "most"), [("32-true", 0.0, 1e-5), ("bf16-mixed", 1e-4, 3e-2)])
def test_filters_become_orthogonal_in_the_precision_of_the_run(precision: str, least: float, most: float) -> None:
    filters = nn.Parameter(torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)))
    filters.grad = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    start = filters.detach() * 8**0.5 / filters.detach().norm()
    optimizer = Muon([filters], lr=1.0, steps=3)
    optimizer.use_precision(precision)
    optimizer.step()
    expected = newton_schulz(filters.grad.flatten(1), 3)
    error = ((start - filters.detach()).flatten(1) - expected).norm() / expected.norm()
    assert least < float(error) < most


@pytest.mark.parametrize(("precision", "expected"), [("32-true", None), ("bf16-mixed", torch.bfloat16)])
def test_a_training_gives_muon_its_precision_on_any_hardware(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, expected: torch.dtype | None
) -> None:
    seen = []

    def look(matrix: Tensor, steps: int, precision: torch.dtype | None = None) -> Tensor:
        seen.append(precision)
        return matrix

    monkeypatch.setattr("lit_cifar.training.optimizers.orthogonal", look)
    trainer = Trainer(max_steps=1, precision=precision, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(LitClassifier(Net(3), Muon), datamodule=CIFAR10DataModule(str(pictures), val_size=0))
    assert seen == [expected, expected]  # of two convolutions


def test_muon_agrees_with_the_formula_over_five_steps() -> None:
    net = small_net()
    rates = {4: (0.05, 0.6, 0.0), 2: (0.3, 0.85, 0.01), 1: (0.1, 0.85, 0.01)}
    optimizer = Muon(net.parameters(), lr=0.05, head_lr=0.3, bias_lr=0.1, weight_decay=0.01, steps=30)
    before = [weight.detach().clone() for weight in net.parameters()]
    seen: list[list[Tensor]] = [[] for _ in before]
    for step in range(5):
        set_gradients(net.parameters(), step)
        for gradients, weight in zip(seen, net.parameters(), strict=True):
            assert weight.grad is not None
            gradients.append(weight.grad.clone())
        optimizer.step()
    for weight, then, gradients in zip(net.parameters(), before, seen, strict=True):
        expected = reference_step(then, gradients, *rates[weight.dim()])
        # Newton-Schulz with these coefficients ends near orthogonal, not at it: 30 % in single values, 5 steps of 0.05
        tolerance = 0.08 if weight.dim() == 4 else 1e-5
        assert float((weight.detach() - expected).norm() / expected.norm()) < tolerance


def test_muon_turns_filters_as_torch_s_own_muon_turns_matrices() -> None:
    torch.manual_seed(0)
    start = torch.randn(16, 27)
    start *= 16**0.5 / start.norm()
    ours, theirs = nn.Parameter(start.view(16, 3, 3, 3).clone()), nn.Parameter(start.clone())
    settings: dict[str, Any] = {"momentum": 0.6, "weight_decay": 0.0}
    optimizers = [
        Muon([ours], lr=0.0, momentum=0.6, steps=5),
        torch.optim.Muon([theirs], lr=0.0, ns_steps=5, **settings),
    ]
    for step in range(4):
        set_gradients([theirs], step)
        assert theirs.grad is not None
        ours.grad = theirs.grad.view_as(ours)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.1 if step == 3 else 0.0  # the momentum of all four steps
            optimizer.step()
    moves = [(weight.detach().flatten(1) - start) / 0.1 for weight in (ours, theirs)]
    assert float(moves[1].norm()) > 3
    assert float((moves[0] - moves[1]).norm() / moves[1].norm()) < 0.06  # both multiply in bf16, in another order


def test_groups_have_options_of_their_own() -> None:
    net = small_net()
    head = [*net[2].parameters()]
    groups: list[dict[str, Any]] = [{"params": net[0].parameters(), "lr": 0.5, "steps": 1}, {"params": head, "lr": 0.0}]
    optimizer = Muon(groups)
    assert [(group["lr"], group["orthogonal"]) for group in optimizer.param_groups] == [
        (0.5, True),
        (0.5, False),
        (0.0, False),
        (0.0, False),
    ]
    before = [weight.detach().clone() for weight in net.parameters()]
    set_gradients(net.parameters(), 0)
    optimizer.step()
    changed = [not torch.equal(weight, then) for weight, then in zip(net.parameters(), before, strict=True)]
    assert changed == [True, True, False, False]


def test_norms_and_biases_are_those_that_timm_does_not_decay() -> None:
    timm, optim = (pytest.importorskip(name, reason="needs timm") for name in ("timm", "timm.optim"))
    made = (
        timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=12, depth=1, num_classes=3),
        timm.create_model("resnet18", num_classes=3),
    )
    for net in made:
        named = net.no_weight_decay() if hasattr(net, "no_weight_decay") else ()
        theirs = optim.param_groups_weight_decay(net, 0.05, no_weight_decay_list=named)
        module = LitClassifier(
            nn.Sequential(net),
            lambda weights: torch.optim.AdamW(weights, weight_decay=0.05),
            decay_norms_and_biases=False,
        )
        ours = module.new_optimizer().param_groups
        wanted = {group["weight_decay"]: {*group["params"]} for group in theirs}
        assert {group["weight_decay"]: {*group["params"]} for group in ours} == wanted


def test_what_joins_an_optimizer_later_is_split_too_and_one_without_decay_is_refused() -> None:
    def make(kind: Any, **options: Any) -> torch.optim.Optimizer:
        classifier = LitClassifier(small_net(), lambda weights: kind(weights, **options), decay_norms_and_biases=False)
        late = [*classifier.net.parameters()][2:]
        optimizer = classifier.new_optimizer([*classifier.net.parameters()][:2])
        optimizer.add_param_group({"params": late, "lr": 0.5})
        return optimizer

    for kind in (torch.optim.SGD, torch.optim.Adam):
        groups = make(kind, lr=0.1, weight_decay=0.01).param_groups
        found = [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups]
        assert found == [(0.1, 0.01, 1), (0.1, 0.0, 1), (0.5, 0.01, 1), (0.5, 0.0, 1)]
    classifier = LitClassifier(small_net(), Muon, decay_norms_and_biases=False)
    decays = [(group["params"][0].ndim, group["weight_decay"]) for group in classifier.new_optimizer().param_groups]
    assert decays == [(4, 0.0), (2, 0.004), (1, 0.0)]
    for other in (torch.optim.Rprop, torch.optim.LBFGS):
        with refused(UsageError, "optimizer-refused", other.__name__):
            make(other)


def test_every_weight_that_learns_is_in_a_group() -> None:
    weights = [nn.Parameter(torch.ones((2,) * dimensions)) for dimensions in range(6)]
    optimizer = Muon(weights)
    assert [len(group["params"]) for group in optimizer.param_groups] == [3, 1, 2]
    set_gradients(weights, 0)
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    assert not any(torch.equal(weight, then) for weight, then in zip(weights, before, strict=True))


def test_a_restored_optimizer_goes_on_bit_for_bit() -> None:
    whole, parts = small_net(), small_net()
    optimizer, first = Muon(whole.parameters()), Muon(parts.parameters())
    for step in range(4):
        set_gradients(whole.parameters(), step)
        optimizer.step()
    for step in range(2):
        set_gradients(parts.parameters(), step)
        first.step()
    second = Muon(parts.parameters(), lr=0.1)
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        set_gradients(parts.parameters(), step)
        second.step()
    assert differences(whole.state_dict(), parts.state_dict()) == []


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"bias_lr": -1.0}, {"momentum": 1.0}, {"weight_decay": -0.1}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be 0 or more, .*below 1"):
        Muon(small_net().parameters(), **options)
