"""The progress bar: it reaches its end, however long that is, and has gone before others print."""

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch.utils.data import DataLoader, IterableDataset

from lit_cifar.training.callbacks import progress

SHOWS_CURSOR = "\x1b[?25h\r"  # the last that a bar writes


class Stream(IterableDataset[torch.Tensor]):
    """Five numbers, whose count is not known beforehand."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.rand(5, 1))


class Line(pl.LightningModule):
    """Fits a line."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self.layer(batch).mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    def predict_step(self, batch: torch.Tensor) -> torch.Tensor:
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Other(pl.Callback):
    """Notes what is on the screen when it could print."""

    def __init__(self, screen: io.StringIO) -> None:
        self.screen, self.found = screen, list[str]()

    def on_predict_start(self, *args: Any) -> None:
        self.found.append(self.screen.getvalue())

    def on_predict_epoch_end(self, *args: Any) -> None:
        self.found.append(self.screen.getvalue())


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written on a terminal of 100 columns."""
    written, environment = io.StringIO(), {"TERM": "xterm"}
    terminal = Console(file=written, force_terminal=True, width=100, color_system=None, _environ=environment)
    monkeypatch.setattr(progress, "Console", lambda: terminal)
    return written


def a_trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return pl.Trainer(accelerator="cpu", callbacks=[progress.LitProgressBar(), *callbacks], **quiet, **options)


def loader(count: int) -> DataLoader[torch.Tensor]:
    return DataLoader(torch.rand(count, 1))  # type: ignore[arg-type]


def last_drawn(screen: io.StringIO) -> dict[str, str]:
    """Of each bar, the last count that was drawn."""
    return dict(re.findall(r"(Epoch [\d/]+|[VP]\w+ing) [━╸╺ ]+ *(\d+/[\d?]+)", screen.getvalue()))


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize(
    ("train", "val", "options", "expected"),
    [
        (loader(3), [loader(2), loader(4)], {"max_epochs": 1}, {"Epoch 1/1": "3/3", "Validating": "6/6"}),
        (loader(3), loader(9), {"max_epochs": 1, "limit_val_batches": 0}, {"Epoch 1/1": "3/3"}),
        (DataLoader(Stream()), None, {"max_epochs": 1}, {"Epoch 1/1": "5/5"}),
        (loader(9), None, {"max_epochs": 1, "limit_train_batches": 4}, {"Epoch 1/1": "4/4"}),
        (loader(4), None, {"max_epochs": 9, "max_steps": 6}, {"Epoch 1": "4/4", "Epoch 2": "2/2"}),
        (loader(9), None, {"max_epochs": -1, "max_steps": 2, "accumulate_grad_batches": 3}, {"Epoch 1": "6/6"}),
    ],
)
def test_a_bar_reaches_its_end(
    screen: io.StringIO, train: Any, val: Any, options: dict[str, Any], expected: dict[str, str]
) -> None:
    a_trainer(**options).fit(Line(), train, val)
    assert last_drawn(screen) == expected
    assert screen.getvalue().endswith(SHOWS_CURSOR)


def test_the_bar_of_predictions_comes_after_what_others_print_and_goes_before(screen: io.StringIO) -> None:
    other = Other(screen)
    a_trainer(other).predict(Line(), loader(3))
    before, after = other.found
    assert before == ""
    assert last_drawn(screen) == {"Predicting": "3/3"}
    assert after.endswith(SHOWS_CURSOR)
    assert screen.getvalue() == after


def test_a_dumb_terminal_gets_no_bar(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    dumb = Console(file=screen, force_terminal=True, _environ={"TERM": "dumb"})
    monkeypatch.setattr(progress, "Console", lambda: dumb)
    a_trainer().predict(Line(), loader(3))
    assert screen.getvalue() == ""
