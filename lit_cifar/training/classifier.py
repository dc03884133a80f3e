"""LitClassifier: loss, optimizer and metrics around any network that turns images into logits.

Its numbers are exact on any number of devices: the loss is weighted so that the gradient is that of the whole batch,
even where the shares are uneven, and every image of an evaluation counts once. What it logs while training is the mean
over all steps since it logged last, kept in one tensor: 0.02 ms a step, where self.log and a torchmetrics accuracy
take 1 ms.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from pytorch_lightning.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from typing_extensions import Self

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.loader import BatchLoader
from lit_cifar.errors import UsageError
from lit_cifar.evaluation.test_time_augmentation import Views
from lit_cifar.runs.card import Description, RunCard, describe, plain
from lit_cifar.runs.checkpoint import KEY, Checkpoint, read_checkpoint
from lit_cifar.runs.folder import mlflow_run
from lit_cifar.runs.network import build_net, check_net
from lit_cifar.training.callbacks.divergence import EVERY, LossWatch, require_finite, require_finite_weights
from lit_cifar.training.evaluated import Batch, EvaluatedModule
from lit_cifar.training.history import TrainingRecord
from lit_cifar.training.length import fit_schedule, require_room, share_done
from lit_cifar.training.memory import keep_freed_memory
from lit_cifar.training.recorded import SMALL_BATCH, FusedStep, count
from lit_cifar.training.step import SlicedStep, slices
from lit_cifar.training.trial import check
from lit_cifar.training.whitening import begin_epoch, calibrate

EVALUATION = ("test_time_augmentation", "confidence_threshold")


class LitClassifier(EvaluatedModule):
    """Trains and tests a network on labelled images.

    Args:
        net: Turns normalised images [N, 3, 32, 32] into logits [N, number of classes].
        optimizer: Any of torch.optim's, or your own, by class path.
        lr_scheduler: Any of torch.optim.lr_scheduler's, or your own, by class path.
        lr_scheduler_interval: Whether the scheduler advances every epoch or every step.
        loss: Mean loss of logits [N, C] and labels [N], by import path.
        slice_size: Images, at most, that go through the net, and are normalised by its batch normalisation, together
            in training; 0 for the whole batch. On a CPU, 250 is faster than 2,000.
        sides: Pairs of a share of the training, from 0 to 1, and the side in pixels that images are scaled to in epochs
            whose middle lies beyond it; none for their own size.
        test_time_augmentation: What the logits of a test image are the mean of: the image itself (none), with its
            mirror image (flip), with both shifted by a pixel too (flip-shift). Validation looks at the image itself.
        confidence_threshold: Probability of the class at which the first view is enough, and the others are left out.
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
        confidence_threshold: float = 1.0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if slice_size < 0:
            raise UsageError(f"--model.slice_size {slice_size} must be 0 or more")
        if any(not 0 <= share < 1 or not 8 <= side <= 224 for share, side in sides):
            raise UsageError(f"--model.sides {[*sides]} must be pairs of a share from 0 to 1 and a side from 8 to 224")
        if test_time_augmentation not in get_args(Views):
            raise UsageError(
                f"--model.test_time_augmentation {test_time_augmentation} must be none, flip or flip-shift"
            )
        if not 0 < confidence_threshold <= 1:
            raise UsageError(f"--model.confidence_threshold {confidence_threshold} must be more than 0, and at most 1")
        self.net = net
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        self.loss = loss
        self.slice_size = slice_size
        self.sides = sorted(sides)
        self.test_time_augmentation, self.confidence_threshold = test_time_augmentation, float(confidence_threshold)
        self.compiled = compile
        self.net_description = describe(net)
        """Import path and arguments of the network, as the card has them."""
        self.recipe = "python"
        """Name of the recipe, as the card has it."""
        self.card: RunCard | None = None
        """What is trained, tested or was loaded; known from `setup` or `load_from_checkpoint` on."""
        self.lr: float | None = None
        """Learning rate in place of the optimizer's own: what Lightning's LearningRateFinder found."""
        self.example_input_array = torch.zeros(1, 3, 32, 32)
        self.calibrated = False
        """Whether weights that are computed from images have been: those of a trained net stay."""
        self.record = TrainingRecord()
        self.only_tried = False
        """Whether one of Lightning's finders is trying rates or batch sizes, which go as far as they get."""
        self.direct_step: FusedStep | SlicedStep | None = None
        """Computes a whole step without Lightning's part in it; chosen by `lean`'s loop, where that is faster."""

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's unpickles, and asks for the net
        cls,
        checkpoint_path: str | Path | Checkpoint,
        net: nn.Module | None = None,
        test_time_augmentation: Views | None = None,
    ) -> Self:
        """A trained classifier, on the CPU and ready to predict; `train()` readies it to learn on.

        Args:
            checkpoint_path: best.ckpt or last.ckpt of a run, or one that was read already.
            net: of the checkpoint's class, where that is not one of this project's, torch's or torchvision's.
            test_time_augmentation: as of the class; by default, what the training was tested with.

        Raises:
            UsageError: it is not a checkpoint of ours, or of a net that this version does not have.
            UserError: it is damaged.
        """
        checkpoint = checkpoint_path if isinstance(checkpoint_path, Checkpoint) else read_checkpoint(checkpoint_path)
        card = checkpoint.card
        if net is None:
            check_net(card.net, checkpoint.path)
        if test_time_augmentation is not None:
            card = replace(card, test_time_augmentation=test_time_augmentation)
        try:
            module = cls(
                build_net(card.net) if net is None else net,
                test_time_augmentation=card.test_time_augmentation,
                confidence_threshold=card.confidence_threshold,
            )
            module.load_state_dict(checkpoint.weights)
        except (TypeError, ValueError, RuntimeError) as error:
            name = card.net["class_path"]
            raise UsageError(
                f"--ckpt_path {checkpoint.path} is of a network {name} with other arguments or weights than this one's;"
                " load it with the version that trained it, or with the network that was trained"
            ) from error
        module.calibrated = True
        module.name_run(card.recipe, card.net)
        module.card = card
        module.classes, module.mean, module.std = tuple(card.classes), tuple(card.mean), tuple(card.std)
        return module.eval()

    def name_run(self, recipe: str, net: Description) -> None:
        """Sets the recipe's name and the description of the network for the card; the command line knows both best."""
        self.recipe, self.net_description = recipe, plain(net, "--model.net")

    def make_card(self, data: CIFAR10DataModule) -> RunCard:
        """Returns what trains on these data.

        Raises:
            UsageError: A part of it can't be written down.
        """
        optimizer = describe(self.make_optimizer)
        if self.lr is not None:
            optimizer["init_args"]["lr"] = self.lr
        transform = data.augmentation.transform
        return RunCard(
            recipe=self.recipe,
            net=self.net_description,
            classes=list(data.classes),
            dataset=data.images.kind,
            images=data.checksum,
            mean=list(data.mean),
            std=list(data.std),
            val_size=data.val_size,
            batch_size=data.batch_size,
            seed=data.seed,
            augmentation=vars(data.augmentation) | {"transform": transform and describe(transform)},
            optimizer=optimizer,
            lr_scheduler=self.make_lr_scheduler
            and describe(self.make_lr_scheduler) | {"interval": self.lr_scheduler_interval},
            loss=describe(self.loss),
            slice_size=self.slice_size,
            sides=[[*pair] for pair in self.sides],
            test_time_augmentation=self.test_time_augmentation,
            confidence_threshold=self.confidence_threshold,
        )

    def setup(self, stage: str) -> None:
        """Makes the metrics, once all is known to fit."""
        keep_freed_memory()
        self.classes, self.mean, self.std = self.datamodule.classes, self.datamodule.mean, self.datamodule.std
        finders = (LearningRateFinder, BatchSizeFinder)
        self.only_tried = stage == "fit" and any(isinstance(callback, finders) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        check(self, self.datamodule)
        if stage == "fit" and not self.calibrated:
            calibrate(self.net, self.datamodule)
            self.calibrated = True
        if stage == "fit" and self.compiled:
            from lit_cifar.training.compiled import compile_net  # imports torch's compiler: 1 s

            compile_net(self.net, self.trainer.strategy.root_device)  # to which the net is moved later
        self.card = self.make_card(self.datamodule)
        self.begin_metrics()

    @property
    def train_loader(self) -> BatchLoader:
        """The Trainer's."""
        return cast(BatchLoader, self.trainer.train_dataloader)

    def on_fit_start(self) -> None:
        """Makes optimizer and schedule again, where one of Lightning's finders has changed what they depend on."""
        if self.only_tried:
            self.trainer.strategy.setup_optimizers(self.trainer)
            self.only_tried = False
            self.card = self.make_card(self.datamodule)

    def on_train_start(self) -> None:
        """Starts the clock."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):  # see begin_epoch, below
                callback.on_train_epoch_start(self.trainer)
        steps = -(-self.trainer.num_training_batches // self.trainer.accumulate_grad_batches)
        self._log_every = min(self.trainer.log_every_n_steps, max(1, steps))  # type: ignore[attr-defined]
        self._threads = torch.get_num_threads()
        self.use_threads(training=True)
        self._watch = LossWatch()
        self.record.begin(self.device)
        begin_epoch(self.net, self.trainer)  # resumed in mid-epoch, on_train_epoch_start is not called
        for config in self.trainer.lr_scheduler_configs:
            require_room(config.scheduler, config.interval, self.trainer)

    def on_train_epoch_start(self) -> None:
        """Chooses order, augmentation and side of this epoch's images."""
        begin_epoch(self.net, self.trainer)
        middle = share_done(self.trainer, self.current_epoch + 0.5)
        sides = [side for share, side in self.sides if share <= middle]
        epoch = 0 if self.trainer.overfit_batches else self.current_epoch  # type: ignore[attr-defined]  # the same images
        self.train_loader.set_epoch(epoch, sides[-1] if sides else None)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss whose gradient, averaged over the devices, is that of the whole batch."""
        images, labels = batch
        whole = self.train_loader.images_in_batch(batch_idx)
        self.record.see(whole)
        if not len(labels):
            # This device has no image in the last, short batch, but all must take part in the gradient's exchange.
            return self(images.new_zeros(1, *images.shape[1:])).sum() * 0
        largest = -(-whole // self.trainer.world_size)  # share of a device: all take as many slices
        parts = images.tensor_split(min(len(images), slices(largest, self.slice_size)))
        logits = torch.cat([self(part) for part in parts])
        loss = self.loss(logits, labels)
        self.record.add(count(loss, logits, labels))
        if self.trainer.world_size == 1:
            return loss
        return loss * (len(labels) * self.trainer.world_size / whole)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Steps, and logs before any hook that may write a checkpoint."""
        super().optimizer_step(*args, **kwargs)
        self.log_step()

    def log_step(self) -> None:
        """Logs every `log_every_n_steps` steps, and once in an epoch that has fewer."""
        step = self.global_step + 1
        if step % EVERY == 0:
            self._watch.look(self, self.record.loss, step)
        if self._log_every and step % self._log_every == 0:
            means = self.record.means(self.trainer, step)
            require_finite(self, means["train/loss"], step)
            means["lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
            for logger in self.loggers:
                logger.log_metrics(means, step)

    def use_threads(self, training: bool) -> None:
        """One for small batches on the CPU, all of them otherwise."""
        small = self.device.type == "cpu" and self.datamodule.batch_size <= SMALL_BATCH * self.trainer.world_size
        torch.set_num_threads(1 if training and small else self._threads)

    def on_train_end(self) -> None:
        """Stops the clock."""
        self.use_threads(training=False)
        require_finite_weights(self)
        self.record.update(self.trainer, self.datamodule.batch_size)

    def on_validation_start(self) -> None:
        """Validation's batches are large."""
        if self._in_training:
            self.use_threads(training=False)

    def on_validation_end(self) -> None:
        """Training goes on."""
        if self._in_training:
            self.use_threads(training=True)

    def new_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer as the recipe has it.

        Raises:
            UsageError: it refuses its arguments.
        """
        try:
            optimizer = self.make_optimizer(self.parameters())
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"--model.optimizer: {error}; give it another value") from error
        if isinstance(optimizer, torch.optim.SparseAdam):
            raise UsageError("--model.optimizer SparseAdam is for sparse gradients, which no network here has")
        return optimizer

    def configure_optimizers(self) -> Any:
        """The optimizer, and the schedule if there is one."""
        optimizer = self.new_optimizer()
        if self.lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = self.lr
        if self.make_lr_scheduler is None:
            return optimizer
        try:
            scheduler = self.make_lr_scheduler(optimizer)
            fit_schedule(scheduler, self.lr_scheduler_interval, self.trainer)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise UsageError(f"--model.lr_scheduler: {error}; give it another value") from error
        config = {"scheduler": scheduler, "interval": self.lr_scheduler_interval}
        return {"optimizer": optimizer, "lr_scheduler": config | {"monitor": getattr(scheduler, "monitor", None)}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what `test` needs to build net and data again, and what `fit` needs to go on bit for bit."""
        if self.trainer.state.fn == "fit":
            require_finite_weights(self)
            self.record.update(self.trainer, self.datamodule.batch_size)
        assert self.card is not None
        checkpoint[KEY] = {
            "card": self.card.as_dict(),
            "history": self.record.state_dict(self.trainer),
            "mlflow_run": mlflow_run(self.loggers),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the state of the run that wrote the checkpoint."""
        card = RunCard.from_dict(checkpoint[KEY]["card"])
        if tuple(card.classes) != self.datamodule.classes:
            raise UsageError(
                "data-classes",
                f"The network knows the classes {', '.join(card.classes)}, but those of {self.datamodule.title} are"
                f" {', '.join(self.datamodule.classes)}; use other images with --data.root, or another --ckpt_path",
            )
        if self.trainer.state.fn != "fit":  # what was trained, tested as it is now
            assert self.card is not None
            now = {name: getattr(self.card, name) for name in ("dataset", "images", *EVALUATION)}
            self.card = replace(card, **now)
        self.record.load_state_dict(checkpoint[KEY]["history"], self.trainer)
        own = self.state_dict().keys()  # a loss may have weights; another may be measured with
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weights[name] for name in weights if name.startswith("net.") or name in own}
