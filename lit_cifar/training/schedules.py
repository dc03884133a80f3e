"""Schedules that torch does not have."""

from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler


class LinearToZero(LRScheduler):
    """Lets every learning rate fall in a straight line to 0 at the end of training, and rise from 0 before.

    With a rise it is the one cycle of Smith and Topin (arXiv 1708.07120), as in David Page's "How to train
    your ResNet".

    Args:
        optimizer: Whose rates fall.
        total_steps: Steps of the training; by default, as many as it has, also where it is resumed and prolonged.
        rise: Share of the training in which the rates rise.

    Raises:
        ValueError: `rise` is not from 0 to 1.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, total_steps: int | None = None, rise: float = 0.0) -> None:
        if not 0 <= rise < 1:
            raise ValueError(f"rise {rise} must be from 0 to 1")
        self.total_steps, self.rise = total_steps, rise
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The rates of this step."""
        if self.total_steps is None:
            share = 1.0
        else:
            top = self.rise * self.total_steps
            left = (self.total_steps - self.last_epoch) / max(1, self.total_steps - top)
            share = max(0.0, min(1.0, left, (self.last_epoch + 1) / (top + 1)))
        return [float(rate) * share for rate in self.base_lrs]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there; how long the training is now, it has been told anew."""
        super().load_state_dict(state_dict | {"total_steps": self.total_steps, "rise": self.rise})
        if self.total_steps is not None:
            self._last_lr = [*self.get_lr()]
            for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
                group["lr"] = rate  # of the next step, which is another where the length is
