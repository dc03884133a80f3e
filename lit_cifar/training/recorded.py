"""A small batch's forward, loss and backward as one straight line of aten operations, recorded once.

At batch 4 on a CPU, the tutorial's network spends half of its step on the bookkeeping of autograd and Python and on
oneDNN's preparation of convolutions. torch's own tracer, make_fx, records the operations of a step, which are then
called without either: 0.75 ms instead of 1.3 ms. Only the order in which convolutions sum differs.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import Graph
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

from lit_cifar.training.step import HOOKS, DirectStep, Share, count

SMALL_WEIGHT = 10_000  # numbers up to which torch's own convolution (unfold, multiply) beats oneDNN on a small batch

aten = torch.ops.aten


@dataclass(eq=False)
class RecordedStep(DirectStep):
    """A DirectStep without a context that is recorded at the first batch of each shape; see `can_record`.

    A step for which the recording is no longer valid is computed as a DirectStep does.
    """

    def __post_init__(self) -> None:
        self._names, self._weights = zip(*self.net.named_parameters(), strict=True)
        self._recorded: dict[tuple[torch.Size, torch.Size], Callable[..., tuple[Tensor, ...]]] = {}
        self._layers = [vars(module) for module in self.net.modules()]  # their attributes, modes included
        self._attributes = [dict(layer) for layer in self._layers]
        self._inside = [layer[name] for layer in self._layers for name in ("_parameters", "_buffers", "_modules")]
        self._parts = [*chain.from_iterable(map(dict.values, self._inside))]
        self._hooks = [layer[name] for layer in self._layers for name in HOOKS]
        self._hooks += [getattr(torch.nn.modules.module, f"_global{name}") for name in HOOKS]

    def is_same(self) -> bool:
        """Returns whether no layer was replaced, and none of their weights, attributes and modes."""
        parts = [*chain.from_iterable(map(dict.values, self._inside))]
        is_same = len(parts) == len(self._parts) and all(map(operator.is_, parts, self._parts))
        return is_same and self._layers == self._attributes

    def is_valid(self) -> bool:
        """Returns whether a recording still is what the network computes: all weights learn and nothing has a hook.

        Asked at every step: 5 µs.
        """
        return self.is_same() and not any(self._hooks) and all(map(_learns, self._weights))

    def backward(self, share: Share) -> tuple[Tensor, Tensor]:
        return self._replay(share) if self.is_valid() else super().backward(share)

    @torch.no_grad()
    def _replay(self, share: Share) -> tuple[Tensor, Tensor]:
        images, labels, mine = share.images, share.labels, len(share.labels)
        if not mine:
            images, labels = (each.new_zeros(1, *each.shape[1:]) for each in (images, labels))
        run = self._recorded.get((images.shape, labels.shape)) or self._record(images, labels)
        loss, counts, *gradients = run(images, labels, *self._weights)
        for weight, gradient in zip(self._weights, gradients, strict=True):
            weight.grad = gradient
        if self.exchange is not None:
            self.exchange(mine / share.whole)
            loss = loss * (mine * share.processes / share.whole)
        return loss, counts

    def _record(self, images: Tensor, labels: Tensor) -> Callable[..., tuple[Tensor, ...]]:
        with torch.random.fork_rng(devices=[]):  # dropout must not lose its place when a resumed run records again
            graph = make_fx(self._step)(images, labels, *self._weights)
        _drop_aliases(graph.graph)
        _replace_convolutions(graph.graph)
        graph.graph.set_codegen(CodeGen())  # make_fx's packs and unpacks all arguments each time
        graph.graph.lint()
        graph.recompile()
        self._recorded[images.shape, labels.shape] = graph.forward
        return graph.forward

    @torch.enable_grad()
    def _step(self, images: Tensor, labels: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        weights = tuple(weight.detach().requires_grad_() for weight in weights)
        logits = functional_call(self.net, dict(zip(self._names, weights, strict=True)), (images,))
        loss = self.loss(logits, labels)
        return loss.detach(), count(loss, len(labels), logits, labels), *torch.autograd.grad(loss, weights)


def can_record(net: nn.Module) -> bool:
    """Returns whether the class of `net` declares that it always runs the same operations (`traceable = True`).

    A recording would lose buffers, such as those of batch normalisation. A subclass has to declare it again, and
    somebody may have replaced a layer or its forward pass.
    """
    layers = [layer for layer in net.modules() if layer is not net]
    if any("forward" in vars(each) for each in (net, *layers)) or not all(map(_is_of_torch, layers)):
        return False
    is_float32 = all(weight.dtype == torch.float32 for weight in net.parameters())
    return bool(vars(type(net)).get("traceable")) and is_float32 and not list(net.buffers())


def _is_of_torch(layer: nn.Module) -> bool:
    return type(layer).__module__.startswith("torch.nn.modules.")


def _learns(weight: nn.Parameter) -> bool:
    return weight.requires_grad and not weight._backward_hooks and not weight._post_accumulate_grad_hooks


def _drop_aliases(graph: Graph) -> None:
    """Removes operations that only rename a tensor or transpose it twice: a fifth of all calls."""
    for node in list(graph.nodes):
        if node.target in (aten.alias.default, aten.detach.default):
            node.replace_all_uses_with(node.args[0])
        elif node.target is aten.t.default and (inner := node.args[0]).target is aten.t.default:
            node.replace_all_uses_with(inner.args[0])
    graph.eliminate_dead_code()


def _replace_convolutions(graph: Graph) -> None:
    """Replaces oneDNN's convolutions by torch's own kernels if the weight is small."""
    for node in list(graph.nodes):
        if node.target is aten.convolution.default:
            images, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
            new, tensors = aten._slow_conv2d_forward.default, [images, weight]
            options = [bias, stride, padding]
        elif node.target is aten.convolution_backward.default:
            gradient, images, weight, _, stride, padding, dilation, transposed, _, groups, wanted = node.args
            new, tensors = aten._slow_conv2d_backward.output_mask, [gradient, images, weight]
            options = [stride, padding, wanted]
        else:
            continue
        shape = weight.meta["val"].shape
        if len(shape) != 4 or shape.numel() > SMALL_WEIGHT or transposed or groups != 1 or set(dilation) != {1}:
            continue
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.call_function(new, (*tensors, list(shape[2:]), *options)))
        graph.erase_node(node)
