"""A network and its loss are tried once before anything is trained or measured: what they can't do is a mistake."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lit_cifar.errors import UsageError, reason
from lit_cifar.evaluation import metrics as evaluation

if TYPE_CHECKING:
    from lit_cifar.data.datamodule import CIFAR10DataModule
    from lit_cifar.training.classifier import LitClassifier


def check(model: "LitClassifier", data: "CIFAR10DataModule") -> None:
    """Tries net, loss and optimizer.

    Raises:
        UsageError: they can't do with these data, or with each other.
    """
    # After fit, a compiled net is on the CPU, for which it is not compiled
    with torch.compiler.set_stance("force_eager") if model.compiled else nullcontext():
        outputs = tried(model.net, model.loss, [side for _, side in model.sides])
    classes = len(data.classes)
    if outputs != classes:
        have = "have" if data.images.kind == "drawn" else "has"
        raise UsageError(
            f"The network has {outputs} outputs, but {data.title} {have} {classes} classes;"
            f" set --model.net.init_args.num_classes {classes}"
        )
    model.new_optimizer()


@torch.no_grad()
def tried(net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], sides: Sequence[int] = ()) -> int:
    """The number of the network's outputs.

    Raises:
        UsageError: it can't take images of 32 pixels or one of these sides, or gives no logits; or the loss can't take
            logits and labels.
    """
    name = type(net).__name__
    weight = next(net.parameters(), torch.empty(0))
    with evaluation.evaluating(net):
        for side, flag in [(32, "--model.net"), *((side, "--model.sides") for side in sides)]:
            images = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
            try:
                logits = net(images)
            except (RuntimeError, TypeError, ValueError) as error:
                raise UsageError(
                    f"{flag}: the network {name} can't take images of {side} × {side} pixels"
                    f" ({reason(error)}); choose another"
                ) from error
            if not isinstance(logits, Tensor) or logits.ndim != 2:
                shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise UsageError(f"--model.net: {name} must give logits [N, number of classes], but gives {shape}")
    classes = logits.shape[1]
    if not classes:
        return 0
    labels = torch.zeros(classes + 1, dtype=torch.int64, device=weight.device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that do not fit, which the loss may only warn of
            value = loss(logits.float().expand(classes + 1, -1), labels)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise UsageError(f"--model.loss can't take logits [N, C] and labels [N] ({reason(error)})") from error
    if not isinstance(value, Tensor) or value.ndim:
        raise UsageError("--model.loss must give one number, the mean loss of a batch")
    return classes
