"""A small batch's forward, loss and backward as one straight line of aten operations, recorded once.

At batch 4 on a CPU, the tutorial's net spends half of its step in autograd's and Python's bookkeeping and in oneDNN's
setting up of convolutions that are over in a moment. torch's own tracer, make_fx, records what a step computes; what
remains is called in the recorded order, without either: 0.75 ms instead of 1.3 ms, the same operations on the same
numbers but for the convolutions' order of summation.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

from lit_cifar.training.exchange import Exchange

SMALL_BATCH = 8
"""Images up to which a batch is small: one CPU thread is then as fast as two, since the work is so little."""
SMALL_WEIGHT = 10_000
"""Numbers in a convolution's weight up to which torch's own kernel (unfold, multiply) beats oneDNN on a small batch."""

aten = torch.ops.aten


class FusedStep:
    """Computes loss and gradients of small batches, and lets the optimizer step.

    Args:
        net: its forward must run the same operations each time; see `can_record`.
        loss: mean loss of logits `[N, C]` and labels `[N]`.
        optimizer: any that steps without a closure.
        exchange: of gradients with other processes.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        exchange: Exchange | None = None,
    ) -> None:
        self._net, self._loss, self._optimizer, self._exchange = net, loss, optimizer, exchange
        self._names, self._weights = zip(*net.named_parameters(), strict=True)
        self._recorded: dict[torch.Size, Callable[..., tuple[Tensor, ...]]] = {}

    def serves(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
        """Whether it trains these, and none of the net's weights was put in another's place."""
        weights = tuple(net.parameters())
        return self._net is net and self._optimizer is optimizer and all(map(operator.is_, weights, self._weights))

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Trains on `share` of a batch: its mean loss, and `[2]` the sum of losses and the number of right answers."""
        run = self._recorded.get(images.shape) or self._record(images, labels)
        loss, counts, *gradients = run(images, labels, *self._weights)
        for weight, gradient in zip(self._weights, gradients, strict=True):
            weight.grad = gradient
        if self._exchange is not None:
            self._exchange(share)
        self._optimizer.step()
        return loss, counts

    def _record(self, images: Tensor, labels: Tensor) -> Callable[..., tuple[Tensor, ...]]:
        with torch.random.fork_rng(devices=[]):  # recorded again after resuming, dropout must not lose its place
            graph = make_fx(self._step)(images, labels, *self._weights)
        _drop_aliases(graph.graph)
        _replace_convolutions(graph.graph)
        graph.graph.set_codegen(CodeGen())  # in place of make_fx's, which packs and unpacks all arguments each time
        graph.graph.lint()
        graph.recompile()
        self._recorded[images.shape] = graph.forward
        return graph.forward

    @torch.enable_grad()
    def _step(self, images: Tensor, labels: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        weights = tuple(weight.detach().requires_grad_() for weight in weights)
        logits = functional_call(self._net, dict(zip(self._names, weights, strict=True)), (images,))
        loss = self._loss(logits, labels)
        return loss.detach(), count(loss, logits, labels), *torch.autograd.grad(loss, weights)


@torch.no_grad()
def count(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """`[2]`: the sum of a batch's losses, and the number of right answers."""
    return torch.stack((loss.float() * len(labels), (logits.argmax(1) == labels).sum()))


def can_record(net: nn.Module) -> bool:
    """Whether `net` says that its forward always runs the same operations (`traceable = True`), and hides nothing.

    Buffers, such as those of batch normalisation, would be changed in the recording; hooks would not be called.
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        bool(getattr(net, "traceable", False))
        and not list(net.buffers())
        and all(weight.requires_grad and weight.dtype == torch.float32 for weight in net.parameters())
        and not any(getattr(module, name) for module in net.modules() for name in hooks)
    )


def _drop_aliases(graph: Graph) -> None:
    """Takes out what only renames a tensor, or turns it twice: a fifth of all calls."""
    for node in list(graph.nodes):
        if node.target in (aten.alias.default, aten.detach.default):
            node.replace_all_uses_with(node.args[0])
        elif node.target is aten.t.default and (inner := node.args[0]).target is aten.t.default:
            node.replace_all_uses_with(inner.args[0])
    graph.eliminate_dead_code()


def _replace_convolutions(graph: Graph) -> None:
    """Puts torch's own kernels in oneDNN's place where the weight is small."""
    for node in list(graph.nodes):
        if node.target is aten.convolution.default:
            images, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
            new = aten._slow_conv2d_forward.default
            arguments: tuple[Any, ...] = (images, weight, _kernel(weight), bias, stride, padding)
        elif node.target is aten.convolution_backward.default:
            gradient, images, weight, _, stride, padding, dilation, transposed, _, groups, wanted = node.args
            new = aten._slow_conv2d_backward.output_mask
            arguments = (gradient, images, weight, _kernel(weight), stride, padding, wanted)
        else:
            continue
        shape = weight.meta["val"].shape
        if len(shape) != 4 or shape.numel() > SMALL_WEIGHT or transposed or groups != 1 or set(dilation) != {1}:
            continue
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.call_function(new, arguments))
        graph.erase_node(node)


def _kernel(weight: Node) -> list[int]:
    return list(weight.meta["val"].shape[2:])
