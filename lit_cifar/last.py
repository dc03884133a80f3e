"""last.ckpt: where training can go on from."""

from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` at the end of each epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes it, after validation."""
        if trainer.log_dir is not None:
            trainer.save_checkpoint(Path(trainer.log_dir) / "checkpoints" / "last.ckpt")
