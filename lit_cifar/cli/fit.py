"""`python -m lit_cifar fit`, and what measures a checkpoint: `validate`, `test`, and `predict` without a path."""

from contextlib import ExitStack
from pathlib import Path

from lit_cifar.cli.arguments import refusals_of_lightning
from lit_cifar.cli.build import Run, build
from lit_cifar.report import tables
from lit_cifar.report.run_report import RunReport, describe_weights
from lit_cifar.runs.checkpoint import read_checkpoint
from lit_cifar.runs.folder import release
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.lost_ranks import naming_lost_ranks
from lit_cifar.training.tested import Tested

DESCRIPTIONS = {
    "fit": "Train a network, then test it. Without --config, the recipe is configs/tutorial.yaml.",
    "validate": "Measure a checkpoint on the images held out of its training.",
    "test": "Measure a checkpoint on the test images. Network and data settings are the checkpoint's.",
    "predict": "Predict the test images. To predict pictures of your own, name them: predict PATH ...",
}


def main(command: str, words: list[str]) -> None:
    """Runs one of the four."""
    with ExitStack() as stack, refusals_of_lightning():
        stack.callback(release)
        carry_out(command, build(command, words, DESCRIPTIONS[command]))


def carry_out(command: str, run: Run, tests: bool = True) -> None:
    """Runs what was built. After `fit`, tests the best weights on validation, or the last if nothing was held out.

    With `tests` false, nobody looks at the test images.
    """
    # there is no report for classes of a user's own
    reports = any(isinstance(callback, RunReport) for callback in run.trainer.callbacks)
    quiet = {"verbose": False} if reports and command in ("validate", "test") else {}
    options = {"datamodule": run.data, "ckpt_path": run.checkpoint, "weights_only": True} | quiet
    with naming_lost_ranks(run.trainer):
        getattr(run.trainer, command)(run.model, **options)
        if command != "fit" or not reports or run.trainer.interrupted:
            return
        assert isinstance(run.model, LitClassifier)
        _take_tested_weights(run, run.model)
        if not tests or not len(run.model.datamodule.images.test.labels):
            if tests and run.trainer.is_global_zero:
                tables.print_untested(run.model.datamodule.root)
                weights = describe_weights(run.model, None)
                tables.print_weights("Kept", weights)
                tables.print_validation(weights)
            return
        run.trainer.test(run.model, datamodule=run.data, verbose=False)


def _take_tested_weights(run: Run, model: LitClassifier) -> None:
    """Loads the best weights on validation after a training, or leaves the last if nothing was held out."""
    if run.best is not None and run.best.best_model_path:
        best = read_checkpoint(run.best.best_model_path)
        model.load_state_dict(best.content["state_dict"])
        model.tested = Tested.of(best.path, best.history["trained"], best.history.get("validated"))
        return
    last = Path(run.trainer.log_dir or run.trainer.default_root_dir, "checkpoints", "last.ckpt")
    model.tested = Tested.of(last if last.exists() else None, model.record.trained, model.record.validated)
