"""`python -m lit_cifar fit`: trains a network, then tests it."""

from contextlib import ExitStack

from lit_cifar.cli.arguments import refusals_of_lightning
from lit_cifar.cli.build import build
from lit_cifar.runs.checkpoint import read_checkpoint
from lit_cifar.runs.folder import release
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.trainer import naming_lost_ranks

DESCRIPTION = "Train a network, then test it. Without --config, the recipe is configs/tutorial.yaml."


def main(words: list[str]) -> None:
    """Trains, and tests the best weights on validation, or the last if nothing was held out."""
    with ExitStack() as stack, refusals_of_lightning():
        stack.callback(release)
        run = build("fit", words, DESCRIPTION)
        with naming_lost_ranks(run.trainer):
            run.trainer.fit(run.model, datamodule=run.data, ckpt_path=run.checkpoint, weights_only=True)
        if not isinstance(run.model, LitClassifier) or run.trainer.interrupted:
            return
        if run.best is not None and run.best.best_model_path:
            run.model.load_state_dict(read_checkpoint(run.best.best_model_path).content["state_dict"])
        with naming_lost_ranks(run.trainer):
            run.trainer.test(run.model, datamodule=run.data, verbose=False)
