"""The command line: Lightning's fit, validate, test and predict, and our own commands beside them.

A recipe is one YAML file; `fit` without one is configs/tutorial.yaml. `test`, `validate` and `predict` build net and
normalisation from the checkpoint. Everything that Lightning's CLI offers (--config, --print_config, every flag of the
Trainer) is Lightning's own.
"""

import argparse
import logging
import os
import re
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, ProgressBar
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger

from lit_cifar.checkpoint import KEY, check_net, read_checkpoint
from lit_cifar.classifier import LitClassifier
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.errors import UsageError
from lit_cifar.last import LastCheckpoint
from lit_cifar.parser import Parser, read_recipe
from lit_cifar.progress import LitProgressBar
from lit_cifar.report import RunReport

OWN_COMMANDS = {"show": "Write a labelled grid of training images, as the net sees them, to a PNG."}
RUNS = "lightning_logs"
DRAWN_INSTEAD = (
    "LIT_CIFAR_DRAWN_INSTEAD"  # tells the processes that we start why the first one fell back on drawn images
)

UNACTIONABLE = (
    r".*isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6 with torch 2.14
    r"The number of training batches .* is smaller than the logging interval",  # short runs are shown by epoch
    r"`LightningModule.configure_optimizers` returned `None`",  # the data-parallel demonstration learns nothing
    r"torch.distributed.nn.functional.all_gather is deprecated",  # Lightning 2.6 with torch 2.14
    r"It is recommended to use `self.log\('(val|test)",  # torchmetrics has already summed over the devices
    r"`ModelCheckpoint\(monitor='val/accuracy'\)` could not find",  # --trainer.max_steps may end before validation
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",  # `test` has no use for them
)


def run(argv: list[str]) -> None:
    """Runs one command.

    Raises:
        UsageError: the words on the command line, or in a recipe, are wrong.
        UserError: something outside the program went wrong.
    """
    if argv and argv[0] in OWN_COMMANDS:
        import_module(f"lit_cifar.commands.{argv[0]}").main(argv[1:])
        return
    silence_lightning()
    LitCLI(argv)


def silence_lightning() -> None:
    """Silences Lightning's remarks (devices, tips, 'fit stopped'), and the warnings that a user can't act on."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in UNACTIONABLE:
        warnings.filterwarnings("ignore", message=message)


def recipes_folder() -> Path:
    """Where the recipes lie: beside the package in a clone, inside it where it was installed as a wheel."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


class LitCLI(LightningCLI):
    """Lightning's CLI with our parser, loggers, callbacks and report."""

    def __init__(self, argv: list[str]) -> None:
        """Parses and runs `argv`, the words after `python -m lit_cifar`."""
        command = argv[0] if argv else ""
        peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        peek.add_argument("-c", "--config", action="append", default=[])
        peek.add_argument("--ckpt_path")
        try:
            peeked, _ = peek.parse_known_args(argv[1:])
        except argparse.ArgumentError as error:
            raise UsageError(str(error)) from error
        recipes = [read_recipe(path) for path in peeked.config]
        self._recipe_name = Path(peeked.config[-1]).stem if peeked.config else "tutorial"
        if command == "fit" and not peeked.config:
            argv = ["fit", "--config", str(recipes_folder() / "tutorial.yaml"), "--data.dataset=auto", *argv[1:]]
        self._argv = argv
        checkpoint = next(filter(None, [peeked.ckpt_path, *(recipe.get("ckpt_path") for recipe in recipes)]), None)
        self._best: ModelCheckpoint | None = None
        self._card: dict[str, Any] = {}
        if checkpoint:
            self._card = read_checkpoint(checkpoint)[KEY]
        elif command in ("validate", "test", "predict") and not {"-h", "--help", "--print_config"} & set(argv):
            raise UsageError(
                f"{command} needs --ckpt_path PATH, such as lightning_logs/tutorial/version_0/checkpoints/best.ckpt"
            )
        if checkpoint and command != "fit" and not any(word.startswith("--model.net") for word in argv):
            check_net(self._card["net"], checkpoint)
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
            save_config_kwargs={"overwrite": True},
        )

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Adds the recipe's name, and takes what a checkpoint says of net and data as defaults."""
        parser.add_argument(
            "--recipe",
            type=str,
            default=self._card.get("recipe", self._recipe_name),
            help=f"Name of the recipe, by default the file's; runs land in {RUNS}/<recipe>/version_N.",
        )
        parser.set_defaults({"trainer.num_sanity_val_steps": 0, "trainer.enable_model_summary": False})
        if self.subclass_mode_model:
            return
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        if card := self._card:
            parser.set_defaults(
                {
                    "model.net": card["net"],
                    "data.dataset": "drawn" if card["dataset"] == "drawn" else "real",
                    "data.mean": card["mean"],
                    "data.std": card["std"],
                    "data.val_size": card["val_size"],
                    "seed_everything": card["seed"],
                }
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's four, without the flags that we settle: checkpoints are never unpickled."""
        ours = {"model", "datamodule", "train_dataloaders", "val_dataloaders", "dataloaders", "weights_only", "verbose"}
        return dict.fromkeys(("fit", "validate", "test", "predict"), ours)

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Parses the words given to us, not sys.argv."""
        self.config = parser.parse_args(self._argv)
        seed = self.config[self.config.subcommand].seed_everything
        if not 0 <= seed < 2**32:
            raise UsageError(f"--seed_everything {seed} must be between 0 and {2**32 - 1}")

    def instantiate_classes(self) -> None:
        """Makes model, data and Trainer of the values given; what they refuse is a mistake on the command line."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise UsageError(
                f"{' '.join(str(error).split())} Change the value on the command line or in the recipe"
            ) from error

    def before_instantiate_classes(self) -> None:
        """Checks what Lightning would answer with a traceback, and hands on a seed chosen at random."""
        config = self.config[self.subcommand]
        if not re.fullmatch(r"[\w.-]+", config.recipe) or config.recipe.startswith("."):
            raise UsageError(f"--recipe {config.recipe} must be a name of letters, digits, - and _, not a path")
        if not self.subclass_mode_model:
            config.data.seed = int(config.seed_everything)
            if os.environ.get(DRAWN_INSTEAD):
                config.data.dataset = "drawn"

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
            self.config[self.subcommand].data.dataset = "drawn"
        self.model.recipe = config.recipe
        self.model.net_config = self.config[self.subcommand].model.net.as_dict()
        name = f"{config.recipe}-drawn" if images.kind == "drawn" else config.recipe
        if config.trainer.logger in (None, True):
            root = config.trainer.default_root_dir or "."
            kwargs["logger"] = TensorBoardLogger(root, f"{RUNS}/{name}", default_hp_metric=False)
        callbacks: list[Callback] = list(config.trainer.callbacks or [])
        if config.trainer.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(LitProgressBar())
        callbacks.append(RunReport())
        if self.subcommand == "fit" and config.trainer.enable_checkpointing is not False:
            callbacks.append(LastCheckpoint())
            if self.datamodule.val_size:
                self._best = ModelCheckpoint(
                    monitor="val/accuracy", mode="max", filename="best", enable_version_counter=False
                )
                callbacks.append(self._best)
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)

    def fit(self, **kwargs: Any) -> None:
        """Trains."""
        self.trainer.fit(**kwargs, weights_only=True)

    def after_fit(self) -> None:
        """Tests the trained model: the best on validation, or the last where nothing is held out."""
        if self.subclass_mode_model or self.trainer.interrupted:
            return
        if self._best is not None and self._best.best_model_path:
            self.model.load_state_dict(read_checkpoint(self._best.best_model_path)["state_dict"])
        self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def validate(self, **kwargs: Any) -> None:
        """Measures on the images held out of training."""
        self.trainer.validate(**kwargs, weights_only=True, verbose=False)

    def test(self, **kwargs: Any) -> None:
        """Measures on the test images."""
        self.trainer.test(**kwargs, weights_only=True, verbose=False)

    def predict(self, **kwargs: Any) -> None:
        """Predicts the test images."""
        self.trainer.predict(**kwargs, weights_only=True)


def _description() -> str:
    own = "; ".join(f"{name}: {text}" for name, text in OWN_COMMANDS.items())
    return f"CIFAR-10 in PyTorch Lightning. Beside the commands below there is {own}"
