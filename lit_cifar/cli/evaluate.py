"""`python -m lit_cifar validate`, `test` and `predict` (without a path): what a checkpoint makes of the images."""

from typing import Any

from lit_cifar.cli.arguments import refusals_of_lightning
from lit_cifar.cli.build import build
from lit_cifar.training.trainer import naming_lost_ranks

DESCRIPTIONS = {
    "validate": "Measure a checkpoint on the images held out of its training.",
    "test": "Measure a checkpoint on the test images. Network and data settings are the checkpoint's.",
    "predict": "Predict the test images. To predict pictures of your own, name them: predict PATH ...",
}


def main(command: str, words: list[str]) -> None:
    """Evaluates a checkpoint by one of the three commands."""
    with refusals_of_lightning():
        run = build(command, words, DESCRIPTIONS[command])
        options: dict[str, Any] = {"datamodule": run.data, "ckpt_path": run.checkpoint, "weights_only": True}
        with naming_lost_ranks(run.trainer):
            if command == "predict":
                run.trainer.predict(run.model, **options)
            else:
                getattr(run.trainer, command)(run.model, verbose=False, **options)
