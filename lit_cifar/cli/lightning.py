"""The command line: Lightning's fit, validate, test and predict, and our own commands beside them.

A recipe is one YAML file; `fit` without one is configs/tutorial.yaml. `test`, `validate` and `predict` build net and
normalisation from the checkpoint. Everything that Lightning's CLI offers (--config, --print_config, every flag of the
Trainer) is Lightning's own.
"""

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import BatchSizeFinder, Callback, ProgressBar
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from lit_cifar.cli.parser import Parser, add_run_arguments, cause
from lit_cifar.cli.peek import checkpoint_to_start_from, fill_in, peek
from lit_cifar.cli.quiet import silence_lightning
from lit_cifar.cli.recipe import read_recipe, recipes_folder
from lit_cifar.cli.values import ELSE, check_values, refusals_of_lightning
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.errors import UsageError
from lit_cifar.report.finders import FINDERS, Finders
from lit_cifar.report.run_report import RunReport
from lit_cifar.runs.checkpoint import RunCheckpoints, check_resumable, read_checkpoint
from lit_cifar.runs.folder import RUNS, RunLogger, WholeConfig, beside_tensorboard, hold, new_version, release
from lit_cifar.runs.network import default_net
from lit_cifar.training.callbacks.best_checkpoint import BestCheckpoint
from lit_cifar.training.callbacks.progress import LitProgressBar
from lit_cifar.training.callbacks.resume_checkpoint import LastCheckpoint
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.precision import chosen_device, fast_precision
from lit_cifar.training.processes import leave_process_group_at_exit, naming_lost_ranks
from lit_cifar.training.trainer import lean
from lit_cifar.training.trial import check

OWN_COMMANDS = {
    "show": "Write a labelled grid of training images, as the net sees them, to a PNG.",
    "bench": "Compare speed with other ways to do the same, or train with several seeds or budgets.",
    "export": "Write a trained network, with its preprocessing, to an ONNX, torch.export or safetensors file.",
    "demo": "Serve a page on which to try a trained network with pictures of your own.",
}
DRAWN_INSTEAD = (
    "LIT_CIFAR_DRAWN_INSTEAD"  # tells the processes that we start why the first one fell back on drawn images
)

HOME = r"^(--[\w.+]+=)?~(?=[/\\]|$)"  # most shells know a ~ at the beginning of a word alone


def run(argv: list[str]) -> None:
    """Runs one command.

    Raises:
        UsageError: the words on the command line, or in a recipe, are wrong.
        UserError: something outside the program went wrong.
    """
    for word in argv:
        if re.fullmatch(r"--[\w.]+=--", word):  # argparse takes it for an empty list
            raise UsageError(f"{word}: -- is no value; give it another")
    argv = [re.sub(HOME, lambda found: f"{found[1] or ''}{Path.home()}", word) for word in argv]
    if argv and argv[0] in OWN_COMMANDS:
        import_module(f"lit_cifar.cli.{argv[0]}").main(argv[1:])
        return
    if argv and argv[0] == "predict":
        from lit_cifar.cli import predict

        if predict.names_pictures(argv[1:]):
            predict.main(argv[1:])
            return
    silence_lightning()
    leave_process_group_at_exit()
    try:
        with refusals_of_lightning():
            LitCLI(argv)
    finally:
        release()


class LitCLI(LightningCLI):
    """Lightning's CLI with our parser, loggers, callbacks and report."""

    def __init__(self, argv: list[str]) -> None:
        """Parses and runs `argv`, the words after `python -m lit_cifar`."""
        command = argv[0] if argv else ""
        peeked = peek(argv[1:])
        recipes = [read_recipe(path) for path in peeked.config]
        fill_in(peeked, recipes)
        if command == "fit" and not peeked.config:
            argv = ["fit", "--config", str(recipes_folder() / "tutorial.yaml"), "--data.dataset=auto", *argv[1:]]
        self._argv = argv
        self._recipe = peeked.recipe_name
        self._precision_named = peeked.precision is not None
        self._best: BestCheckpoint | None = None
        self._net: dict[str, Any] | None = None
        self._checkpoint = checkpoint_to_start_from(command, peeked)
        if self._checkpoint:
            if self._goes_on(command):
                hold(self._checkpoint.path.parent)
            self._net = default_net(self._checkpoint, peeked.net, command == "fit")
        elif command in ("validate", "test", "predict") and not any(
            word.split("=")[0] in ("-h", "--help", "--print_config") for word in argv
        ):
            raise UsageError(f"{command} needs --ckpt_path: a path, or best or last for the newest run's")
        own_classes = not any("class_path" in (recipe.get("model") or {}) for recipe in recipes)
        super().__init__(
            LitClassifier if own_classes else LightningModule,
            CIFAR10DataModule if own_classes else LightningDataModule,
            subclass_mode_model=not own_classes,
            subclass_mode_data=not own_classes,
            parser_class=Parser,
            parser_kwargs={"prog": "python -m lit_cifar", "description": _description()},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=WholeConfig,
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> Any:
        """Fills the parser of the command at hand, and not those of the others: 0.05 s each."""
        if self._argv and self._argv[0] in self.subcommands() and subcommand != self._argv[0]:
            self._subcommand_method_arguments[subcommand] = []
            return self.init_parser(**kwargs)
        if subcommand == "predict":
            kwargs["description"] = (
                "Predict the test images; predict PATH ... predicts pictures of your own (predict . -h)."
            )
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Adds the recipe's name, and takes what a checkpoint says of net and data as defaults."""
        card = self._checkpoint and self._checkpoint.card
        recipe = card.recipe if card and self._argv[:1] != ["fit"] else self._recipe
        add_run_arguments(parser, recipe)
        parser.set_defaults({"trainer.num_sanity_val_steps": 0, "trainer.enable_model_summary": False})
        if self.subclass_mode_model:
            return
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        if card:
            parser.set_defaults(
                {
                    "data.dataset": "drawn" if card.dataset == "drawn" else "real",
                    "data.mean": card.mean,
                    "data.std": card.std,
                    "data.val_size": card.val_size,
                    "seed_everything": card.seed,
                    "model.test_time_augmentation": card.test_time_augmentation,
                    "model.confidence_threshold": card.confidence_threshold,
                }
                | ({"model.net": self._net} if self._net else {})
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's four, without the flags that we settle: checkpoints are never unpickled."""
        ours = {"model", "datamodule", "train_dataloaders", "val_dataloaders", "dataloaders", "weights_only", "verbose"}
        ours.add("return_predictions")
        return dict.fromkeys(("fit", "validate", "test", "predict"), ours)

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Parses the words given to us, not sys.argv."""
        self.config = parser.parse_args(self._argv)
        check_values(self.config[self.config.subcommand])

    def _parse_ckpt_path(self) -> None:
        """Lightning would make the model of class paths in the checkpoint; ours come from `default_net`."""

    def instantiate_classes(self) -> None:
        """Makes model, data and Trainer of the values given; what they refuse is a mistake on the command line."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
            raise UsageError(f"{cause(str(error)).rstrip('.')}. {ELSE}") from error

    def before_instantiate_classes(self) -> None:
        """Chooses the precision, unless the command line or the recipe does."""
        config = self.config[self.subcommand]
        if config.fast_precision and not self._precision_named:
            config.trainer.precision = fast_precision(chosen_device(config.trainer.accelerator))
        if config.trainer.default_root_dir:
            config.trainer.default_root_dir = str(Path(config.trainer.default_root_dir).expanduser())
        config.ckpt_path, config.resume = None, "never"  # so that config.yaml repeats the run from its beginning
        if not self.subclass_mode_model and os.environ.get(DRAWN_INSTEAD):
            config.data.dataset = "drawn"
        if self._checkpoint and self._goes_on(self.subcommand):
            asked = config.trainer.logger
            for logger in asked if isinstance(asked, list) else [asked]:
                if str(getattr(logger, "class_path", "")).endswith("MLFlowLogger") and not logger.init_args.run_id:
                    logger.init_args.run_id = self._checkpoint.mlflow_run

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds logger, progress bar, checkpoints and report to what the user asks for."""
        config = self.config_init[self.subcommand]
        if config.trainer.logger is False:
            self.save_config_callback = None  # without a logger there is no run folder
        if self.subclass_mode_model:
            return super().instantiate_trainer(**kwargs)
        images = self.datamodule.images
        if images.why_drawn:
            os.environ[DRAWN_INSTEAD] = images.why_drawn
        # so that config.yaml repeats the run, or fails where its images are gone
        self.config[self.subcommand].data.dataset = "drawn" if images.kind == "drawn" else "real"
        if self.subcommand != "fit" or not self._checkpoint:  # there `check_resumable` comes first
            check(self.model, self.datamodule)  # before anything is written
        if self.subcommand == "validate" and not self.datamodule.val_size:
            raise UsageError("validate has nothing to measure on: --data.val_size is 0, so no images were held out")
        self.model.name_run(config.recipe, self.config[self.subcommand].model.net.as_dict())
        name = f"{config.recipe}-drawn" if images.kind == "drawn" else config.recipe
        root = config.trainer.default_root_dir or "."
        ours = RunLogger(root, f"{RUNS}/{name}", default_hp_metric=False, **self._same_run(Path(root, RUNS, name)))
        kwargs["logger"] = beside_tensorboard(config.trainer.logger, ours)
        asked = config.trainer.callbacks or []
        callbacks: list[Callback] = [asked] if isinstance(asked, Callback) else list(asked)
        if any(isinstance(callback, FINDERS) for callback in callbacks):
            callbacks = self._with_finders(callbacks)
        if config.trainer.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(LitProgressBar())
        callbacks.append(RunReport())
        kept = config.trainer.enable_checkpointing is not False and not config.trainer.fast_dev_run
        if self.subcommand == "fit" and kept:
            if self.datamodule.val_size:
                self._best = BestCheckpoint()
                callbacks.append(self._best)
            callbacks.append(LastCheckpoint(config.checkpoint_seconds))  # after the best, of which it tells
        trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):  # the report would be of its child
            raise UsageError(f"--trainer.strategy {config.trainer.strategy} is for notebooks; take ddp")
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = RunCheckpoints(self._checkpoint)
        return lean(trainer)

    def _with_finders(self, callbacks: list[Callback]) -> list[Callback]:
        """Lightning's finders before a training; a training that goes on, or a test, has no use for them."""
        if self._checkpoint and any(isinstance(callback, BatchSizeFinder) for callback in callbacks):
            self.datamodule.batch_size = self._checkpoint.card.batch_size
        if self.subcommand != "fit" or self._checkpoint:
            return [callback for callback in callbacks if not isinstance(callback, FINDERS)]
        return [Finders(), *callbacks]

    def _goes_on(self, command: str | None) -> bool:
        """Whether this is the training that wrote a last.ckpt, resumed."""
        return command == "fit" and self._checkpoint is not None and self._checkpoint.path.name == "last.ckpt"

    def _same_run(self, runs: Path) -> dict[str, Any]:
        """Arguments for a logger that goes on in the run folder of last.ckpt, and drops the steps that were lost.

        A last.ckpt from elsewhere than `runs` begins a new folder, lest it be that of another run.
        """
        if not self._goes_on(self.subcommand) or self._checkpoint is None:
            return {"version": new_version(runs)}
        if self._checkpoint.path.resolve().parents[2] != runs.resolve():
            return {"version": new_version(runs)}
        return {
            "version": self._checkpoint.path.parents[1].name,
            "purge_step": self._checkpoint.history["trained"]["steps"] + 1,
        }

    def fit(self, **kwargs: Any) -> None:
        """Trains."""
        if self._checkpoint and not self.subclass_mode_model:
            check_resumable(self._checkpoint, self.model.make_card(self.datamodule), self.datamodule.root)
        with naming_lost_ranks(self.trainer):
            self.trainer.fit(**kwargs | self._from_checkpoint())

    def _from_checkpoint(self) -> dict[str, Any]:
        return {"ckpt_path": self._checkpoint and str(self._checkpoint.path), "weights_only": True}

    def after_fit(self) -> None:
        """Tests the trained model: the best on validation, or the last where nothing is held out."""
        if self.subclass_mode_model or self.trainer.interrupted:
            return
        if self._best is not None and self._best.best_model_path:
            self.model.load_state_dict(read_checkpoint(self._best.best_model_path).content["state_dict"])
        with naming_lost_ranks(self.trainer):
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def validate(self, **kwargs: Any) -> None:
        """Measures on the images held out of training."""
        with naming_lost_ranks(self.trainer):
            self.trainer.validate(**kwargs | self._from_checkpoint(), verbose=False)

    def test(self, **kwargs: Any) -> None:
        """Measures on the test images."""
        with naming_lost_ranks(self.trainer):
            self.trainer.test(**kwargs | self._from_checkpoint(), verbose=False)

    def predict(self, **kwargs: Any) -> None:
        """Predicts the test images."""
        with naming_lost_ranks(self.trainer):
            self.trainer.predict(**kwargs | self._from_checkpoint())


def _description() -> str:
    own = "; ".join(f"{name}: {text}" for name, text in OWN_COMMANDS.items())
    own += "; predict PATH ...: Predict pictures of your own."
    return f"CIFAR-10 in PyTorch Lightning. Beside the commands below there is {own}"
