"""What Lightning says and a user can do nothing about."""

import logging
import warnings

SPEAKING = ("callbacks", "profilers")  # parts of Lightning whose remarks a user has asked for by using them
UNACTIONABLE = (
    r"The number of training batches .* is smaller than the logging interval",  # short runs are shown by epoch
    r"`LightningModule.configure_optimizers` returned `None`",  # the data-parallel demonstration learns nothing
    r"torch.distributed.nn.functional.all_gather is deprecated",  # Lightning 2.6 with torch 2.14
    r"It is recommended to use `self.log\('(val|test|step)",  # torchmetrics has already summed over the devices
    r"`ModelCheckpoint\(monitor='val/accuracy'\)` could not find",  # --trainer.max_steps may end before validation
    r"Checkpoint directory .* exists and is not empty",  # a resumed run goes on in its own folder
    r"When using `Trainer\(accumulate_grad_batches != 1\)` and overriding",  # LitClassifier is made for it
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",  # `test` has no use for them
)


def silence_lightning() -> None:
    """Silences Lightning's remarks (devices, tips, 'fit stopped'), and the warnings that a user can't act on."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.loggers.mlflow").setLevel(logging.ERROR)  # it creates what is not there
    for name in SPEAKING:
        logging.getLogger(f"pytorch_lightning.{name}").setLevel(logging.INFO)
    for message in UNACTIONABLE:
        warnings.filterwarnings("ignore", message=message)
