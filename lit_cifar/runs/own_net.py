"""A network of the user's own, which a checkpoint names but only the user can say to be trusted: `--model.net`."""

from pathlib import Path

from torch import nn

from lit_cifar.errors import UsageError, reason
from lit_cifar.runs.checkpoint import KEY, build_net, read_checkpoint


def own_net(class_path: str, checkpoint: Path) -> nn.Module:
    """The network of this class path, which may have moved since, with the arguments that the checkpoint tells.

    Raises:
        UsageError: it can't be imported or made, or is no network.
        UserError: the checkpoint is damaged.
    """
    config = read_checkpoint(checkpoint)[KEY]["net"]
    try:
        net = build_net(config | {"class_path": class_path})
    except ImportError as error:
        raise UsageError(
            f"--model.net {class_path} can't be imported ({reason(error)}); start in the folder of its module, or"
            " install it"
        ) from error
    except Exception as error:  # its code may be any Python, and so may what it raises
        raise UsageError(
            f"--model.net {class_path} can't be made ({reason(error)}); name its module and class"
        ) from error
    if not isinstance(net, nn.Module):
        raise UsageError(f"--model.net {class_path} makes a {type(net).__name__}, no torch.nn.Module; name its class")
    return net
