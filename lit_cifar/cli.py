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
from typing import Any, Literal

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger

from lit_cifar.best import BestCheckpoint
from lit_cifar.checkpoint import KEY, check_net, check_resumable, newest_checkpoint, read_checkpoint
from lit_cifar.classifier import LitClassifier
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.errors import UsageError
from lit_cifar.last import LastCheckpoint
from lit_cifar.loop import lean
from lit_cifar.parser import Parser, read_recipe
from lit_cifar.precision import fast_precision
from lit_cifar.processes import leave_process_group_at_exit, naming_lost_ranks
from lit_cifar.progress import LitProgressBar
from lit_cifar.report import RunReport

OWN_COMMANDS = {
    "show": "Write a labelled grid of training images, as the net sees them, to a PNG.",
    "bench": "Compare speed with other ways to do the same, or train with several seeds.",
}
RUNS = "lightning_logs"
DRAWN_INSTEAD = (
    "LIT_CIFAR_DRAWN_INSTEAD"  # tells the processes that we start why the first one fell back on drawn images
)

UNACTIONABLE = (
    r".*isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6 with torch 2.14
    r"Total length of `list` across ranks is zero",  # --data.val_size 0
    r"The number of training batches .* is smaller than the logging interval",  # short runs are shown by epoch
    r"`LightningModule.configure_optimizers` returned `None`",  # the data-parallel demonstration learns nothing
    r"torch.distributed.nn.functional.all_gather is deprecated",  # Lightning 2.6 with torch 2.14
    r"It is recommended to use `self.log\('(val|test)",  # torchmetrics has already summed over the devices
    r"`ModelCheckpoint\(monitor='val/accuracy'\)` could not find",  # --trainer.max_steps may end before validation
    r"Checkpoint directory .* exists and is not empty",  # a resumed run goes on in its own folder
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
    leave_process_group_at_exit()
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


def _peek(words: list[str]) -> argparse.Namespace:
    """The few flags that decide how the others are read."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--ckpt_path")
    parser.add_argument("--recipe")
    parser.add_argument("--resume")
    parser.add_argument("--trainer.default_root_dir", dest="default_root_dir")
    try:
        return parser.parse_known_args(words)[0]
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error


class LitCLI(LightningCLI):
    """Lightning's CLI with our parser, loggers, callbacks and report."""

    def __init__(self, argv: list[str]) -> None:
        """Parses and runs `argv`, the words after `python -m lit_cifar`."""
        command = argv[0] if argv else ""
        peeked = _peek(argv[1:])
        recipes = [read_recipe(path) for path in peeked.config]
        settings = {key: value for recipe in recipes for key, value in recipe.items()}
        if command == "fit" and not peeked.config:
            argv = ["fit", "--config", str(recipes_folder() / "tutorial.yaml"), "--data.dataset=auto", *argv[1:]]
        self._argv = argv
        stem = Path(peeked.config[-1]).stem if peeked.config else "tutorial"
        self._recipe = peeked.recipe or settings.get("recipe") or stem
        self._best: BestCheckpoint | None = None
        self._card: dict[str, Any] = {}
        root = peeked.default_root_dir or (settings.get("trainer") or {}).get("default_root_dir") or "."
        self._checkpoint = self._find_checkpoint(command, peeked, settings.get("ckpt_path"), Path(root))
        if self._checkpoint:
            self._card = read_checkpoint(self._checkpoint)[KEY]
            if command != "fit" and not any(word.startswith("--model.net") for word in argv):
                check_net(self._card["net"], self._checkpoint)
        elif command in ("validate", "test", "predict") and not {"-h", "--help", "--print_config"} & set(argv):
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
            save_config_kwargs={"overwrite": True},
        )

    def _find_checkpoint(
        self, command: str, peeked: argparse.Namespace, in_recipe: str | None, root: Path
    ) -> Path | None:
        """The checkpoint to start from: `last` and `best` mean the newest intact one of this recipe's runs."""
        path = peeked.ckpt_path or in_recipe
        name = "last" if path is None and command == "fit" and peeked.resume == "auto" else path
        if name not in ("last", "best"):
            return Path(path) if path else None
        runs = root / RUNS / self._recipe
        found = newest_checkpoint(runs, name) or newest_checkpoint(runs.with_name(f"{self._recipe}-drawn"), name)
        if found is None and path is not None:
            raise UsageError(f"--ckpt_path {name}: there is no intact {name}.ckpt in {runs}/version_*/checkpoints")
        return found

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> Any:
        """Fills the parser of the command at hand, and not those of the others: 0.05 s each."""
        if self._argv and self._argv[0] in self.subcommands() and subcommand != self._argv[0]:
            self._subcommand_method_arguments[subcommand] = []
            return self.init_parser(**kwargs)
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Adds the recipe's name, and takes what a checkpoint says of net and data as defaults."""
        parser.add_argument(
            "--recipe",
            type=str,
            default=self._recipe if self._argv[0] == "fit" else self._card.get("recipe", self._recipe),
            help=f"Name of the recipe, by default the file's; runs land in {RUNS}/<recipe>/version_N.",
        )
        parser.add_argument(
            "--resume",
            type=Literal["never", "auto"],
            default="never",
            help="auto: go on from the newest intact last.ckpt of this recipe, if there is one (fit).",
        )
        parser.add_argument(
            "--checkpoint_seconds",
            type=float,
            default=60,
            help="Seconds between two writings of last.ckpt, which is also written at the end of each epoch (fit).",
        )
        parser.add_argument(
            "--fast_precision",
            type=bool,
            default=False,
            help="Compute in bf16 or half where the hardware is fast at it, whatever --trainer.precision says.",
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
        if config.fast_precision:
            config.trainer.precision = fast_precision(_device(config.trainer.accelerator))
        config.ckpt_path = None  # so that config.yaml repeats the run from its beginning
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
            kwargs["logger"] = TensorBoardLogger(root, f"{RUNS}/{name}", default_hp_metric=False, **self._same_run())
        callbacks: list[Callback] = list(config.trainer.callbacks or [])
        if config.trainer.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(LitProgressBar())
        callbacks.append(RunReport())
        if self.subcommand == "fit" and config.trainer.enable_checkpointing is not False:
            if self.datamodule.val_size:
                self._best = BestCheckpoint()
                callbacks.append(self._best)
            callbacks.append(LastCheckpoint(config.checkpoint_seconds))  # after the best, of which it tells
        return lean(super().instantiate_trainer(callbacks=callbacks, **kwargs))

    def _same_run(self) -> dict[str, Any]:
        """Arguments for a logger that goes on in the run folder of last.ckpt, and drops the steps that were lost."""
        if self.subcommand != "fit" or self._checkpoint is None or self._checkpoint.name != "last.ckpt":
            return {}
        return {
            "version": self._checkpoint.parent.parent.name,
            "purge_step": self._card["record"]["trained"]["steps"] + 1,
        }

    def fit(self, **kwargs: Any) -> None:
        """Trains."""
        if self._checkpoint and not self.subclass_mode_model:
            check_resumable(self._card, self._checkpoint, self.model, self.datamodule)
        with naming_lost_ranks(self.trainer):
            self.trainer.fit(**kwargs | self._from_checkpoint())

    def _from_checkpoint(self) -> dict[str, Any]:
        return {"ckpt_path": self._checkpoint and str(self._checkpoint), "weights_only": True}

    def after_fit(self) -> None:
        """Tests the trained model: the best on validation, or the last where nothing is held out."""
        if self.subclass_mode_model or self.trainer.interrupted:
            return
        if self._best is not None and self._best.best_model_path:
            self.model.load_state_dict(read_checkpoint(self._best.best_model_path)["state_dict"])
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


def _device(accelerator: Any) -> torch.device:
    """The kind of device that Lightning will choose."""
    if accelerator in ("cuda", "gpu", "auto") and torch.cuda.is_available():
        return torch.device("cuda", 0)
    if accelerator in ("mps", "gpu", "auto") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _description() -> str:
    own = "; ".join(f"{name}: {text}" for name, text in OWN_COMMANDS.items())
    return f"CIFAR-10 in PyTorch Lightning. Beside the commands below there is {own}"
