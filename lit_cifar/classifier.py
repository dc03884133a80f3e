"""LitClassifier: loss, optimizer and metrics around any network that turns images into logits.

Its numbers are exact on any number of devices: the loss is weighted so that the gradient is that of the whole batch,
even where the shares are uneven, and every image of an evaluation counts once. What it logs while training is the mean
over all steps since it logged last, kept in one tensor: 0.02 ms a step, where self.log and a torchmetrics accuracy
take 1 ms.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lit_cifar.checkpoint import KEY, class_and_arguments
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.loader import BatchLoader
from lit_cifar.errors import UsageError
from lit_cifar.fused import SMALL_BATCH, FusedStep, can_record, count

Batch = tuple[Tensor, Tensor]


class LitClassifier(pl.LightningModule):
    """Trains and tests a network on labelled images.

    Args:
        net: Turns normalised images [N, 3, 32, 32] into logits [N, number of classes].
        optimizer: Any of torch.optim's, or your own, by class path.
        lr_scheduler: Any of torch.optim.lr_scheduler's, or your own, by class path.
        lr_scheduler_interval: Whether the scheduler advances every epoch or every step.
        loss: Mean loss of logits [N, C] and labels [N], by import path.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=0.001, momentum=0.9),
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["epoch", "step"] = "epoch",
        loss: nn.Module | Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        self.loss = loss
        self.net_config = class_and_arguments(net)
        """Class path and arguments that a checkpoint carries, to build the net again."""
        self.recipe = "python"
        """Name of the recipe that a checkpoint and a report carry."""
        self.curves: dict[str, list[tuple[int, float]]] = {"train/loss": [], "val/loss": []}
        """What was logged: (step, value)."""
        self.trained: dict[str, Any] = {"epochs": 0, "steps": 0, "images": 0, "batch_size": 0, "seconds": 0.0}
        """Of the training so far, over all interruptions; seconds are wall time of the loop with its validation."""
        self._window = torch.zeros(2)  # since the last logging, on this rank: sum of losses, right answers
        self._window_images = 0  # since the last logging, over all devices
        self._rng: dict[str, Tensor] | None = None  # to go on with, such as dropout's
        self.fused_step: FusedStep | None = None

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
        self.val_metrics = _metrics(classes)
        self.test_metrics = _metrics(classes)
        self.test_metrics.add_metrics({"confusion_matrix": MulticlassConfusionMatrix(classes)})

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
        self._started = time.perf_counter() - self.trained["seconds"]
        dtype = torch.float32 if self.device.type == "mps" else torch.float64  # mps has no float64
        self._window = self._window.to(self.device, dtype)
        if self._rng is not None:
            _set_rng_state(self._rng, self.device)

    def on_train_epoch_start(self) -> None:
        """Chooses the order and the augmentation of this epoch."""
        self._train_loader.set_epoch(self.current_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss whose gradient, averaged over the devices, is that of the whole batch."""
        images, labels = batch
        whole = self._count_images(batch_idx)
        if not len(labels):
            # This device has no image in the last, short batch, but all must take part in the gradient's exchange.
            return self(images.new_zeros(1, *images.shape[1:])).sum() * 0
        logits = self(images)
        loss = self.loss(logits, labels)
        self._window += count(loss, logits, labels)
        if self.trainer.world_size == 1:
            return loss
        return loss * (len(labels) * self.trainer.world_size / whole)

    def _count_images(self, batch_idx: int) -> int:
        """Notes the images of a batch, over all devices together, and says how many they are."""
        whole = self._train_loader.images_in_batch(batch_idx)
        self._window_images += whole
        self.trained["images"] += whole
        return whole

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Steps, and logs before any hook that may write a checkpoint."""
        super().optimizer_step(*args, **kwargs)
        self._log_step()

    def fuse(self) -> None:
        """Makes `fused_step` where it applies: a small batch on one CPU in float32, and nothing special in the way."""
        trainer = self.trainer
        plain = (
            self.device.type == "cpu"
            and trainer.world_size == 1
            and trainer.precision == "32-true"
            and trainer.accumulate_grad_batches == 1
            and not trainer.gradient_clip_val
            and not torch.is_anomaly_enabled()
        )
        if (
            plain
            and self.datamodule.batch_size <= SMALL_BATCH
            and self.loss is F.cross_entropy
            and can_record(self.net)
        ):
            self.fused_step = self.fused_step or FusedStep(self.net, self.loss, trainer.optimizers[0])
        else:
            self.fused_step = None

    def fused_training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """What `training_step`, backward and `optimizer_step` do, at once: the loss."""
        assert self.fused_step is not None
        self._count_images(batch_idx)
        loss, counts = self.fused_step(*batch)
        self._window += counts
        self._log_step()
        return loss

    def _log_step(self) -> None:
        """Logs every `log_every_n_steps` steps."""
        step, every = self.global_step + 1, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and step % every == 0:
            self._log_window(step)

    def _log_window(self, step: int) -> None:
        loss, right = self.trainer.strategy.reduce(self._window, reduce_op="sum").tolist()
        means = {"train/loss": loss / self._window_images, "train/accuracy": right / self._window_images}
        self.curves["train/loss"].append((step, means["train/loss"]))
        means["lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        for logger in self.loggers:
            logger.log_metrics(means, step)
        self._window.zero_()
        self._window_images = 0

    def _use_threads(self, training: bool) -> None:
        """One for small batches on the CPU, all of them otherwise."""
        small = self.device.type == "cpu" and self.datamodule.batch_size <= SMALL_BATCH * self.trainer.world_size
        torch.set_num_threads(1 if training and small else self._threads)

    def on_train_end(self) -> None:
        """Stops the clock."""
        self._use_threads(training=False)
        self._update_trained()

    def on_validation_start(self) -> None:
        """Validation's batches are large."""
        if self.trainer.state.fn == "fit":
            self._use_threads(training=False)

    def on_validation_end(self) -> None:
        """Training goes on."""
        if self.trainer.state.fn == "fit":
            self._use_threads(training=True)

    def _update_trained(self) -> None:
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
        self.trained |= {
            "epochs": round(batches / self.trainer.num_training_batches, 2),
            "steps": self.global_step,
            "batch_size": self.datamodule.batch_size,
            "seconds": time.perf_counter() - self._started,
        }

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts a batch."""
        self._count(batch, self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        """Logs loss and accuracy, whole and per class."""
        values = self._log_metrics("val", self.val_metrics, self.global_step)
        if self.trainer.state.fn == "fit":
            self.curves["val/loss"].append((self.global_step, float(values["loss"])))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts a batch."""
        self._count(batch, self.test_metrics)

    def on_test_epoch_end(self) -> None:
        """Logs loss and accuracy, whole and per class, and keeps them for the report."""
        # one step after the last of training: a run resumed from its end drops these points and logs them again
        self.test_results = self._log_metrics("test", self.test_metrics, self.trained["steps"] + 1)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities `[B, C]` of a batch."""
        return self(batch[0]).softmax(1)

    def predict_indices(self, indices: Tensor) -> Tensor:
        """int64 `[n]`, the classes predicted for these test images."""
        images, _ = self.datamodule.test_dataloader().take(indices.to(self.device))
        with torch.inference_mode():
            return self.eval()(images).argmax(1).cpu()

    def configure_optimizers(self) -> Any:
        """The optimizer, and the schedule if there is one."""
        try:
            optimizer = self.make_optimizer(self.parameters())
            if self.make_lr_scheduler is None:
                return optimizer
            scheduler = self.make_lr_scheduler(optimizer)
        except (TypeError, ValueError) as error:
            raise UsageError(f"--model.optimizer or --model.lr_scheduler: {error}; give it another value") from error
        config = {"scheduler": scheduler, "interval": self.lr_scheduler_interval}
        return {"optimizer": optimizer, "lr_scheduler": config | {"monitor": getattr(scheduler, "monitor", None)}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what `test` needs to build net and data again, and what `fit` needs to go on bit for bit."""
        data = self.datamodule
        if self.trainer.state.fn == "fit":
            self._update_trained()
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
            "curves": self.curves,
            "trained": self.trained,
            "window_images": self._window_images,
            "ranks": self._gather({"window": self._window.cpu(), "rng": _rng_state(self.device)}),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the state of the run that wrote the checkpoint.

        Sums go to the rank that they come from, or where the number of devices has changed, to the first.
        """
        card = checkpoint[KEY]
        self.curves = {name: [(step, value) for step, value in curve] for name, curve in card["curves"].items()}
        self.trained = dict(card["trained"])
        self._window_images = card["window_images"]
        rank, ranks = self.trainer.global_rank, card["ranks"]
        windows = [state["window"] for state in ranks]
        if len(ranks) == self.trainer.world_size:
            self._window = windows[rank]
            self._rng = ranks[rank]["rng"]
        else:
            self._window = torch.stack(windows).sum(0) if rank == 0 else torch.zeros(2)

    def _gather(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """The state of every rank."""
        if self.trainer.world_size == 1:
            return [state]
        states: list[dict[str, Any]] = [{}] * self.trainer.world_size
        torch.distributed.all_gather_object(states, state)
        return states

    def _count(self, batch: Batch, metrics: MetricCollection) -> None:
        images, labels = batch
        if not len(labels):
            return  # this device has no image in the last, short batch
        logits = self(images).float()
        metrics["loss"].update(self.loss(logits, labels), weight=len(labels))
        for name, metric in metrics.items(keep_base=True, copy_state=False):
            if name != "loss":
                metric.update(logits, labels)

    def _log_metrics(self, stage: str, metrics: MetricCollection, step: int) -> Mapping[str, Tensor]:
        values = metrics.compute()
        metrics.reset()
        named = {f"{stage}/loss": values["loss"], f"{stage}/accuracy": values["accuracy"]}
        per_class = zip(self.datamodule.classes, values["class_accuracy"], strict=True)
        named |= {f"{stage}_class/{name}": accuracy for name, accuracy in per_class}
        self.log_dict(named, logger=False)
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in named.items()}, step)
        return values


def _rng_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _metrics(classes: int) -> MetricCollection:
    return MetricCollection(
        {
            "loss": MeanMetric(),
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "class_accuracy": MulticlassAccuracy(classes, average="none"),
        },
        compute_groups=False,
    )
