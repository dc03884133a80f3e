"""lit_cifar.Trainer is Lightning's for every other module, and private names of Lightning are in its file alone."""

import ast
import inspect
import pickle
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar
from torch.utils.data import DataLoader, TensorDataset

import lit_cifar
from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.nets.tutorial import Net
from lit_cifar.training.callbacks.progress import LitProgressBar

PACKAGE = Path(lit_cifar.__file__).parent
LIGHTNING = ("pytorch_lightning", "lightning_fabric")
ADAPTER = PACKAGE / "training" / "trainer.py"
QUIET: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
QUIET |= {"enable_model_summary": False, "num_sanity_val_steps": 0}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(root: ast.AST) -> set[str]:
    """The private attributes, methods and functions that a piece of source defines or uses."""
    names = {node.attr for node in ast.walk(root) if isinstance(node, ast.Attribute)}
    names |= {node.name for node in ast.walk(root) if isinstance(node, ast.FunctionDef)}
    return {name for name in names if is_private(name)}


def lightnings_private_names() -> set[str]:
    """Those that trainers, loops, strategies, launchers and callbacks of Lightning define themselves."""
    folder = Path(pl.__file__).parent
    found = set()
    for part in ("trainer", "loops", "strategies", "callbacks", "core"):
        for path in (folder / part).rglob("*.py"):
            found |= private_names(ast.parse(path.read_text(encoding="utf-8")))
    return found


def private_uses(path: Path, lightnings: set[str]) -> list[str]:
    """Where a file imports, uses or overrides a private name of Lightning."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(LIGHTNING):
            found += [each.name for each in node.names if is_private(each.name)]
        if isinstance(node, ast.Attribute) and node.attr in lightnings:
            found += [] if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") else [node.attr]
    module = import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [base for base in getattr(module, node.name).__mro__ if base.__module__.startswith(LIGHTNING)]
            theirs: set[str] = set()
            for base in bases:
                theirs |= private_names(ast.parse(inspect.getsource(import_module(base.__module__))))
            found += sorted(private_names(node) & theirs)
    return [f"{path.relative_to(PACKAGE)}: {name}" for name in found]


def test_private_names_of_lightning_are_in_one_file() -> None:
    torchs = {"_is_avx512_bf16_supported", "_is_amx_tile_supported", "_backward_hooks"}
    lightnings = lightnings_private_names() - torchs
    files = [path for path in PACKAGE.rglob("*.py") if path != ADAPTER and path.name != "__main__.py"]
    found = [use for path in files for use in private_uses(path, lightnings)]
    assert found == []
    assert len(private_uses(ADAPTER, lightnings)) > 10  # the search finds those that are allowed


def test_it_takes_the_arguments_of_lightnings_trainer() -> None:
    assert inspect.signature(Trainer) == inspect.signature(pl.Trainer)


class Straight(pl.LightningModule):
    """A module that is not ours, and notes the loops and the bar that train it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.seen: list[type] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen = kinds(self.trainer)
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def kinds(trainer: pl.Trainer) -> list[type]:
    """The classes of a Trainer's loops and of its progress bar."""
    loop = trainer.fit_loop.epoch_loop
    parts = [trainer.fit_loop, loop, loop.automatic_optimization, loop.val_loop, trainer.progress_bar_callback]
    return [type(part) for part in parts]


class Look(pl.Callback):
    """Notes the loops and the bar that train."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen = kinds(trainer)


def test_only_a_litclassifier_gets_the_leaner_loops_and_they_are_put_back(pictures: Path) -> None:
    plain = kinds(pl.Trainer(**QUIET))
    look = Look()
    trainer = Trainer(max_epochs=1, callbacks=[look], **QUIET)
    assert kinds(trainer) == plain
    trainer.fit(LitClassifier(Net(3)), datamodule=CIFAR10DataModule(str(pictures), batch_size=30, val_size=0))
    assert look.seen[-1] is LitProgressBar
    for ours, lightnings in zip(look.seen[:-1], plain, strict=False):
        assert issubclass(ours, lightnings)
        assert ours is not lightnings
    assert trainer.is_lean
    assert trainer.global_step == 2
    assert kinds(trainer)[:-1] == plain[:-1]

    trainer.fit_loop.max_epochs = 2
    other, vectors = Straight(), DataLoader(TensorDataset(torch.ones(4, 2)))
    trainer.fit(other, vectors)
    assert other.seen == plain
    assert trainer.global_step == 2 + 4


class Broken(pl.Callback):
    def on_train_batch_end(self, *_: Any) -> None:
        raise MemoryError


def test_a_training_that_fails_leaves_nothing_changed(pictures: Path) -> None:
    threads, filters = torch.get_num_threads(), list(warnings.filters)
    trainer = Trainer(max_epochs=1, callbacks=[Broken()], enable_progress_bar=False, **QUIET)
    plain = kinds(trainer)
    with pytest.raises(MemoryError):
        trainer.fit(LitClassifier(Net(3)), datamodule=CIFAR10DataModule(str(pictures), val_size=0))
    assert kinds(trainer) == plain
    assert torch.get_num_threads() == threads
    assert list(warnings.filters) == filters


def test_a_bar_of_ones_own_stays_and_none_is_shown_if_it_is_disabled(pictures: Path) -> None:
    for options, bars in (({"callbacks": TQDMProgressBar()}, [TQDMProgressBar]), ({"enable_progress_bar": False}, [])):
        trainer = Trainer(max_epochs=1, **options, **QUIET)
        trainer.fit(LitClassifier(Net(3)), datamodule=CIFAR10DataModule(str(pictures), batch_size=60, val_size=0))
        assert [type(each) for each in trainer.callbacks if isinstance(each, ProgressBar)] == bars


def test_a_trainer_and_its_bar_can_be_pickled_for_a_process_that_is_spawned() -> None:
    trainer = pickle.loads(pickle.dumps(Trainer(callbacks=[LitProgressBar()], **QUIET)))
    assert [type(each) for each in trainer.callbacks] == [LitProgressBar]


@pytest.mark.parametrize(("asked", "inside"), [({}, True), ({"deterministic": False}, False)])
def test_convolutions_are_reproducible_while_it_trains_and_what_they_were_afterwards(
    asked: dict[str, Any], inside: bool
) -> None:
    seen: list[bool] = []
    look = pl.callbacks.LambdaCallback(on_train_start=lambda *_: seen.append(torch.backends.cudnn.deterministic))
    trainer = Trainer(max_epochs=1, limit_train_batches=1, callbacks=[look], **asked, **QUIET)
    trainer.fit(LitClassifier(Net()), datamodule=CIFAR10DataModule(dataset="drawn"))
    assert (seen, torch.backends.cudnn.deterministic) == ([inside], False)
