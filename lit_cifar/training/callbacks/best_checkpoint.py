"""best.ckpt: the weights of the epoch with the highest validation accuracy, exact over interruptions."""

from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Writes `checkpoints/best.ckpt` when validation accuracy rises.

    Lightning's ModelCheckpoint forgets the newest score when it resumes, and every score if the run folder was moved.
    """

    def __init__(self) -> None:
        super().__init__(monitor="val/accuracy", mode="max", filename="best", enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken, in the present run folder."""
        path = str(Path(self.dirpath or "") / "best.ckpt")  # the next best deletes it
        if not state_dict["best_model_path"] or not Path(path).exists():  # only last.ckpt was moved
            return
        paths = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
        super().load_state_dict(state_dict | paths | {"best_k_models": {path: state_dict["best_model_score"]}})
        self.current_score = state_dict["current_score"]
