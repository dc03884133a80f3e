"""LitClassifier: loss, optimizer and metrics around any network that turns images into logits.

It reads in the order of its life: settings, preparation, training, checkpoints. Validation and tests are in
evaluator.py, loading and predicting in predictor.py. On any number of devices, the gradient is that of the whole batch
even if the shares are uneven, and every image of an evaluation counts once.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.loader import BatchLoader
from lit_cifar.errors import UsageError, listed, require
from lit_cifar.evaluation.test_time_augmentation import Views
from lit_cifar.runs.card import TRAINER, RunCard, describe, plain
from lit_cifar.runs.checkpoint import KEY, Checkpoint, check_resumable
from lit_cifar.runs.folder import mlflow_run
from lit_cifar.training import preparation, schedules
from lit_cifar.training.callbacks.requirements import require_metrics
from lit_cifar.training.evaluator import Evaluator
from lit_cifar.training.history import DivergenceWatch
from lit_cifar.training.optimizers import Muon, admit_late_weights, freeze, frozen, make_optimizer, weights_to_train
from lit_cifar.training.predictor import EVALUATION
from lit_cifar.training.step import Batch, Share, fewest_images, moved, own_share, slice_losses, take_share
from lit_cifar.training.tested import Tested

SETTINGS = ("recipe", "slice_size", "sides", "init_from", "decay_norms_and_biases")


class LitClassifier(Evaluator):
    """Trains and tests a network on labelled images.

    Args:
        net: Network, on the command line its name, such as ResNet20, or its class path. It turns normalised images
            [N, 3, H, W] into logits [N, number of classes].
        optimizer: Any of torch.optim's, or your own, by class path.
        lr_scheduler: Any of torch.optim.lr_scheduler's, or your own, by class path.
        lr_scheduler_interval: When the scheduler advances: every "epoch" or every "step".
        loss: Mean loss of logits [N, C] and labels [N], by import path. torch's cross-entropy and NLLLoss may have
            class weights and an `ignore_index`; any other loss is taken for a mean over the images.
        slice_size: Largest number of images that go through the network at once in training, and are normalised
            together by batch normalisation; 0 for the whole batch. On a CPU, 250 is faster than 2,000.
        sides: Pairs of a share of the training, from 0 to 1, and a side in pixels: from there on, images are scaled to
            this side. By default, images keep their own.
        test_time_augmentation: Views of a test image whose logits are averaged: "none", "flip" or "flip-shift". They
            are the image itself, also its mirror image, also both shifted by a pixel. Validation uses the image itself.
        confidence_threshold: Probability of a class from which the first view of an image is enough.
        compile: Compile the network with torch.compile: a minute at the start, fewer and larger kernels afterwards.
        sync_batchnorm: On several devices, batch normalization computes mean and variance from the whole batch, or
            slice. Otherwise, each device uses its share: faster, but the result depends on the number of devices. A
            compiled network always does that.
        decay_norms_and_biases: Whether weight decay applies to normalization and biases too, as it does in torch.
            Otherwise, neither they decay nor what the network's method `no_weight_decay` names, if it has one.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=0.001, momentum=0.9),
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["epoch", "step"] = "epoch",
        loss: nn.Module | Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
        slice_size: int = 0,
        sides: Sequence[tuple[float, int]] = (),
        test_time_augmentation: Views = "none",
        confidence_threshold: float = 1.0,
        compile: bool = False,
        sync_batchnorm: bool = True,
        decay_norms_and_biases: bool = True,
    ) -> None:
        super().__init__(net, loss, test_time_augmentation, confidence_threshold)
        require(slice_size >= 0, f"--model.slice_size {slice_size} must be 0 or more")
        in_range = all(0 <= share < 1 and 8 <= side <= 224 for share, side in sides)
        require(in_range, f"--model.sides {[*sides]} must be pairs of a share from 0 to 1 and a side from 8 to 224")
        self.make_optimizer, self.decay_norms_and_biases = optimizer, decay_norms_and_biases
        self.make_lr_scheduler, self.lr_scheduler_interval = lr_scheduler, lr_scheduler_interval
        self.slice_size, self.sides, self.compiled = slice_size, sorted(sides), compile
        self.sync_batchnorm = sync_batchnorm
        self.lr: float | None = None  # found by Lightning's LearningRateFinder, in place of the optimizer's own
        self.init_from: str | None = None  # path of the checkpoint that the weights are from
        self._checked: tuple[Any, ...] = ()
        self._finding = False  # whether one of Lightning's finders tries rates or batch sizes, up to those that fail
        self._watch: DivergenceWatch | None = None
        self._frozen: list[str] | None = None  # names of weights that a resumed training does not train

    def syncs_batchnorm(self, processes: int) -> bool:
        """Returns whether batch normalization sees the images of all processes."""
        return processes > 1 and self.sync_batchnorm and not self.compiled

    def check(self, data: CIFAR10DataModule, trainer: Any, train: bool) -> None:
        """Raises UsageError unless net, loss, optimizer and schedule fit the data; a second call returns at once."""
        batches, processes = schedules.batches_of_an_epoch(trainer, data) if train else 0, trainer.world_size
        parts = (self.net, self.loss, self.make_optimizer, data.classes, data.image_size, batches, processes)
        if self._checked != parts:
            sides = [side for _, side in self.sides]
            # After fit, a compiled network is on the CPU, for which it is not compiled
            with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
                preparation.require_fit(self.net, self.loss, sides, data)
                if batches:
                    schedules.batches_before(trainer, data, data.augmentation.mix_until, 0)  # or refuses
                    options = {"processes": processes, "sync_batchnorm": self.syncs_batchnorm(processes)}
                    fewest = partial(fewest_images, slice_size=self.slice_size, **options)
                    preparation.require_trainable(self.net, sides, data, batches, fewest)
            optimizer, make = self.new_optimizer(), self.make_lr_scheduler
            if train and make:
                schedules.try_schedule(make, optimizer, self.lr_scheduler_interval, trainer, data)
            self._checked = parts

    def new_optimizer(self, weights: Iterable[nn.Parameter] | None = None) -> torch.optim.Optimizer:
        """Makes an optimizer of these weights, by default all, or raises UsageError if it can't be one."""
        weights = self.parameters() if weights is None else weights
        return make_optimizer(self.make_optimizer, weights, None if self.decay_norms_and_biases else self)

    def make_card(self, data: CIFAR10DataModule | None, trainer: Any = None) -> RunCard:
        """Returns what trains on these data, or on a user's own, with a Trainer."""
        parts: dict[str, Any] = {
            "optimizer": self.make_optimizer,
            "lr_scheduler": self.make_lr_scheduler,
            "loss": self.loss,
        }
        parts |= {"transform": data.augmentation.transform if data else None}
        described: dict[str, Any] = {name: part and describe(part) for name, part in parts.items()} | self.described
        transform = described.pop("transform")
        if described["lr_scheduler"]:
            described["lr_scheduler"] |= {"interval": self.lr_scheduler_interval}
        if self.lr is not None:
            optimizer = described["optimizer"]
            described["optimizer"] = optimizer | {"init_args": optimizer["init_args"] | {"lr": self.lr}}
        own: dict[str, Any] = {"dataset": "own", "images": 0, "augmentation": {}, "val_size": 0, "batch_size": 0}
        values = (described | own) | {
            **{name: getattr(self, name) for name in (*SETTINGS, *EVALUATION)},
            **{name: getattr(data or self, name) for name in ("classes", "mean", "std", "image_size", "resize")},
            "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),  # of Lightning's seed_everything
            "trainer": {name: getattr(trainer, name) for name in TRAINER} if trainer else {},
        }
        if data:
            values |= {name: getattr(data, name) for name in ("labels", "val_size", "batch_size", "seed")}
            values |= {"dataset": data.images.kind, "images": data.checksum}
            values |= {"augmentation": vars(data.augmentation) | {"transform": transform}}
            _, indices, changed, described = data.training_set
            values |= {"training_set": described, "train_size": len(indices), "changed_labels": changed}
        return RunCard(**{name: plain(value, name) for name, value in values.items()})

    def setup(self, stage: str) -> None:
        preparation.keep_freed_memory()
        finders = (LearningRateFinder, BatchSizeFinder)
        if stage == "fit":
            self.tested = None
            self._finding = any(isinstance(each, finders) for each in self.trainer.callbacks)  # type: ignore[attr-defined]
        if self.has_own_data:
            self.example_input_array = None  # their size is not known yet
            preparation.require_own_data_fit(self.net, self.sides, self.whitened)
        else:
            self._prepare(self.datamodule, stage)
        if stage == "fit" and self.compiled:
            preparation.compile_net(self.net, self.trainer.strategy.root_device)  # where the network will be moved
        self.card = self.make_card(None if self.has_own_data else self.datamodule, self.trainer)
        self.loss = moved(self.loss, self.trainer.strategy.root_device)
        if self.classes:
            self.know(self.classes)

    def _prepare(self, data: CIFAR10DataModule, stage: str) -> None:
        self.know_images(data, *((self.mean, self.std) if stage != "fit" else ()))
        self.check(data, self.trainer, train=stage == "fit")
        if stage != "fit":
            return
        if type(self) is LitClassifier:  # a subclass may log metrics of its own
            validates = bool(data.val_size and self.trainer.limit_val_batches)
            require_metrics(self.trainer, data.classes, validates, self.make_lr_scheduler)
        if not self.whitened:
            preparation.whiten(self.net, data)
            self.whitened = True

    def configure_optimizers(self) -> Any:
        optimizer = self.new_optimizer(weights_to_train(self, self.trainer, self.make_lr_scheduler is not None))
        admit_late_weights(optimizer)
        if isinstance(optimizer, Muon):
            optimizer.use_precision(str(self.trainer.precision))
        for group in optimizer.param_groups if self.lr is not None else ():
            group["lr"] = self.lr
        if self.make_lr_scheduler is None:
            return optimizer
        interval, data = self.lr_scheduler_interval, self.trainer.datamodule  # type: ignore[attr-defined]
        scheduler = schedules.make_schedule(self.make_lr_scheduler, optimizer, interval, self.trainer, data)
        config = {"scheduler": scheduler, "interval": interval}
        return {"optimizer": optimizer, "lr_scheduler": config | {"monitor": getattr(scheduler, "monitor", None)}}

    def on_fit_start(self) -> None:
        if self._finding:  # what was found changes optimizer, schedule and card
            self.trainer.strategy.setup_optimizers(self.trainer)
            self._finding = False
            self.card = self.make_card(None if self.has_own_data else self.datamodule, self.trainer)

    def on_train_start(self) -> None:
        if self._frozen is not None:  # callbacks may have begun anew
            freeze(self, self._frozen)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):  # see _begin_epoch, below
                callback.on_train_epoch_start(self.trainer)
        self._watch = None if self._finding else DivergenceWatch(self.trainer, self.net, self.loss)
        self.record.begin(self.trainer, self.device)
        self._begin_epoch()  # on_train_epoch_start is not called if a run resumes in mid-epoch
        for config in self.trainer.lr_scheduler_configs:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            schedules.require_room(config.scheduler, config.interval, self.trainer, data)

    def _begin_epoch(self) -> None:
        if begin := getattr(self.net, "begin_epoch", None):
            begin(schedules.share_done(self.trainer, self.current_epoch))

    def on_train_epoch_start(self) -> None:
        self._begin_epoch()
        if isinstance(loader := self.trainer.train_dataloader, BatchLoader):  # not a user's own
            schedules.begin_epoch(loader, self.sides, self.trainer)

    def share(self, batch: Batch, batch_idx: int) -> Share:
        """Returns the Share that this process has of a training batch."""
        rank, processes, loader = self.trainer.global_rank, self.trainer.world_size, self.trainer.train_dataloader
        if isinstance(loader, BatchLoader) and loader.world_size == processes:
            whole = batch[1] if processes == 1 else loader.labels_in_batch(batch_idx)
            share = take_share(batch, whole, self.loss, self.slice_size, rank, processes)
        else:
            self.look_at(batch)
            labels = [batch[1]] if processes == 1 else gather_all_tensors(batch[1])
            share = own_share(batch, labels, self.loss, self.slice_size)
        return share._replace(sync_batchnorm=True) if self.syncs_batchnorm(processes) else share

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss whose gradient, averaged over the devices, is that of the whole batch."""
        share = self.share(batch, batch_idx)
        parts, counts = zip(*slice_losses(share, self, self.loss), strict=True)
        self.record.add(share, torch.stack(counts).sum(0))
        return torch.stack(parts).sum() * share.processes

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.log_step()  # before any hook that may write a checkpoint

    def log_step(self) -> None:
        self.record.log(self.trainer, self.global_step + 1, self._watch)

    def on_train_end(self) -> None:
        self._frozen = None
        self._update_record()
        self._watch = None

    def _update_record(self) -> None:
        if self._watch:
            self._watch.require_finite_weights()
        assert self.card is not None
        self.record.update(self.trainer, self.card.batch_size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what `test` needs to build network and data, and what `fit` needs to go on bit for bit."""
        if self.trainer.state.fn == "fit":
            self._update_record()
        assert self.card is not None
        self.card = replace(self.card, classes=[*self.classes])  # those of own data are known by now
        card, history = self.card.as_dict(), self.record.state_dict(self.trainer)
        run = {"card": card, "history": history, "mlflow_run": mlflow_run(self.loggers), "frozen": frozen(self)}
        checkpoint[KEY] = run

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        card = RunCard.from_dict(checkpoint[KEY]["card"])
        assert self.card is not None
        if self.has_own_data:
            self.know(tuple(card.classes))
            self.card, self.whitened = replace(self.card, classes=card.classes), True
        elif tuple(card.classes) != self.datamodule.classes:
            known, found = listed(card.classes), listed(self.datamodule.classes)
            sentence = f"The network knows the classes {known}, but {self.datamodule.title} has {found};"
            raise UsageError("data-classes", f"{sentence} use other images with --data.root, or another --ckpt_path")
        if self.trainer.state.fn == "fit" and card.recipe == self.card.recipe == "python":
            root = Path() if self.has_own_data else self.datamodule.root
            check_resumable(Checkpoint(Path(str(self.trainer.ckpt_path)), card, checkpoint), self.card, root)
        if self.trainer.state.fn != "fit":  # what was trained, tested as it is now
            if not self.has_own_data:
                self.know_images(self.datamodule, card.mean, card.std)
            self.card = replace(card, **{name: getattr(self.card, name) for name in ("dataset", "images", *EVALUATION)})
            history = checkpoint[KEY]["history"]
            self.tested = Tested.of(self.trainer.ckpt_path, history["trained"], history.get("validated"))
        elif (names := checkpoint[KEY].get("frozen")) is not None:
            self._frozen = names
            freeze(self, names)  # before the optimizer is made
        self.record.load_state_dict(checkpoint[KEY]["history"], self.trainer)
        own = self.state_dict().keys()  # a loss may have weights, and another loss may be used for a test
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weights[name] for name in weights if name.startswith("net.") or name in own}
