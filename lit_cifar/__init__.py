"""CIFAR-10 in PyTorch Lightning: train, test and look, with one command.

`from lit_cifar import CIFAR10DataModule, LitClassifier, RunReport, Trainer`. Each is imported when it is first used, so
that a process that only decodes pictures or answers `--help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_cifar.data.datamodule import CIFAR10DataModule
    from lit_cifar.report.run_report import RunReport
    from lit_cifar.training.classifier import LitClassifier
    from lit_cifar.training.trainer import Trainer

__version__ = "0.2.0"
__all__ = ["CIFAR10DataModule", "LitClassifier", "RunReport", "Trainer", "__version__"]

_HOMES = {
    "CIFAR10DataModule": "lit_cifar.data.datamodule",
    "LitClassifier": "lit_cifar.training.classifier",
    "RunReport": "lit_cifar.report.run_report",
    "Trainer": "lit_cifar.training.trainer",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lit_cifar' has no attribute {name!r}")
