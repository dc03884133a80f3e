"""CIFAR-10 in PyTorch Lightning: train, test and look, with one command.

`from lit_cifar import CIFAR10DataModule, LitClassifier, lean`, and LitProgressBar; each is imported when first used, so
that a process that only decodes pictures or answers `--help` does not wait for torch.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_cifar.data.datamodule import CIFAR10DataModule
    from lit_cifar.training.callbacks.progress import LitProgressBar
    from lit_cifar.training.classifier import LitClassifier
    from lit_cifar.training.trainer import lean

__version__ = "0.2.0"
__all__ = ["CIFAR10DataModule", "LitClassifier", "LitProgressBar", "__version__", "lean"]

_HOMES = {
    "CIFAR10DataModule": "lit_cifar.data.datamodule",
    "LitClassifier": "lit_cifar.training.classifier",
    "LitProgressBar": "lit_cifar.training.callbacks.progress",
    "lean": "lit_cifar.training.trainer",
}

warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")  # Lightning 2.6 with torch 2.14


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lit_cifar' has no attribute {name!r}")
