"""Lightning's training loop without what a step of LitClassifier has no use for.

Of Lightning's 0.5 ms a step, nine tenths go into moving a batch that is on its device already, collecting metrics that
nobody logged, and calling hooks that do nothing. `lean` leaves them out where that changes nothing, and only there: a
callback of yours that looks at batches or gradients, a subclass of LitClassifier, a profiler, each get Lightning's own.
"""

from collections import OrderedDict
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.optimization.automatic import _AutomaticOptimization
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch.nn.functional import cross_entropy

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.training.callbacks.best_checkpoint import BestCheckpoint
from lit_cifar.training.callbacks.progress import LitProgressBar
from lit_cifar.training.callbacks.resume_checkpoint import LastCheckpoint
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.exchange import Exchange, is_small
from lit_cifar.training.recorded import SMALL_BATCH, FusedStep, can_record
from lit_cifar.training.step import SlicedStep

OURS = (BestCheckpoint, LastCheckpoint, LitProgressBar)
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # others convert the images; the last scales the loss
BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end")
STEP_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")


def lean(trainer: Trainer) -> Trainer:
    """Gives a Trainer the lean loop; it trains other modules than LitClassifier as before."""
    loop = trainer.fit_loop.epoch_loop
    trainer.fit_loop.epoch_loop = LeanEpochLoop(trainer, loop.min_steps, loop.max_steps)
    # Where max_steps is set, Lightning takes up a finished epoch as an unfinished one, and counts it twice
    trainer.fit_loop._iteration_based_training = _never  # type: ignore[method-assign]
    return trainer


def _never() -> bool:  # and not a lambda, so that a Trainer can be pickled for a process that is spawned
    return False


class LeanEpochLoop(_TrainingEpochLoop):
    """An epoch of training and its validation."""

    def __init__(self, trainer: Trainer, min_steps: int | None, max_steps: int) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.automatic_optimization = DirectOptimization(trainer)
        self.is_lean = False
        self._callbacks: list[Callback] = []

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Decides, for this epoch, what is needed."""
        super().on_run_start(data_fetcher)
        trainer, module = self.trainer, self.trainer.lightning_module
        ours = type(module) is LitClassifier and type(trainer.datamodule) is CIFAR10DataModule
        self.is_lean = (
            ours
            and trainer.precision in PRECISIONS
            and isinstance(trainer.profiler, PassThroughProfiler)
            and not any(_overrides(c, BATCH_HOOKS + STEP_HOOKS) for c in trainer.callbacks if type(c) not in OURS)
        )
        self._callbacks = [c for c in trainer.callbacks if _overrides(c, BATCH_HOOKS)]
        if ours:
            watched = any(_overrides(c, STEP_HOOKS) for c in trainer.callbacks)
            module.direct_step = None if watched else _direct_step(module)

    def run(self, data_fetcher: _DataFetcher) -> None:
        """Trains an epoch; one that fails gives torch its threads back, for a notebook goes on."""
        try:
            super().run(data_fetcher)
        except BaseException:
            if isinstance(module := self.trainer.lightning_module, LitClassifier):
                module.use_threads(training=False)
            raise

    @property
    def done(self) -> bool:
        """As Lightning's, but a callback can't end the training before gathered gradients are used: none are saved."""
        return super().done and not (self.trainer.should_stop and self._should_accumulate())

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Trains on one batch."""
        if not self.is_lean or self.restarting:
            super().advance(data_fetcher)
            return
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        self.batch_progress.is_last_batch = data_fetcher.done
        self.batch_progress.increment_ready()
        self.batch_progress.increment_started()
        batch_and_index = OrderedDict(batch=batch, batch_idx=batch_idx)
        output = self.automatic_optimization.run(self.trainer.optimizers[0], batch_idx, batch_and_index)
        self.batch_progress.increment_processed()
        if self.trainer.lr_scheduler_configs:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self._num_ready_batches_reached():
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        for callback in self._callbacks:
            callback.on_train_batch_end(self.trainer, self.trainer.lightning_module, output, batch, batch_idx)
        self.batch_progress.increment_completed()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Validates, and lets ReduceLROnPlateau see it here, since last.ckpt is written before Lightning would."""
        super().on_advance_end(data_fetcher)
        if self._num_ready_batches_reached():
            super().update_lr_schedulers("epoch", update_plateau_schedulers=True)

    def update_lr_schedulers(self, interval: str, update_plateau_schedulers: bool) -> None:
        """As Lightning does, but for ReduceLROnPlateau at the end of an epoch: see above."""
        if interval == "step" or not update_plateau_schedulers:
            super().update_lr_schedulers(interval, update_plateau_schedulers)


class DirectOptimization(_AutomaticOptimization):
    """Steps by LitClassifier's `direct_step`, where it has one."""

    def run(self, optimizer: torch.optim.Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        """Trains on the batch, and counts like Lightning."""
        module = self.trainer.lightning_module
        if not isinstance(module, LitClassifier) or module.direct_step is None:
            return super().run(optimizer, batch_idx, kwargs)
        progress = self.optim_progress.optimizer
        progress.zero_grad.increment_ready()
        progress.zero_grad.increment_started()
        progress.zero_grad.increment_completed()
        progress.step.increment_ready()
        whole = module.train_loader.images_in_batch(batch_idx)
        module.record.see(whole)
        images, labels = kwargs["batch"]
        mine = len(labels)
        if not mine:  # in the last, short batch; but every device takes part in the exchange of gradients
            images, labels = images.new_zeros(1, *images.shape[1:]), labels.new_zeros(1)
        profiler = self.trainer.profiler  # type: ignore[attr-defined]
        with profiler.profile("[LightningModule]LitClassifier.training_step"):
            loss, counts = module.direct_step(images, labels, mine / whole)
        if mine:
            module.record.add(counts)
        module.log_step()
        progress.step.increment_completed()
        return {"loss": loss}


def _overrides(callback: Callback, hooks: tuple[str, ...]) -> bool:
    """Whether it has one of the hooks, in its class or, as LambdaCallback, on its own."""
    if (
        isinstance(callback, ModelCheckpoint)
        and callback._every_n_train_steps < 1
        and not callback._train_time_interval
    ):
        hooks = tuple(name for name in hooks if name != "on_train_batch_end")  # it does nothing there
    return any(getattr(getattr(callback, name), "__func__", None) is not getattr(Callback, name) for name in hooks)


def _direct_step(module: LitClassifier) -> FusedStep | SlicedStep | None:
    """What computes a step at once, where nothing needs Lightning's own step; on several devices, a small net's."""
    trainer, batch_size = module.trainer, module.datamodule.batch_size
    optimizer = trainer.optimizers[0]
    alone = trainer.world_size == 1
    if (
        not (alone or (_is_plain_ddp(trainer.strategy) and is_small(module.net)))
        or trainer.precision not in PRECISIONS[:2]
        or trainer.accumulate_grad_batches > 1
        or trainer.gradient_clip_val
        or torch.is_anomaly_enabled()
        or isinstance(optimizer, torch.optim.LBFGS)
        or not type(optimizer).__module__.startswith(("torch.optim.", "lit_cifar."))  # others may need a closure
    ):
        return None
    small = (
        module.device.type == "cpu"
        and trainer.precision == "32-true"
        and batch_size <= SMALL_BATCH * trainer.world_size
    )
    exchange = None if alone else Exchange(module.parameters())
    plain = module.loss is cross_entropy and not module.slice_size and not module.compiled
    if small and plain and can_record(module.net):
        before = module.direct_step  # of the last epoch: recording anew took 0.3 s
        if isinstance(before, FusedStep) and before.serves(module.net, optimizer):
            return before
        return FusedStep(module.net, module.loss, optimizer, exchange)
    context = trainer.precision_plugin.forward_context
    return SlicedStep(module.net, module.loss, optimizer, module.slice_size or batch_size, context, exchange)


def _is_plain_ddp(strategy: Strategy) -> bool:
    """Whether its gradients are averaged, and that is all."""
    return type(strategy) is DDPStrategy and strategy._ddp_comm_hook is None and strategy._layer_sync is None
