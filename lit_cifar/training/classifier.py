"""LitClassifier: loss, optimizer and metrics around any network that turns images into logits.

It reads in the order of its life: settings, preparation, training, evaluation, checkpoints. Loading and predicting are
in predictor.py. On any number of devices, the gradient is that of the whole batch even if the shares are uneven, and
every image of an evaluation counts once.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pytorch_lightning.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.loader import BatchLoader
from lit_cifar.errors import UsageError, require
from lit_cifar.evaluation import metrics as evaluation
from lit_cifar.evaluation.test_time_augmentation import Views
from lit_cifar.runs.card import TRAINER, RunCard, describe, plain
from lit_cifar.runs.checkpoint import KEY, Checkpoint, check_resumable
from lit_cifar.runs.folder import mlflow_run
from lit_cifar.training.callbacks.requirements import require_metrics
from lit_cifar.training.history import DivergenceWatch, TrainingRecord
from lit_cifar.training.optimizers import Muon, admit_late_weights, freeze, frozen, weights_to_train
from lit_cifar.training.predictor import EVALUATION, Predictor
from lit_cifar.training.preparation import compile_net, keep_freed_memory, require_fit, require_trainable, whiten
from lit_cifar.training.schedules import batches_of_an_epoch, make_schedule, require_room, share_done
from lit_cifar.training.step import Batch, Share, fewest_images, mean_loss, slice_losses, take_share


class LitClassifier(Predictor):
    """Trains and tests a network on labelled images.

    Args:
        net: Network that turns normalised images [N, 3, 32, 32] into logits [N, number of classes].
        optimizer: Any of torch.optim's, or your own, by class path.
        lr_scheduler: Any of torch.optim.lr_scheduler's, or your own, by class path.
        lr_scheduler_interval: Whether the scheduler advances every epoch or every step.
        loss: Mean loss of logits [N, C] and labels [N], by import path. torch's cross-entropy and NLLLoss may have
            class weights and an `ignore_index`; any other loss is taken for a mean over the images.
        slice_size: Largest number of images that go through the network at once in training, and are normalised
            together by batch normalisation; 0 for the whole batch. On a CPU, 250 is faster than 2,000.
        sides: Pairs of a share of the training, from 0 to 1, and a side in pixels: from there on, images are scaled to
            this side. By default, images keep their own.
        test_time_augmentation: Views of a test image whose logits are averaged: the image itself (none), also its
            mirror image (flip), also both shifted by a pixel (flip-shift). Validation uses the image itself.
        confidence_threshold: Probability of a class from which the first view of an image is enough.
        compile: Compile the network with torch.compile: a minute at the start, fewer and larger kernels afterwards.
        sync_batchnorm: On several devices, batch normalization computes mean and variance from the whole batch, or
            slice. Otherwise, each device uses its share: faster, but the result depends on the number of devices. A
            compiled network always does that.
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
    ) -> None:
        super().__init__(net, test_time_augmentation, confidence_threshold)
        require(slice_size >= 0, f"--model.slice_size {slice_size} must be 0 or more")
        in_range = all(0 <= share < 1 and 8 <= side <= 224 for share, side in sides)
        require(in_range, f"--model.sides {[*sides]} must be pairs of a share from 0 to 1 and a side from 8 to 224")
        self.make_optimizer, self.loss = optimizer, loss
        self.make_lr_scheduler, self.lr_scheduler_interval = lr_scheduler, lr_scheduler_interval
        self.slice_size, self.sides, self.compiled = slice_size, sorted(sides), compile
        self.sync_batchnorm = sync_batchnorm
        self.lr: float | None = None  # found by Lightning's LearningRateFinder, in place of the optimizer's own
        self.init_from: str | None = None  # path of the checkpoint that the weights are from
        self.record = TrainingRecord()
        self.test_logits: list[Tensor] = []  # `[n, C]` of each batch of the last test: the share of this rank
        self._checked: tuple[Any, ...] = ()
        self._finding = False  # whether one of Lightning's finders tries rates or batch sizes, up to those that fail
        self._watch: DivergenceWatch | None = None
        self._frozen: list[str] | None = None  # names of weights that a resumed training does not train

    @property
    def datamodule(self) -> CIFAR10DataModule:
        return cast(CIFAR10DataModule, self.trainer.datamodule)  # type: ignore[attr-defined]

    def syncs_batchnorm(self, processes: int) -> bool:
        """Returns whether batch normalization sees the images of all processes."""
        return processes > 1 and self.sync_batchnorm and not self.compiled

    def check(self, datamodule: CIFAR10DataModule, trainer: Any, train: bool) -> None:
        """Raises UsageError unless network, loss and optimizer fit the data; a second call returns at once."""
        batches, processes = batches_of_an_epoch(trainer, datamodule) if train else 0, trainer.world_size
        parts = (self.net, self.loss, self.make_optimizer, datamodule.classes, batches, processes)
        if self._checked != parts:
            sides = [side for _, side in self.sides]
            # After fit, a compiled network is on the CPU, for which it is not compiled
            with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
                require_fit(self.net, self.loss, sides, datamodule)
                if batches:
                    sync = self.syncs_batchnorm(processes)
                    fewest = partial(
                        fewest_images, slice_size=self.slice_size, processes=processes, sync_batchnorm=sync
                    )
                    require_trainable(self.net, sides, datamodule, batches, fewest)
            self.new_optimizer()
            self._checked = parts

    def new_optimizer(self, weights: Iterable[nn.Parameter] | None = None) -> torch.optim.Optimizer:
        """Makes an optimizer, or raises UsageError if it refuses its arguments or is for sparse gradients."""
        try:
            optimizer = self.make_optimizer(self.parameters() if weights is None else weights)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError("optimizer-refused", f"--model.optimizer: {error}") from error
        if isinstance(optimizer, torch.optim.SparseAdam):
            raise UsageError("optimizer-refused", "--model.optimizer SparseAdam is for sparse gradients; use another")
        return optimizer

    def make_card(self, data: CIFAR10DataModule, trainer: Any = None) -> RunCard:
        """Returns what trains on these data with a Trainer."""
        parts: dict[str, Any] = {
            "optimizer": self.make_optimizer,
            "lr_scheduler": self.make_lr_scheduler,
            "loss": self.loss,
        }
        parts |= {"transform": data.augmentation.transform}
        described: dict[str, Any] = {name: part and describe(part) for name, part in parts.items()} | self.described
        augmentation = vars(data.augmentation) | {"transform": described.pop("transform")}
        if described["lr_scheduler"]:
            described["lr_scheduler"] |= {"interval": self.lr_scheduler_interval}
        if self.lr is not None:
            optimizer = described["optimizer"]
            described["optimizer"] = optimizer | {"init_args": optimizer["init_args"] | {"lr": self.lr}}
        values = described | {
            **{name: getattr(data, name) for name in ("val_size", "batch_size", "seed", "classes", "mean", "std")},
            **{name: getattr(self, name) for name in ("recipe", "slice_size", "sides", "init_from", *EVALUATION)},
            "dataset": data.images.kind,
            "images": data.checksum,
            "augmentation": augmentation,
            "trainer": {name: getattr(trainer, name) for name in TRAINER} if trainer else {},
        }
        return RunCard(**{name: plain(value, name) for name, value in values.items()})

    def setup(self, stage: str) -> None:
        keep_freed_memory()
        data = self.datamodule
        self.classes, self.mean, self.std = data.classes, data.mean, data.std
        self.check(data, self.trainer, train=stage == "fit")
        if stage == "fit":
            finders = (LearningRateFinder, BatchSizeFinder)
            if type(self) is LitClassifier:  # a subclass may log metrics of its own
                validates = bool(data.val_size and self.trainer.limit_val_batches)
                require_metrics(self.trainer, data.classes, validates, self.make_lr_scheduler)
            self._finding = any(isinstance(each, finders) for each in self.trainer.callbacks)  # type: ignore[attr-defined]
            if not self.whitened:
                whiten(self.net, data)
                self.whitened = True
            if self.compiled:
                compile_net(self.net, self.trainer.strategy.root_device)  # where the network will be moved
        self.card = self.make_card(data, self.trainer)
        self.val_metrics, self.test_metrics = (evaluation.metrics(len(self.classes)) for _ in range(2))

    def configure_optimizers(self) -> Any:
        optimizer = self.new_optimizer(weights_to_train(self, self.trainer, self.make_lr_scheduler is not None))
        admit_late_weights(optimizer)
        if isinstance(optimizer, Muon):
            optimizer.use_precision(str(self.trainer.precision))
        for group in optimizer.param_groups if self.lr is not None else ():
            group["lr"] = self.lr
        if self.make_lr_scheduler is None:
            return optimizer
        scheduler = make_schedule(self.make_lr_scheduler, optimizer, self.lr_scheduler_interval, self.trainer)
        config = {"scheduler": scheduler, "interval": self.lr_scheduler_interval}
        return {"optimizer": optimizer, "lr_scheduler": config | {"monitor": getattr(scheduler, "monitor", None)}}

    def on_fit_start(self) -> None:
        if self._finding:  # what was found changes optimizer, schedule and card
            self.trainer.strategy.setup_optimizers(self.trainer)
            self._finding = False
            self.card = self.make_card(self.datamodule, self.trainer)

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
            require_room(config.scheduler, config.interval, self.trainer)

    def _begin_epoch(self) -> None:
        if begin := getattr(self.net, "begin_epoch", None):
            begin(share_done(self.trainer, self.current_epoch))

    def on_train_epoch_start(self) -> None:
        self._begin_epoch()
        middle = share_done(self.trainer, self.current_epoch + 0.5)
        sides = [side for share, side in self.sides if share <= middle]
        epoch = 0 if self.trainer.overfit_batches else self.current_epoch  # type: ignore[attr-defined]  # the same images
        cast(BatchLoader, self.trainer.train_dataloader).set_epoch(epoch, sides[-1] if sides else None)

    def share(self, batch: Batch, batch_idx: int) -> Share:
        """Returns the Share that this process has of a training batch."""
        rank, processes, whole = self.trainer.global_rank, self.trainer.world_size, batch[1]
        if processes > 1:
            whole = cast(BatchLoader, self.trainer.train_dataloader).labels_in_batch(batch_idx)
        share = take_share(batch, whole, self.loss, self.slice_size, rank, processes)
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
        self.record.update(self.trainer, self.datamodule.batch_size)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._count(batch, self.val_metrics, self)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            self.val_metrics.reset()
            return
        self.val_results = self._log_metrics("val", self.val_metrics, self.global_step)
        if self.trainer.state.fn == "fit":
            self.record.curves["val/loss"].append((self.global_step, float(self.val_results["loss"])))

    def on_test_epoch_start(self) -> None:
        self.test_logits.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.test_logits.append(self._count(batch, self.test_metrics, self.mean_logits))

    def on_test_epoch_end(self) -> None:
        # one step after the last of training: a run resumed from its end drops these points and logs them again
        self.test_results = self._log_metrics("test", self.test_metrics, self.record.trained["steps"] + 1)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns probabilities `[B, C]`."""
        return self.mean_logits(batch[0]).softmax(1)

    def _count(self, batch: Batch, metrics: MetricCollection, net: Callable[[Tensor], Tensor]) -> Tensor:
        images, labels = batch
        if not len(labels):
            return images.new_empty(0, len(self.classes))  # an empty share of the last, short batch
        logits = net(images).float()
        loss, by = mean_loss(self.loss, logits, labels)
        if isinstance(by, int):  # new_full, because to copy a number would wait for the GPU
            loss, by = loss.expand(by), loss.new_full((), by)
        else:
            loss = loss * by
        metrics["loss"].update(loss)
        metrics["divisor"].update(by)
        metrics["confusion_matrix"].update(logits, labels)
        return logits

    def _log_metrics(self, stage: str, metrics: MetricCollection, step: int) -> dict[str, Tensor]:
        values = evaluation.computed(metrics)
        named = {f"{stage}/loss": values["loss"], f"{stage}/accuracy": values["accuracy"]}
        per_class = zip(self.datamodule.classes, values["class_accuracy"], strict=True)
        named |= {f"{stage}_class/{name}": accuracy for name, accuracy in per_class}
        if self.trainer.state.fn == "fit":
            self.log_dict(named, logger=False)
            for logger in self.loggers:
                logger.log_metrics({name: float(value) for name, value in named.items()}, step)
        else:  # what Trainer.test and Trainer.validate return; Lightning reads the step to log at from `step`
            self.log_dict(named | {"step": torch.tensor(float(step))})
        return values

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what `test` needs to build network and data, and what `fit` needs to go on bit for bit."""
        if self.trainer.state.fn == "fit":
            self._update_record()
        assert self.card is not None
        card, history = self.card.as_dict(), self.record.state_dict(self.trainer)
        run = {"card": card, "history": history, "mlflow_run": mlflow_run(self.loggers), "frozen": frozen(self)}
        checkpoint[KEY] = run

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        card = RunCard.from_dict(checkpoint[KEY]["card"])
        if tuple(card.classes) != self.datamodule.classes:
            known, found = ", ".join(card.classes), ", ".join(self.datamodule.classes)
            sentence = f"The network knows the classes {known}, but {self.datamodule.title} has {found};"
            raise UsageError("data-classes", f"{sentence} use other images with --data.root, or another --ckpt_path")
        assert self.card is not None
        if self.trainer.state.fn == "fit" and card.recipe == self.card.recipe == "python":
            check_resumable(
                Checkpoint(Path(str(self.trainer.ckpt_path)), card, checkpoint), self.card, self.datamodule.root
            )
        if self.trainer.state.fn != "fit":  # what was trained, tested as it is now
            self.card = replace(card, **{name: getattr(self.card, name) for name in ("dataset", "images", *EVALUATION)})
        elif (names := checkpoint[KEY].get("frozen")) is not None:
            self._frozen = names
            freeze(self, names)  # before the optimizer is made
        self.record.load_state_dict(checkpoint[KEY]["history"], self.trainer)
        own = self.state_dict().keys()  # a loss may have weights, and another loss may be used for a test
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weights[name] for name in weights if name.startswith("net.") or name in own}
