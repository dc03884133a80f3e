"""torch.compile for a network, with a sentence for people where the machine can't."""

import logging

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from lit_cifar.errors import UserError


def compile_net(net: nn.Module, device: torch.device) -> None:
    """Makes `net` compile itself at its first use; its weights and their names stay what they are.

    Raises:
        UserError: nothing can be compiled for `device`, for want of a C++ compiler or of Triton.
    """
    logging.getLogger("torch.utils.cpp_extension").addFilter(_worth_saying)
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))  # 3 s, against a minute for a network
    except (TorchDynamoException, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--model.compile true: torch can't compile for {device.type} here ({reason});"
            " install a C++ compiler (CPU) or Triton (CUDA), or leave it out"
        ) from error
    net.compile()


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not that a machine with the CUDA toolkit has no GPU: nothing is compiled for one."""
    return "No CUDA runtime is found" not in record.getMessage()
