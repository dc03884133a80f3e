"""LitClassifier: loss, optimizer and metrics around any network that turns images into logits.

It reads in the order of its life. The first hundred lines are its settings; the second hundred load a trained
classifier, predict pictures, and try the parts before a training; the third hundred train, evaluate and write
checkpoints, exactly on any number of devices: the gradient is that of the whole batch even if the shares are uneven,
and every image of an evaluation counts once.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, cast, get_args

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchmetrics import MetricCollection
from typing_extensions import Self

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.loader import BatchLoader
from lit_cifar.data.pictures import Picture, to_batch
from lit_cifar.errors import UsageError
from lit_cifar.evaluation import metrics as evaluation
from lit_cifar.evaluation.test_time_augmentation import Views, mean_logits
from lit_cifar.runs.checkpoint import (
    KEY,
    build_net,
    check_classes,
    check_net,
    class_and_arguments,
    describe,
    evaluation_settings,
    read_checkpoint,
)
from lit_cifar.runs.folder import mlflow_run
from lit_cifar.training.callbacks.divergence import CHECKED_EVERY, DivergenceWatch
from lit_cifar.training.history import TrainingRecord
from lit_cifar.training.optimizers import Muon
from lit_cifar.training.preparation import compile_net, keep_freed_memory, number_of_outputs, whiten
from lit_cifar.training.schedules import make_schedule, require_room, share_done
from lit_cifar.training.step import Batch, Share, count, take_share


class LitClassifier(pl.LightningModule):
    """Trains and tests a network on labelled images.

    Args:
        net: Network that turns normalised images [N, 3, 32, 32] into logits [N, number of classes].
        optimizer: Any of torch.optim's, or your own, by class path.
        lr_scheduler: Any of torch.optim.lr_scheduler's, or your own, by class path.
        lr_scheduler_interval: Whether the scheduler advances every epoch or every step.
        loss: Mean loss of logits [N, C] and labels [N], by import path.
        slice_size: Largest number of images that go through the network at once in training, and are normalised
            together by batch normalisation; 0 for the whole batch. On a CPU, 250 is faster than 2,000.
        sides: Pairs of a share of the training, from 0 to 1, and a side in pixels: from there on, images are scaled to
            this side. By default, images keep their own.
        test_time_augmentation: Views of a test image whose logits are averaged: the image itself (none), also its
            mirror image (flip), also both shifted by a pixel (flip-shift). Validation uses the image itself.
        confidence_threshold: Probability of a class from which the first view of an image is enough.
        compile: Compile the network with torch.compile: a minute at the start, fewer and larger kernels afterwards.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=0.001, momentum=0.9),
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["epoch", "step"] = "epoch",
        loss: nn.Module | Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        slice_size: int = 0,
        sides: Sequence[tuple[float, int]] = (),
        test_time_augmentation: Views = "none",
        confidence_threshold: float = 1.0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        _require(slice_size >= 0, f"slice_size {slice_size} must be 0 or more")
        in_range = all(0 <= share < 1 and 8 <= side <= 224 for share, side in sides)
        _require(in_range, f"sides {[*sides]} must be pairs of a share from 0 to 1 and a side from 8 to 224")
        views = test_time_augmentation
        _require(views in get_args(Views), f"test_time_augmentation {views} must be none, flip or flip-shift")
        threshold = float(confidence_threshold)
        _require(0 < threshold <= 1, f"confidence_threshold {threshold} must be more than 0 and at most 1")
        self.net = net
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        self.loss = loss
        self.slice_size = slice_size
        self.sides = sorted(sides)
        self.test_time_augmentation, self.confidence_threshold = views, threshold
        self.compiled = compile
        self.net_config = class_and_arguments(net)
        """Class path and arguments of the network, from which a checkpoint builds it again."""
        self.recipe = "python"
        """Name of the recipe in checkpoints and reports."""
        self.lr: float | None = None
        """Learning rate found by Lightning's LearningRateFinder, in place of the optimizer's own."""
        self.example_input_array = torch.zeros(1, 3, 32, 32)
        self.whitened = False
        """Whether a whitening layer has been computed: that of a trained network stays."""
        self.record = TrainingRecord()
        self.classes: tuple[str, ...] = ()
        """Class names in the order of the labels, known after training, testing or loading."""
        self.mean: tuple[float, ...] = ()
        """Mean of each channel, of values from 0 to 1, that is subtracted from images."""
        self.std: tuple[float, ...] = ()
        """Deviation of each channel by which images are divided."""
        self.test_logits: list[Tensor] = []
        """Logits `[n, C]` of each batch of the last test: the share of this rank."""
        self._checked: tuple[Any, ...] = ()
        self._finding = False  # whether one of Lightning's finders tries rates or batch sizes, up to those that fail
        self._watch: DivergenceWatch | None = None

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's unpickles, and asks for the network
        cls, checkpoint_path: str | Path, net: nn.Module | None = None, test_time_augmentation: Views | None = None
    ) -> Self:
        """Returns a trained classifier, on the CPU and ready to predict; call `train()` to train it further.

        Args:
            checkpoint_path: best.ckpt or last.ckpt of a run.
            net: Network of the checkpoint's class, if that is not one of this project, torch or torchvision.
            test_time_augmentation: As for the class; by default, the setting that the run was tested with.

        Raises:
            UsageError: The file is not a checkpoint of ours, or its network is not in this version.
            UserError: The file is damaged.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        card = checkpoint[KEY]
        if net is None:
            check_net(card["net"], checkpoint_path)
        weights = {name: weight for name, weight in checkpoint["state_dict"].items() if name.startswith("net.")}
        settings = evaluation_settings(card)
        if test_time_augmentation is not None:
            settings["test_time_augmentation"] = test_time_augmentation
        try:
            module = cls(build_net(card["net"]) if net is None else net, **settings)
            module.load_state_dict(weights)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                "network-unfit",
                f"--ckpt_path {checkpoint_path} holds a network {card['net']['class_path']} with other arguments or"
                " weights than this one; load it with the version that trained it, or with the network that was trained",
            ) from error
        module.whitened = True
        module.net_config, module.recipe = card["net"], card["recipe"]
        module.classes, module.mean, module.std = (tuple(card[key]) for key in ("classes", "mean", "std"))
        return module.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, C]` of normalised images `[N, 3, 32, 32]`."""
        return self.net(images)

    @torch.no_grad()
    def predict(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Returns probabilities `[N, C]` of one image or several, in the order of `classes`.

        Args:
            images: PIL images of any mode, arrays uint8 `[H, W]` (grey), `[H, W, 3]` or `[H, W, 4]` (RGBA), or tensors
                uint8 `[3, H, W]`, of any size; or a whole batch as an array `[N, H, W, 3]` or a tensor `[N, 3, H, W]`.

        Raises:
            ValueError: An image has another shape or type, such as floating-point numbers.
            UsageError: The classifier was neither trained nor loaded.
        """
        pixels = to_batch(images)
        if not len(pixels):
            return torch.empty(0, len(self.classes))
        if not self.classes:
            sentence = "The classifier knows no classes yet; train it, or use LitClassifier.load_from_checkpoint"
            raise UsageError("network-untrained", sentence)
        pictures = ImageSet(pixels, torch.zeros(len(pixels), dtype=torch.int64), self.classes)
        batches = BatchLoader(pictures, 250, mean=self.mean, std=self.std, device=self.device)
        layout = torch.channels_last  # convolutions on a CPU take three quarters of the time
        with evaluation.evaluating(self):
            logits = [self._mean_logits(batch.to(memory_format=layout)) for batch, _ in batches]
        return torch.cat(logits).softmax(1).cpu()

    def _mean_logits(self, images: Tensor) -> Tensor:
        return mean_logits(self, images, self.test_time_augmentation, self.confidence_threshold)

    @property
    def datamodule(self) -> CIFAR10DataModule:
        """The Trainer's."""
        return cast(CIFAR10DataModule, self.trainer.datamodule)  # type: ignore[attr-defined]

    def check(self, datamodule: CIFAR10DataModule) -> None:
        """Tries network, loss and optimizer against a data set; a second call for the same ones returns at once.

        Raises:
            UsageError: They don't fit the data or each other.
        """
        trial = (self.net, self.loss, self.make_optimizer, datamodule.classes)
        if self._checked == trial:
            return
        # After fit, a compiled network is on the CPU, for which it is not compiled
        with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
            outputs = number_of_outputs(self.net, self.loss, [side for _, side in self.sides])
        classes = len(datamodule.classes)
        if outputs != classes:
            has = "have" if datamodule.images.kind == "drawn" else "has"
            raise UsageError(
                "network-classes",
                f"The network has {outputs} outputs, but {datamodule.title} {has} {classes} classes;"
                f" set --model.net.init_args.num_classes {classes}",
            )
        self.new_optimizer()
        self._checked = trial

    def new_optimizer(self) -> torch.optim.Optimizer:
        """Makes the optimizer with the learning rate of the recipe.

        Raises:
            UsageError: It refuses its arguments.
        """
        try:
            optimizer = self.make_optimizer(self.parameters())
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError("optimizer-refused", f"--model.optimizer: {error}") from error
        if isinstance(optimizer, torch.optim.SparseAdam):
            sentence = (
                "--model.optimizer SparseAdam is for sparse gradients, which networks here don't have; use another"
            )
            raise UsageError("optimizer-refused", sentence)
        return optimizer

    def setup(self, stage: str) -> None:
        keep_freed_memory()
        data = self.datamodule
        self.classes, self.mean, self.std = data.classes, data.mean, data.std
        self.check(data)
        if stage == "fit":
            finders = (LearningRateFinder, BatchSizeFinder)
            self._finding = any(isinstance(callback, finders) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
            if not self.whitened:
                whiten(self.net, data)
                self.whitened = True
            if self.compiled:
                compile_net(self.net, self.trainer.strategy.root_device)  # where the network will be moved
        self.val_metrics, self.test_metrics = (evaluation.metrics(len(self.classes)) for _ in range(2))

    def configure_optimizers(self) -> Any:
        optimizer = self.new_optimizer()
        if isinstance(optimizer, Muon):
            optimizer.use_precision(str(self.trainer.precision))
        if self.lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = self.lr
        if self.make_lr_scheduler is None:
            return optimizer
        try:
            scheduler = make_schedule(self.make_lr_scheduler, optimizer, self.lr_scheduler_interval, self.trainer)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise UsageError("schedule-refused", f"--model.lr_scheduler: {error}") from error
        config = {"scheduler": scheduler, "interval": self.lr_scheduler_interval}
        return {"optimizer": optimizer, "lr_scheduler": config | {"monitor": getattr(scheduler, "monitor", None)}}

    def on_fit_start(self) -> None:
        if self._finding:  # what was found changes optimizer and schedule
            self.trainer.strategy.setup_optimizers(self.trainer)
            self._finding = False

    def on_train_start(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):  # see _begin_epoch, below
                callback.on_train_epoch_start(self.trainer)
        steps = -(-self.trainer.num_training_batches // self.trainer.accumulate_grad_batches)
        self._log_every = min(self.trainer.log_every_n_steps, max(1, steps))  # type: ignore[attr-defined]
        self._watch = None if self._finding else DivergenceWatch(self.trainer, self.net, self.loss)
        self.record.begin(self.device)
        self._begin_epoch()  # on_train_epoch_start is not called if a run resumes in mid-epoch
        for config in self.trainer.lr_scheduler_configs:
            require_room(config.scheduler, config.interval, self.trainer)

    def _begin_epoch(self) -> None:
        begin = getattr(self.net, "begin_epoch", None)
        if begin is not None:
            begin(share_done(self.trainer, self.current_epoch))

    def on_train_epoch_start(self) -> None:
        self._begin_epoch()
        middle = share_done(self.trainer, self.current_epoch + 0.5)
        sides = [side for share, side in self.sides if share <= middle]
        epoch = 0 if self.trainer.overfit_batches else self.current_epoch  # type: ignore[attr-defined]  # the same images
        cast(BatchLoader, self.trainer.train_dataloader).set_epoch(epoch, sides[-1] if sides else None)

    def share(self, batch: Batch, batch_idx: int) -> Share:
        """Returns the Share that this process has of a training batch."""
        whole = cast(BatchLoader, self.trainer.train_dataloader).images_in_batch(batch_idx)
        return take_share(batch, whole, self.trainer.world_size, self.slice_size)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss whose gradient, averaged over the devices, is that of the whole batch."""
        share = self.share(batch, batch_idx)
        logits = torch.cat([self(part) for part in share.images.tensor_split(share.slices)])
        loss = self.loss(logits, share.labels)
        self.record.add(share, count(loss, logits, share.labels))
        if not share.mine:  # every weight needs a gradient to exchange; that of the loss may be NaN
            return (logits.sum() + sum(weight.sum() for weight in self.parameters() if weight.requires_grad)) * 0
        return loss * share.weight(self.trainer.world_size)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.log_step()  # before any hook that may write a checkpoint

    def log_step(self) -> None:
        """Logs every `log_every_n_steps` steps, and once in an epoch that has fewer."""
        step = self.global_step + 1
        if self._watch and step % CHECKED_EVERY == 0:
            self._watch.look(self.record.loss, step)
        if self._log_every and step % self._log_every == 0:
            means = self.record.means(self.trainer, step)
            if self._watch:
                self._watch.require_finite_loss(means["train/loss"], step)
            means["lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
            for logger in self.loggers:
                logger.log_metrics(means, step)

    def on_train_end(self) -> None:
        self._update_record()
        self._watch = None

    def _update_record(self) -> None:
        if self._watch:
            self._watch.require_finite_weights()
        self.record.update(self.trainer, self.datamodule.batch_size)

    @property
    def _in_training(self) -> bool:
        return self.trainer.state.fn == "fit" and not self.trainer.sanity_checking

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._count(batch, self.val_metrics, self)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            self.val_metrics.reset()
            return
        self.val_results = self._log_metrics("val", self.val_metrics, self.global_step)
        if self._in_training:
            self.record.curves["val/loss"].append((self.global_step, float(self.val_results["loss"])))

    def on_test_epoch_start(self) -> None:
        self.test_logits.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.test_logits.append(self._count(batch, self.test_metrics, self._mean_logits))

    def on_test_epoch_end(self) -> None:
        # one step after the last of training: a run resumed from its end drops these points and logs them again
        self.test_results = self._log_metrics("test", self.test_metrics, self.record.trained["steps"] + 1)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns probabilities `[B, C]`."""
        return self._mean_logits(batch[0]).softmax(1)

    def _count(self, batch: Batch, metrics: MetricCollection, net: Callable[[Tensor], Tensor]) -> Tensor:
        images, labels = batch
        if not len(labels):
            return images.new_empty(0, len(self.classes))  # an empty share of the last, short batch
        logits = net(images).float()
        metrics["loss"].update(self.loss(logits, labels), weight=len(labels))
        metrics["confusion_matrix"].update(logits, labels)
        return logits

    def _log_metrics(self, stage: str, metrics: MetricCollection, step: int) -> dict[str, Tensor]:
        values = evaluation.computed(metrics)
        named = {f"{stage}/loss": values["loss"], f"{stage}/accuracy": values["accuracy"]}
        per_class = zip(self.datamodule.classes, values["class_accuracy"], strict=True)
        named |= {f"{stage}_class/{name}": accuracy for name, accuracy in per_class}
        if self._in_training:
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
        checkpoint[KEY] = describe(self, self.datamodule) | {
            "record": self.record.state_dict(self.trainer),
            "mlflow_run": mlflow_run(self.loggers),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the state of the run that wrote the checkpoint."""
        check_classes(checkpoint[KEY], self.datamodule)
        self.record.load_state_dict(checkpoint[KEY]["record"], self.trainer)
        own = self.state_dict().keys()  # a loss may have weights, and another loss may be used for a test
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weights[name] for name in weights if name.startswith("net.") or name in own}


def _require(in_range: bool, what: str) -> None:
    if not in_range:
        raise UsageError("value-out-of-range", f"--model.{what}")
