"""What Lightning and other libraries say that a user of ours can't act on, and how it is silenced."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

LEVELS = {
    "pytorch_lightning": logging.WARNING,  # no tips, no list of devices, no "`Trainer.fit` stopped"
    "lightning_fabric": logging.WARNING,
    "pytorch_lightning.loggers.mlflow": logging.ERROR,  # it creates what it warns is missing
    "pytorch_lightning.callbacks": logging.INFO,  # whoever adds a callback or a profiler wants what it says
    "pytorch_lightning.profilers": logging.INFO,
    "tensorboard": logging.ERROR,  # it warns of points that a resumed run has replaced
}
UNACTIONABLE = (
    r"The number of training batches .* is smaller than the logging interval",  # short runs are shown by epoch
    r"`LightningModule.configure_optimizers` returned `None`",  # the data-parallel demonstration learns nothing
    r"torch.distributed.nn.functional.all_gather is deprecated",  # Lightning 2.6 with torch 2.14
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 with torch 2.14
    r"It is recommended to use `self.log\('(loss|accuracy|val|test|step)",  # torchmetrics has summed over them
    r"`ModelCheckpoint\(monitor='accuracy/val'\)` could not find",  # --trainer.max_steps may end before validation
    r"Checkpoint directory .* exists and is not empty",  # a resumed run goes on in its own folder
    r"When using `Trainer\(accumulate_grad_batches != 1\)` and overriding",  # LitClassifier is made for it
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",  # `test` doesn't need them
    r"Initializing zero-element tensors",  # a network without weights is refused elsewhere
    r"Total length of `list` across ranks is zero",  # --data.val_size is 0
)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what a user can't act on; a level other than INFO, Lightning's own, that was set for a logger stays."""
    with warnings.catch_warnings(), ExitStack() as stack:
        for message in UNACTIONABLE:
            warnings.filterwarnings("ignore", message=message)
        for logger, level in ((logging.getLogger(name), level) for name, level in LEVELS.items()):
            if logger.level in (logging.NOTSET, logging.INFO):  # Lightning sets INFO when it is imported
                stack.callback(logger.setLevel, logger.level)
                logger.setLevel(level)
        yield
