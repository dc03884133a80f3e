"""LitClassifier: loss, optimizer and metrics around any network that turns images into logits.

Its numbers are exact on any number of devices: the loss is weighted so that the gradient is that of the whole batch,
even where the shares are uneven, and every image of an evaluation counts once. What it logs while training is the mean
over all steps since it logged last, kept in one tensor: 0.02 ms a step, where self.log and a torchmetrics accuracy
take 1 ms.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, cast, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from lit_cifar.checkpoint import KEY, class_and_arguments
from lit_cifar.data.augment import Augmentation
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.loader import BatchLoader
from lit_cifar.errors import UsageError
from lit_cifar.fused import SMALL_BATCH, FusedStep, can_record, count
from lit_cifar.optim import LinearToZero
from lit_cifar.record import TrainingRecord
from lit_cifar.sliced import SlicedStep
from lit_cifar.views import Views, mean_logits

CALIBRATION = 5000  # training images that a Calibrated net is shown

Batch = tuple[Tensor, Tensor]


@runtime_checkable
class Calibrated(Protocol):
    """A net some of whose weights are computed from images before training."""

    def calibrate(self, images: Tensor) -> None:
        """Is shown normalised images `[N, 3, H, W]`."""


class LitClassifier(pl.LightningModule):
    """Trains and tests a network on labelled images.

    Args:
        net: Turns normalised images [N, 3, 32, 32] into logits [N, number of classes].
        optimizer: Any of torch.optim's, or your own, by class path.
        lr_scheduler: Any of torch.optim.lr_scheduler's, or your own, by class path.
        lr_scheduler_interval: Whether the scheduler advances every epoch or every step.
        loss: Mean loss of logits [N, C] and labels [N], by import path.
        slice_size: Images that go through the net, and are normalised by its batch normalisation, together in
            training; 0 for the whole batch. On a CPU, 250 is faster than 2,000.
        sides: Pairs of a share of the training, from 0 to 1, and the side in pixels that images are scaled to from
            there on; none for their own size.
        test_time_augmentation: What the logits of a test image are the mean of: the image itself (none), with its
            mirror image (flip), with both shifted by a pixel too (flip-shift).
        compile: Compile the network with torch.compile: a minute at the start, fewer and larger kernels from then on.
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
        compile: bool = False,
    ) -> None:
        super().__init__()
        if slice_size < 0:
            raise UsageError(f"--model.slice_size {slice_size} must be 0 or more")
        if any(not 0 <= share < 1 or not 8 <= side <= 224 for share, side in sides):
            raise UsageError(f"--model.sides {[*sides]} must be pairs of a share from 0 to 1 and a side from 8 to 224")
        self.net = net
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        self.loss = loss
        self.slice_size = slice_size
        self.sides = sorted(sides)
        self.test_time_augmentation = test_time_augmentation
        self.compiled = compile
        self.net_config = class_and_arguments(net)
        """Class path and arguments that a checkpoint carries, to build the net again."""
        self.recipe = "python"
        """Name of the recipe that a checkpoint and a report carry."""
        self.record = TrainingRecord()
        self.direct_step: FusedStep | SlicedStep | None = None
        """Computes a whole step without autograd's or Lightning's part in it, where that is faster."""

    def setup(self, stage: str) -> None:
        """Makes the metrics, and checks that the net has an output for each class."""
        classes = len(self.datamodule.classes)
        training = self.net.training
        with torch.no_grad():
            outputs = self.net.eval()(torch.zeros(1, 3, 32, 32, device=self.device)).shape[-1]
        self.net.train(training)
        if outputs != classes:
            raise UsageError(
                f"The network has {outputs} outputs, but {self.datamodule.title} has {classes} classes;"
                f" set --model.net.init_args.num_classes {classes}"
            )
        if stage == "fit" and isinstance(self.net, Calibrated):
            self.net.calibrate(self._some_training_images())
        if stage == "fit" and self.compiled:
            from lit_cifar.compiled import compile_net  # imports torch's compiler: 1 s

            compile_net(self.net, self.device)
        self.val_metrics = _metrics(classes)
        self.test_metrics = _metrics(classes)

    def _some_training_images(self) -> Tensor:
        loader = self.datamodule.train_dataloader()
        loader.augmentation = Augmentation()
        return loader.take(self.datamodule.split()[0][:CALIBRATION])[0].to(self.device)

    @property
    def datamodule(self) -> CIFAR10DataModule:
        """The Trainer's."""
        return cast(CIFAR10DataModule, self.trainer.datamodule)  # type: ignore[attr-defined]

    @property
    def _train_loader(self) -> BatchLoader:
        return cast(BatchLoader, self.trainer.train_dataloader)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, C]` of normalised images `[N, 3, 32, 32]`."""
        return self.net(images)

    def on_train_start(self) -> None:
        """Starts the clock."""
        self._threads = torch.get_num_threads()
        self._use_threads(training=True)
        self.record.begin(self.device)

    def on_train_epoch_start(self) -> None:
        """Chooses order, augmentation and side of this epoch's images."""
        done = self.current_epoch / max(1, self.trainer.max_epochs or 1)
        sides = [side for share, side in self.sides if share <= done]
        self._train_loader.set_epoch(self.current_epoch, sides[-1] if sides else None)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss whose gradient, averaged over the devices, is that of the whole batch."""
        images, labels = batch
        whole = self._train_loader.images_in_batch(batch_idx)
        self.record.see(whole)
        if not len(labels):
            # This device has no image in the last, short batch, but all must take part in the gradient's exchange.
            return self(images.new_zeros(1, *images.shape[1:])).sum() * 0
        logits = torch.cat([self(part) for part in images.split(self.slice_size or len(images))])
        loss = self.loss(logits, labels)
        self.record.add(count(loss, logits, labels))
        if self.trainer.world_size == 1:
            return loss
        return loss * (len(labels) * self.trainer.world_size / whole)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Steps, and logs before any hook that may write a checkpoint."""
        super().optimizer_step(*args, **kwargs)
        self._log_step()

    def choose_step(self) -> None:
        """Makes `direct_step` where it applies: on one device, and with nothing that needs Lightning's own step."""
        trainer, optimizer, batch_size = self.trainer, self.trainer.optimizers[0], self.datamodule.batch_size
        self.direct_step = None
        if (
            trainer.world_size > 1
            or trainer.precision not in ("32-true", "bf16-mixed")
            or trainer.accumulate_grad_batches > 1
            or trainer.gradient_clip_val
            or torch.is_anomaly_enabled()
            or isinstance(optimizer, torch.optim.LBFGS)
            or not type(optimizer).__module__.startswith(("torch.optim.", "lit_cifar."))  # others may need a closure
        ):
            return
        small = self.device.type == "cpu" and trainer.precision == "32-true" and batch_size <= SMALL_BATCH
        plain = self.loss is F.cross_entropy and not self.slice_size and not self.compiled
        if small and plain and can_record(self.net):
            self.direct_step = FusedStep(self.net, self.loss, optimizer)
        else:
            context = trainer.precision_plugin.forward_context
            self.direct_step = SlicedStep(self.net, self.loss, optimizer, self.slice_size or batch_size, context)

    def direct_training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """What `training_step`, backward and `optimizer_step` do, at once: the loss."""
        assert self.direct_step is not None
        self.record.see(self._train_loader.images_in_batch(batch_idx))
        loss, counts = self.direct_step(*batch)
        self.record.add(counts)
        self._log_step()
        return loss

    def _log_step(self) -> None:
        """Logs every `log_every_n_steps` steps."""
        step, every = self.global_step + 1, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and step % every == 0:
            means = self.record.means(self.trainer, step)
            means["lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
            for logger in self.loggers:
                logger.log_metrics(means, step)

    def _use_threads(self, training: bool) -> None:
        """One for small batches on the CPU, all of them otherwise."""
        small = self.device.type == "cpu" and self.datamodule.batch_size <= SMALL_BATCH * self.trainer.world_size
        torch.set_num_threads(1 if training and small else self._threads)

    def on_train_end(self) -> None:
        """Stops the clock."""
        self._use_threads(training=False)
        self.record.update(self.trainer, self.datamodule.batch_size)

    def on_validation_start(self) -> None:
        """Validation's batches are large."""
        if self.trainer.state.fn == "fit":
            self._use_threads(training=False)

    def on_validation_end(self) -> None:
        """Training goes on."""
        if self.trainer.state.fn == "fit":
            self._use_threads(training=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts a batch."""
        self._count(batch, self.val_metrics, self)

    def on_validation_epoch_end(self) -> None:
        """Logs loss and accuracy, whole and per class."""
        values = self._log_metrics("val", self.val_metrics, self.global_step)
        if self.trainer.state.fn == "fit":
            self.record.curves["val/loss"].append((self.global_step, float(values["loss"])))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts a batch."""
        self._count(batch, self.test_metrics, self._mean_logits)

    def on_test_epoch_end(self) -> None:
        """Logs loss and accuracy, whole and per class, and keeps them for the report."""
        # one step after the last of training: a run resumed from its end drops these points and logs them again
        self.test_results = self._log_metrics("test", self.test_metrics, self.record.trained["steps"] + 1)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities `[B, C]` of a batch."""
        return self._mean_logits(batch[0]).softmax(1)

    def _mean_logits(self, images: Tensor) -> Tensor:
        return mean_logits(self, images, self.test_time_augmentation)

    def predict_indices(self, indices: Tensor) -> Tensor:
        """int64 `[n]`, the classes predicted for these test images."""
        images, _ = self.datamodule.test_dataloader().take(indices.to(self.device))
        self.eval()
        with torch.inference_mode():
            return self._mean_logits(images).argmax(1).cpu()

    def configure_optimizers(self) -> Any:
        """The optimizer, and the schedule if there is one."""
        try:
            optimizer = self.make_optimizer(self.parameters())
            if self.make_lr_scheduler is None:
                return optimizer
            scheduler = self.make_lr_scheduler(optimizer)
            if isinstance(scheduler, LinearToZero) and scheduler.total_steps is None:
                scheduler.total_steps = int(self.trainer.estimated_stepping_batches)
        except (TypeError, ValueError) as error:
            raise UsageError(f"--model.optimizer or --model.lr_scheduler: {error}; give it another value") from error
        config = {"scheduler": scheduler, "interval": self.lr_scheduler_interval}
        return {"optimizer": optimizer, "lr_scheduler": config | {"monitor": getattr(scheduler, "monitor", None)}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what `test` needs to build net and data again, and what `fit` needs to go on bit for bit."""
        data = self.datamodule
        if self.trainer.state.fn == "fit":
            self.record.update(self.trainer, self.datamodule.batch_size)
        checkpoint[KEY] = {
            "recipe": self.recipe,
            "net": self.net_config,
            "classes": list(data.classes),
            "dataset": data.images.kind,
            "images": data.checksum,
            "mean": list(data.mean),
            "std": list(data.std),
            "val_size": data.val_size,
            "batch_size": data.batch_size,
            "seed": data.seed,
            "record": self.record.state_dict(self.trainer),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the state of the run that wrote the checkpoint."""
        self.record.load_state_dict(checkpoint[KEY]["record"], self.trainer)

    def _count(self, batch: Batch, metrics: MetricCollection, net: Callable[[Tensor], Tensor]) -> None:
        images, labels = batch
        if not len(labels):
            return  # this device has no image in the last, short batch
        logits = net(images).float()
        metrics["loss"].update(self.loss(logits, labels), weight=len(labels))
        metrics["confusion_matrix"].update(logits, labels)

    def _log_metrics(self, stage: str, metrics: MetricCollection, step: int) -> dict[str, Tensor]:
        values = metrics.compute()
        metrics.reset()
        right, total = values["confusion_matrix"].diagonal(), values["confusion_matrix"].sum(1)
        values |= {"accuracy": right.sum() / total.sum(), "class_accuracy": right / total.clamp(min=1)}
        named = {f"{stage}/loss": values["loss"], f"{stage}/accuracy": values["accuracy"]}
        per_class = zip(self.datamodule.classes, values["class_accuracy"], strict=True)
        named |= {f"{stage}_class/{name}": accuracy for name, accuracy in per_class}
        self.log_dict(named, logger=False)
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in named.items()}, step)
        return values


def _metrics(classes: int) -> MetricCollection:
    """Loss and confusion matrix, from which all else follows; updating more metrics took as long as the net."""
    confusion = MulticlassConfusionMatrix(classes, validate_args=False)
    return MetricCollection({"loss": MeanMetric(), "confusion_matrix": confusion}, compute_groups=False)
