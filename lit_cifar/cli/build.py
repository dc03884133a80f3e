"""From the words of a command line to data, model, callbacks and Trainer; `build` is the whole way, top to bottom."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import BatchSizeFinder, Callback, ProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from lit_cifar.cli.arguments import check_values
from lit_cifar.cli.parser import Parser, add_run_arguments
from lit_cifar.cli.process import DRAWN_INSTEAD
from lit_cifar.cli.recipes import Given, recipes_folder
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.errors import UsageError
from lit_cifar.report.finders import FINDERS, Finders
from lit_cifar.report.run_report import RunReport
from lit_cifar.runs.checkpoint import KEY, RUNS, check_resumable, default_net, evaluation_settings, read_checkpoint
from lit_cifar.runs.folder import RunLogger, WholeConfig, beside_tensorboard
from lit_cifar.runs.lock import hold
from lit_cifar.runs.newest import named_checkpoint, newest_checkpoint
from lit_cifar.training.callbacks.best_checkpoint import BestCheckpoint
from lit_cifar.training.callbacks.progress import LitProgressBar
from lit_cifar.training.callbacks.resume_checkpoint import LastCheckpoint
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.precision import chosen_device, fast_precision
from lit_cifar.training.trainer import lean
from lit_cifar.training.trial import check


class Run(NamedTuple):
    """What a command works with."""

    trainer: pl.Trainer
    model: pl.LightningModule
    data: pl.LightningDataModule
    checkpoint: Path | None
    """Where the command starts from."""
    best: BestCheckpoint | None
    """Keeps the best weights of a training; None if nothing is held out to measure them on."""


class Start(NamedTuple):
    """The checkpoint that a command starts from."""

    path: Path
    card: dict[str, Any]
    net: dict[str, Any] | None
    """The network that it names; None if that is not to be trusted and the user names another."""
    is_resumed: bool
    """Whether the training that wrote it goes on."""


def build(command: str, words: list[str], description: str) -> Run:
    """Makes what a command needs; nothing is written before network, loss and optimizer have been tried.

    Raises:
        UsageError: A word, a recipe or a value is wrong.
        UserError: A file is damaged, or can't be read or downloaded.
    """
    if command == "fit" and not {"-c", "--config"} & {word.partition("=")[0] for word in words}:
        words = [f"--config={recipes_folder() / 'tutorial.yaml'}", "--data.dataset=auto", *words]
    given = Given(words)
    start = _start(command, given)
    parser = _parser(command, given, start, description)
    config = parser.parse_args(given.words)
    check_values(config)
    if config.fast_precision and given.get("trainer.precision") is None:
        config.trainer.precision = fast_precision(chosen_device(config.trainer.accelerator))
    if config.trainer.default_root_dir:
        config.trainer.default_root_dir = str(Path(config.trainer.default_root_dir).expanduser())
    config.ckpt_path, config.resume = None, "never"  # so that config.yaml repeats the run from its beginning
    pl.seed_everything(config.seed_everything, workers=True, verbose=False)
    if given.own_classes:
        made = parser.make(config)
        trainer = _trainer(
            made.trainer, [*_asked(made.trainer.callbacks), WholeConfig(parser.dump(config, **AS_IT_IS))]
        )
        return Run(trainer, made.model, made.data, start and start.path, None)

    if os.environ.get(DRAWN_INSTEAD):
        config.data.dataset = "drawn"
    made = parser.make(_with_mlflow_run(config, start) if start and start.is_resumed else config)
    data = CIFAR10DataModule(**vars(made.data), seed=config.seed_everything)
    model = LitClassifier(**vars(made.model))
    model.recipe, model.net_config = config.recipe, config.model.net.as_dict()
    if data.images.why_drawn:
        os.environ[DRAWN_INSTEAD] = data.images.why_drawn
    # so that config.yaml repeats the run, or fails if its images are gone
    config.data.dataset = "drawn" if data.images.kind == "drawn" else "real"
    if start and command == "fit":
        check_resumable(start.card, start.path, model, data)
    check(model, data)
    if command == "validate" and not data.val_size:
        raise UsageError("validation-empty", "validate has no images: --data.val_size is 0, so none were held out")

    root = config.trainer.default_root_dir or "."
    name = f"{RUNS}/{config.recipe}{'-drawn' if data.images.kind == 'drawn' else ''}"
    ours = RunLogger(root, name, default_hp_metric=False, **_same_folder(start, Path(root, name)))
    loggers = beside_tensorboard(made.trainer.logger, ours)
    callbacks = _asked(made.trainer.callbacks)
    if any(isinstance(callback, FINDERS) for callback in callbacks):
        callbacks = _with_finders(callbacks, command, start, data)
    if made.trainer.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
        callbacks.append(LitProgressBar())
    callbacks.append(RunReport())
    best = None
    if command == "fit" and made.trainer.enable_checkpointing is not False and not made.trainer.fast_dev_run:
        if data.val_size:
            callbacks.append(best := BestCheckpoint())
        callbacks.append(LastCheckpoint(config.checkpoint_seconds))  # after the best, whose state it saves
    if not made.trainer.fast_dev_run:
        callbacks.append(WholeConfig(parser.dump(config, **AS_IT_IS)))
    return Run(_trainer(made.trainer, callbacks, loggers), model, data, start and start.path, best)


AS_IT_IS: dict[str, Any] = {"skip_unset": False}  # a null in config.yaml is written, too


def _start(command: str, given: Given) -> Start | None:
    """Finds and reads the checkpoint to start from."""
    path = _checkpoint_path(command, given)
    if path is None:
        if command == "fit" or {"-h", "--help"} & {*given.words} or any("--print_config" in w for w in given.words):
            return None
        sentence = f"{command} needs --ckpt_path: a path, or best or last for the newest run's"
        raise UsageError("value-missing", sentence)
    is_resumed = command == "fit" and path.name == "last.ckpt"
    if is_resumed:
        hold(path.parent)
    card = read_checkpoint(path)[KEY]
    named = [*given.flags("--model.net"), *given.flags("--model.net.class_path")]
    net = default_net(card["net"], path, named[-1] if named else None, command == "fit")
    return Start(path, card, net, is_resumed)


def _checkpoint_path(command: str, given: Given) -> Path | None:
    """`last` and `best` are the newest intact one, of this recipe if one is named."""
    path = given.get("ckpt_path")
    name = "last" if path is None and command == "fit" and given.get("resume") == "auto" else path
    if name not in ("last", "best"):
        return Path(path) if path else None
    root = Path(given.get("trainer.default_root_dir") or ".").expanduser()
    has_folder = str(given.get("trainer.logger")).lower() != "false"
    if has_folder and command != "fit" and not given.recipes and not given.flags("--recipe"):
        return named_checkpoint(name, root)
    if has_folder:
        recipe = _recipe_name(given)
        names = {"real": [recipe], "drawn": [f"{recipe}-drawn"]}
        folders = [root / RUNS / name for name in names.get(given.get("data.dataset"), [recipe, f"{recipe}-drawn"])]
        pattern = f"version_*/checkpoints/{name}.ckpt"
    else:  # checkpoints are where Lightning puts them
        folders, pattern = [root], f"checkpoints/{name}.ckpt"
    found = newest_checkpoint(folders, pattern)
    if found is None and path is not None:
        raise UsageError("checkpoint-missing", f"--ckpt_path {name}: there is no intact {folders[0] / pattern}")
    return found


def _recipe_name(given: Given) -> str:
    return str(given.get("recipe") or Path([*given.recipes, "tutorial"][len(given.recipes) - 1]).stem)


def _parser(command: str, given: Given, start: Start | None, description: str) -> Parser:
    """The parser of the command, whose defaults are what the checkpoint says of network and data."""
    parser = Parser(prog=f"python -m lit_cifar {command}", description=description)
    parser.given = given
    name = _recipe_name(given)
    add_run_arguments(parser, name if command == "fit" or not start else start.card.get("recipe", name))
    options: dict[str, Any] = {"sub_configs": True, "fail_untyped": False}
    if given.own_classes:
        parser.add_subclass_arguments(pl.LightningDataModule, "data", fail_untyped=False)
        parser.add_subclass_arguments(pl.LightningModule, "model", fail_untyped=False)
    else:
        parser.add_class_arguments(CIFAR10DataModule, "data", instantiate=False, skip={"seed"}, **options)
        parser.add_class_arguments(LitClassifier, "model", instantiate=False, **options)
    parser.add_class_arguments(pl.Trainer, "trainer", instantiate=False, **options)
    parser.set_defaults({"trainer.num_sanity_val_steps": 0, "trainer.enable_model_summary": False})
    for group in SECTION_TITLES.keys() & parser.groups.keys():
        parser.groups[group].title = SECTION_TITLES[group]
    if start and not given.own_classes:
        card = start.card
        known = {"data.mean": card["mean"], "data.std": card["std"], "data.val_size": card["val_size"]}
        known |= {"data.dataset": "drawn" if card["dataset"] == "drawn" else "real", "seed_everything": card["seed"]}
        known |= {f"model.{key}": value for key, value in evaluation_settings(card).items()}
        parser.set_defaults(known | ({"model.net": start.net} if start.net else {}))
    return parser


SECTION_TITLES = {"data": "data", "model": "model", "trainer": "trainer (all flags of Lightning's Trainer)"}


def _trainer(settings: Any, callbacks: list[Callback], loggers: list[Logger] | None = None) -> pl.Trainer:
    """The Trainer, with what is ours besides what the user asked for."""
    ours = {"callbacks": callbacks} if loggers is None else {"callbacks": callbacks, "logger": loggers}
    try:
        trainer = pl.Trainer(**{**vars(settings), **ours})
    except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
        raise UsageError("value-invalid", f"{' '.join(str(error).split()).rstrip('.')}. Change the value") from error
    if loggers is None:
        return trainer
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):  # the report would be its child's
        raise UsageError("value-invalid", f"--trainer.strategy {settings.strategy} is for notebooks; use ddp")
    return lean(trainer)


def _asked(callbacks: Any) -> list[Callback]:
    return [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])


def _with_mlflow_run(config: Any, start: Start) -> Any:
    """A copy in which MLFlowLogger goes on in the run of the checkpoint, unless the user names another."""
    config = config.clone()
    loggers = config.trainer.logger if isinstance(config.trainer.logger, list) else [config.trainer.logger]
    for logger in loggers:
        if hasattr(logger, "class_path") and logger.class_path.endswith("MLFlowLogger"):
            logger.init_args.run_id = logger.init_args.run_id or start.card.get("mlflow_run")
    return config


def _with_finders(
    callbacks: list[Callback], command: str, start: Start | None, data: CIFAR10DataModule
) -> list[Callback]:
    """Lightning's finders run before a training; one that goes on, or a test, leaves them out."""
    if start and any(isinstance(callback, BatchSizeFinder) for callback in callbacks):
        data.batch_size = start.card["batch_size"]
    if command != "fit" or start:
        return [callback for callback in callbacks if not isinstance(callback, FINDERS)]
    return [Finders(), *callbacks]


def _same_folder(start: Start | None, runs: Path) -> dict[str, Any]:
    """Arguments for a logger that goes on in the run folder of last.ckpt, and drops the steps that were lost.

    A last.ckpt from outside `runs` begins a new folder, which could otherwise be that of another run.
    """
    if not start or not start.is_resumed or start.path.resolve().parent.parent.parent != runs.resolve():
        return {}
    return {"version": start.path.parent.parent.name, "purge_step": start.card["record"]["trained"]["steps"] + 1}
