"""best.ckpt: the weights of the epoch with the highest validation accuracy, remembered exactly over interruptions."""

from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Writes `checkpoints/best.ckpt` whenever validation accuracy rises.

    Lightning's own forgets the newest score when it resumes, and every score when the run folder was moved.
    """

    def __init__(self) -> None:
        super().__init__(monitor="val/accuracy", mode="max", filename="best", enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken, in the folder where the run lies now."""
        if not state_dict["best_model_path"]:
            return
        path = str(Path(self.dirpath or "") / "best.ckpt")  # whatever its name there: the next best deletes this one
        if not Path(path).exists():  # a checkpoint that was moved alone: the best starts anew
            return
        super().load_state_dict(
            state_dict
            | {
                "dirpath": self.dirpath,
                "best_model_path": path,
                "kth_best_model_path": path,
                "best_k_models": {path: state_dict["best_model_score"]},
            }
        )
        self.current_score = state_dict["current_score"]
