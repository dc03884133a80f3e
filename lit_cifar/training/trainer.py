"""Trainer: Lightning's, with a leaner loop for LitClassifier. No other file uses private names of Lightning.

Lightning's loop adds 0.5 ms to a step, of which nine tenths move a batch that is already on its device, collect metrics
that nobody logged, and call hooks that do nothing. The leaner loop leaves them out. A callback that looks at batches or
gradients, a subclass of LitClassifier, a profiler, or any other module gets Lightning's own loop.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateFinder, ModelCheckpoint, ProgressBar, WeightAveraging
from pytorch_lightning.loops import _EvaluationLoop, _FitLoop, _TrainingEpochLoop  # type: ignore[attr-defined]
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.optimization.automatic import _AutomaticOptimization
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from pytorch_lightning.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from rich.console import Console

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.loader import BatchLoader
from lit_cifar.errors import UsageError
from lit_cifar.training.callbacks.progress import LitProgressBar
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.quiet import quiet
from lit_cifar.training.recorded import RecordedStep, can_record
from lit_cifar.training.step import HOOKS, DirectStep, GradientExchange, torch_threads

SMALL_BATCH = 8  # images of a process up to which one CPU thread is as fast as two, and a recorded step is worth it
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # others convert the images; the last one scales the loss
BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end")
STEP_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
IN_NOTEBOOK = "in a notebook, use devices=1; for several, run !python -m lit_cifar fit --trainer.devices N in a cell"


class Trainer(pl.Trainer):
    """Lightning's Trainer, but with a leaner loop and, by default, LitProgressBar for a LitClassifier."""

    @wraps(pl.Trainer.__init__)  # type: ignore[misc]  # the arguments are those of the command line
    def __init__(self, **options: Any) -> None:
        asked = options.get("callbacks") or []
        has_bar = any(isinstance(each, ProgressBar) for each in ([asked] if isinstance(asked, pl.Callback) else asked))
        with quiet():
            super().__init__(**options)
        if isinstance(self.strategy.launcher, _MultiProcessingLauncher) and Console().is_jupyter:
            raise UsageError("notebook-devices", IN_NOTEBOOK)
        self._default_bar = None if has_bar else self.progress_bar_callback
        self._reproducible = options.get("deterministic") is None
        self.is_lean = False  # whether the last epoch of a LitClassifier was trained by the leaner loop
        self.direct_step: DirectStep | None = None  # computed its steps, if nothing stood against it

    def _run(self, model: pl.LightningModule, *args: Any, **kwargs: Any) -> Any:
        ours = isinstance(model, LitClassifier)
        if self._default_bar is not None and ours is not isinstance(self.progress_bar_callback, LitProgressBar):
            bar = LitProgressBar() if ours else self._default_bar  # first, so that it has gone when others print
            others = [each for each in self.callbacks if not isinstance(each, ProgressBar)]  # type: ignore[has-type]
            self.callbacks = [bar, *others] if ours else [*others, bar]
        if not ours:
            return super()._run(model, *args, **kwargs)
        self._threads = torch.get_num_threads()
        epoch_loop = self.fit_loop.epoch_loop
        loops: list[Any] = [self.fit_loop, epoch_loop, epoch_loop.automatic_optimization, epoch_loop.val_loop]
        loops.append(self._logger_connector)
        leaner = [FitLoop, EpochLoop, Optimization, ValidationLoop, LoggerConnector]
        with quiet(), ExitStack() as afterwards:
            if [type(loop) for loop in loops] == [kind.__base__ for kind in leaner]:  # the user replaced none of them
                for loop, kind in zip(loops, leaner, strict=True):  # their state stays where it is
                    afterwards.callback(setattr, loop, "__class__", type(loop))
                    loop.__class__ = kind
            if self._reproducible:
                afterwards.enter_context(reproducible_convolutions())
            return super()._run(model, *args, **kwargs)

    def plan_epoch(self, module: LitClassifier) -> None:
        """Decides how the steps of an epoch are computed."""
        data = type(self.datamodule) is CIFAR10DataModule and isinstance(self.train_dataloader, BatchLoader)  # type: ignore[attr-defined]
        ours = data and type(module) is LitClassifier
        others = [c for c in self.callbacks if not type(c).__module__.startswith("lit_cifar.training.callbacks.")]
        plain = self.precision in PRECISIONS and isinstance(self.profiler, PassThroughProfiler)  # type: ignore[attr-defined]
        self.is_lean = ours and plain and not any(_overrides(each, _unknown_hooks(each)) for each in others)
        watched = any(_overrides(callback, STEP_HOOKS) for callback in self.callbacks)
        self.direct_step = self._direct_step(module) if ours and not watched else None

    def _direct_step(self, module: LitClassifier) -> DirectStep | None:
        """Chooses what computes a step at once, if nothing needs Lightning's own."""
        optimizer, alone, strategy = self.optimizers[0], self.world_size == 1, self.strategy
        plain_ddp = type(strategy) is DDPStrategy and strategy._ddp_comm_hook is None and strategy._layer_sync is None
        if (
            not (alone or (plain_ddp and GradientExchange.serves(module.net)))
            or self.precision not in PRECISIONS[:2]
            or self.accumulate_grad_batches > 1
            or self.gradient_clip_val
            or torch.is_anomaly_enabled()
            or _has_hooks(module)
            or isinstance(optimizer, torch.optim.LBFGS)
            or not type(optimizer).__module__.startswith(("torch.optim.", "lit_cifar."))  # others may need a closure
        ):
            return None
        exchange = None if alone else GradientExchange(module.parameters())
        plain = module.loss is torch.nn.functional.cross_entropy and not module.slice_size and not module.compiled
        if plain and self.precision == "32-true" and self.has_small_batches(module) and can_record(module.net):
            step = self.direct_step  # of the last epoch: to record again takes 0.3 s
            parts = (module.net, module.loss, optimizer)
            if not (isinstance(step, RecordedStep) and step.serves(*parts) and step.is_same()):
                step = RecordedStep(*parts, exchange)
            if step.is_valid():
                return step
        return DirectStep(module.net, module.loss, optimizer, exchange, self.precision_plugin.forward_context)

    def has_small_batches(self, module: LitClassifier) -> bool:  # for which one CPU thread is enough
        if module.has_own_data or module.device.type != "cpu":
            return False
        return module.datamodule.batch_size <= SMALL_BATCH * self.world_size


@contextmanager
def reproducible_convolutions() -> Iterator[None]:
    """Lets cuDNN choose only algorithms whose sums always have the same order, so that no bit changes between runs."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


class FitLoop(_FitLoop):
    """Repeats epochs; with max_steps, Lightning would resume a finished one as unfinished, and count it twice."""

    def _iteration_based_training(self) -> bool:
        return False


class EpochLoop(_TrainingEpochLoop):
    """An epoch of training and its validation."""

    trainer: Trainer

    def run(self, data_fetcher: _DataFetcher) -> None:
        module = cast(LitClassifier, self.trainer.lightning_module)
        self.trainer.plan_epoch(module)
        self._batch_end_callbacks = [c for c in self.trainer.callbacks if _overrides(c, BATCH_HOOKS)]
        with torch_threads(1 if self.trainer.has_small_batches(module) else self.trainer._threads):
            super().run(data_fetcher)

    @property
    def done(self) -> bool:
        """Lets a callback end the training only after accumulated gradients are used: no checkpoint holds them."""
        return super().done and not (self.trainer.should_stop and self._should_accumulate())

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if not self.trainer.is_lean or self.restarting:
            super().advance(data_fetcher)
            return
        (batch, _, _), batch_idx = next(data_fetcher), self.batch_idx + 1
        self.batch_progress.is_last_batch = data_fetcher.done
        self.batch_progress.increment_ready()
        self.batch_progress.increment_started()
        arguments = OrderedDict(batch=batch, batch_idx=batch_idx)
        output = self.automatic_optimization.run(self.trainer.optimizers[0], batch_idx, arguments)
        self.batch_progress.increment_processed()
        if self.trainer.lr_scheduler_configs:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self._num_ready_batches_reached():
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        for callback in self._batch_end_callbacks:
            callback.on_train_batch_end(self.trainer, self.trainer.lightning_module, output, batch, batch_idx)
        self.batch_progress.increment_completed()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Lets ReduceLROnPlateau see a validation at once: last.ckpt is written before Lightning would."""
        super().on_advance_end(data_fetcher)
        if self._num_ready_batches_reached():
            super().update_lr_schedulers("epoch", update_plateau_schedulers=True)

    def update_lr_schedulers(self, interval: str, update_plateau_schedulers: bool) -> None:
        if interval == "step" or not update_plateau_schedulers:  # see above
            super().update_lr_schedulers(interval, update_plateau_schedulers)

    def _broadcast_sigterm_tensor(self) -> None:
        """Leaves SIGTERM to a callback that answers it: in a signal handler, Lightning's collective can deadlock."""
        if not any(getattr(callback, "answers_signals", False) for callback in self.trainer.callbacks):
            super()._broadcast_sigterm_tensor()


class ValidationLoop(_EvaluationLoop):
    """A validation during training; its batches are large."""

    trainer: Trainer

    def run(self) -> Any:
        with torch_threads(self.trainer._threads):
            return super().run()


class LoggerConnector(_LoggerConnector):
    """Gives the accuracies per class of a test to the Trainer's caller alone: one point makes no curve."""

    def log_eval_end_metrics(self, metrics: dict[str, Any]) -> None:
        super().log_eval_end_metrics({name: metrics[name] for name in metrics if not name.startswith("test_class/")})


class Optimization(_AutomaticOptimization):
    """A step of training, by the Trainer's direct step if it has one; counts like Lightning."""

    trainer: Trainer

    def run(self, optimizer: torch.optim.Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        step, module = self.trainer.direct_step, cast(LitClassifier, self.trainer.lightning_module)
        if step and (not step.serves(module.net, module.loss, optimizer) or _has_hooks(module)):  # since a callback
            self.trainer.plan_epoch(module)
            step = self.trainer.direct_step
        if step is None:
            return super().run(optimizer, batch_idx, kwargs)
        progress = self.optim_progress.optimizer
        progress.zero_grad.increment_ready()
        progress.zero_grad.increment_started()
        progress.zero_grad.increment_completed()
        progress.step.increment_ready()
        share = module.share(kwargs["batch"], batch_idx)
        with self.trainer.profiler.profile("[LightningModule]LitClassifier.training_step"):  # type: ignore[attr-defined]
            loss, counts = step(share)
        module.record.add(share, counts)
        module.log_step()
        progress.step.increment_completed()
        return {"loss": loss}


def _has_hooks(module: LitClassifier) -> bool:
    """Returns whether the module itself has hooks, which only Lightning's own step would call."""
    return any(vars(module)[name] for name in HOOKS)


def _overrides(callback: pl.Callback, hooks: tuple[str, ...]) -> bool:
    """Returns whether a callback has one of the hooks, in its class or, like LambdaCallback, on its own."""
    checkpoint = isinstance(callback, ModelCheckpoint)
    if checkpoint and callback._every_n_train_steps < 1 and not callback._train_time_interval:  # type: ignore[attr-defined]
        hooks = tuple(name for name in hooks if name != "on_train_batch_end")  # which does nothing then
    return any(getattr(getattr(callback, name), "__func__", None) is not getattr(pl.Callback, name) for name in hooks)


def _unknown_hooks(callback: pl.Callback) -> tuple[str, ...]:
    """Returns the hooks for which a callback needs Lightning's loop; to average weights, ours will do."""
    averages = getattr(callback.on_train_batch_end, "__func__", None) is WeightAveraging.on_train_batch_end
    return (BATCH_HOOKS[:1] if averages else BATCH_HOOKS) + STEP_HOOKS


def is_between_steps(trainer: pl.Trainer) -> bool:
    """Returns whether a checkpoint written now would be complete.

    It isn't if gradients wait for those of the next batch, or if validation or the end of the epoch is next: Lightning
    would resume behind it. Validation after every batch does not count: there would be no time.
    """
    loop = trainer.fit_loop
    if loop._should_accumulate() or loop.epoch_loop._num_ready_batches_reached():
        return False
    assert loop._data_fetcher is not None
    return trainer.val_check_batch == 1 or not loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def learning_rate_is_updated(callback: LearningRateFinder) -> bool:
    """Returns whether a LearningRateFinder sets the rate that it finds."""
    return bool(callback._update_attr)


def refuse_spawned(trainer: pl.Trainer, strategy: str) -> None:
    """Raises UsageError for strategies that spawn or fork processes: they are for notebooks, and reports get lost."""
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise UsageError("value-invalid", f"--trainer.strategy {strategy} is for notebooks; use ddp")
