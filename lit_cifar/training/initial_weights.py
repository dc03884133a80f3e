"""Fine-tuning: a new training that starts from a checkpoint's weights, with a new head if there are other classes."""

from collections.abc import Sequence

from torch import Tensor

from lit_cifar.errors import UsageError
from lit_cifar.runs.checkpoint import Checkpoint
from lit_cifar.training.predictor import Predictor


def take_weights(module: Predictor, checkpoint: Checkpoint, classes: Sequence[str]) -> str:
    """Gives a network the weights of a checkpoint, but for those whose shape follows from the number of classes.

    Returns a line that says so, or raises UsageError if the checkpoint is of another network.
    """
    before, now = len(checkpoint.card.classes), len(classes)
    own = module.net.state_dict()
    weights = {name.removeprefix("net."): weight for name, weight in checkpoint.weights.items()}
    head = [name for name in own.keys() & weights.keys() if _differs_by_classes(weights[name], own[name], before, now)]
    unfit = own.keys() ^ weights.keys() | {name for name in own.keys() & weights.keys() if name not in head}
    unfit = {name for name in unfit if name not in own or name not in weights or own[name].shape != weights[name].shape}
    if unfit:
        named = ", ".join(sorted(unfit)[:3])
        what = f"--init_from {checkpoint.path} holds a {checkpoint.card.net['class_path']} with other weights than"
        sentence = f"{what} --model.net {type(module.net).__name__}: {named}{' …' if len(unfit) > 3 else ''}"
        raise UsageError("network-unfit", f"{sentence}; use the network that was trained, with the same arguments")
    module.net.load_state_dict({name: weight for name, weight in weights.items() if name not in head}, strict=False)
    module.whitened = True
    line = f"Start  weights of {checkpoint.path}"
    if head:
        layers = sorted({name.rpartition(".")[0] for name in head})
        line += f"; {', '.join(layers)} is new, for {now} classes instead of {before}"
    return line


def _differs_by_classes(old: Tensor, new: Tensor, before: int, now: int) -> bool:
    """Returns whether two weights have the same shape but for the number of classes."""
    sizes = [*zip(old.shape, new.shape, strict=False)]
    same = old.dim() == new.dim() and all(a == b or (a, b) == (before, now) for a, b in sizes)
    return same and old.shape != new.shape
