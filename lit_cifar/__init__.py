"""CIFAR-10 in PyTorch Lightning: train, test and look, with one command.

`from lit_cifar import CIFAR10DataModule, LitClassifier`; both are imported at their first use, so that a process that
only decodes pictures or answers `--help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_cifar.classifier import LitClassifier
    from lit_cifar.data.datamodule import CIFAR10DataModule

__version__ = "0.1.0"
__all__ = ["CIFAR10DataModule", "LitClassifier", "__version__"]

_HOMES = {"CIFAR10DataModule": "lit_cifar.data.datamodule", "LitClassifier": "lit_cifar.classifier"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lit_cifar' has no attribute {name!r}")
