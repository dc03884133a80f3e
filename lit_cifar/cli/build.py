"""From the words of a command line to data, model, callbacks and Trainer: `parse`, then the rest of `build`."""

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from jsonargparse import Namespace
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import BatchSizeFinder, Callback, LearningRateFinder, StochasticWeightAveraging
from pytorch_lightning.loggers import Logger

from lit_cifar.cli.arguments import check_values, checked_note
from lit_cifar.cli.help import FIT, MEASURE
from lit_cifar.cli.net_arguments import (
    complete_class_paths,
    described,
    set_from_data,
    take_open_arguments,
    without_download,
)
from lit_cifar.cli.parser import Parser, add_run_arguments
from lit_cifar.cli.recipes import Given, recipes_folder
from lit_cifar.cli.start import initial_weights, recipe_name, starting_checkpoint
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.errors import UsageError
from lit_cifar.report.finders import FINDERS, Finders
from lit_cifar.report.run_report import RunReport
from lit_cifar.runs.card import describe
from lit_cifar.runs.checkpoint import Checkpoint, RunCheckpoints, check_resumable, readable
from lit_cifar.runs.folder import PlainFolder, RunLogger, WholeConfig
from lit_cifar.runs.network import default_loss, default_net
from lit_cifar.runs.state import RUNS
from lit_cifar.training.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, check_callbacks
from lit_cifar.training.callbacks.requirements import refuse_overwriting, require_metrics
from lit_cifar.training.callbacks.run_state import RunStateWriter
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.initial_weights import take_weights
from lit_cifar.training.preparation import chosen_device, fast_precision
from lit_cifar.training.trainer import Trainer, refuse_spawned

DRAWN_INSTEAD = "LIT_CIFAR_DRAWN_INSTEAD"
"""Tells the processes that a run starts why their parent fell back on synthetic images."""


class Run(NamedTuple):
    """What a command works with."""

    trainer: Trainer
    model: pl.LightningModule
    data: pl.LightningDataModule
    checkpoint: str | None  # path of the one to start from
    best: BestCheckpoint | None  # None if nothing is held out to measure weights on


class Parsed(NamedTuple):
    """What a command line says."""

    parser: Parser
    config: Namespace
    given: Given
    start: Checkpoint | None  # to start from
    weights: Checkpoint | None  # whose weights a new training takes
    note: str | None
    chosen_precision: bool  # by the hardware


def parse(command: str, words: list[str], description: str) -> Parsed:
    """Checks every word, key and type; no class is made, and no image is read."""
    is_default = command == "fit" and not {"-c", "--config"} & {word.partition("=")[0] for word in words}
    if is_default:
        words = [f"--config={recipes_folder() / 'tutorial.yaml'}", "--data.dataset=auto", *words]
    given = Given(words)
    complete_class_paths(given)
    weights = initial_weights(command, given)
    start = starting_checkpoint(command, given)
    if is_default and (start or weights):  # nobody has named the tutorial's network
        for recipe in given.recipes.values():
            del recipe["model"]["net"]
    parser = _parser(command, given, start, weights, description)
    config = parser.parse_args(given.words)
    check_values(config)
    chosen = config.fast_precision and given.get("trainer.precision") is None
    if chosen:
        config.trainer.precision = fast_precision(chosen_device(config.trainer.accelerator))
    if config.trainer.default_root_dir:
        config.trainer.default_root_dir = str(Path(config.trainer.default_root_dir).expanduser())
    note = checked_note(config.note)
    config.ckpt_path, config.resume, config.note = None, "never", None  # config.yaml repeats the run from its beginning
    config.init_from = str(weights.path) if weights else start.card.init_from if start and command == "fit" else None
    return Parsed(parser, config, given, start, weights, note, chosen)


def build(command: str, words: list[str], description: str) -> Run:
    """Makes what a command needs; nothing is written before network, loss and optimizer have been tried.

    Raises UsageError for a wrong word, recipe or value, and UserError for a file that is damaged or can't be had.
    """
    parser, config, given, start, weights, note, chosen = parse(command, words, description)
    is_resumed = command == "fit" and start is not None and start.path.name == "last.ckpt"
    pl.seed_everything(config.seed_everything, workers=True, verbose=False)
    path = str(start.path) if start else None
    if given.own_classes and weights:
        raise UsageError(
            "value-invalid", f"--init_from {weights.path} is for LitClassifier, not for a module of your own"
        )
    if given.own_classes:
        made = parser.make(config)
        callbacks = [*_asked(made.trainer.callbacks), WholeConfig(parser.dump(config, skip_unset=False))]
        if command == "fit" and not made.trainer.fast_dev_run:
            callbacks.append(RunStateWriter(note))
        return Run(_trainer(made.trainer, callbacks=callbacks), made.model, made.data, path, None)

    if start and command != "fit" and start.card.mean and config.data.normalize == "data":
        config.data.normalize = [start.card.mean, start.card.std]  # of the images it was trained on
    if os.environ.get(DRAWN_INSTEAD):
        config.data.dataset = "drawn"
    data = CIFAR10DataModule(**vars(config.data) | {"transform": None}, seed=config.seed_everything)
    if command == "fit":
        set_from_data(config.model.net, given, len(data.classes), data.image_size)
    chosen_now = _in_mlflow_run(config, start.mlflow_run) if start and is_resumed else config
    made = parser.make(without_download(chosen_now) if start or weights else chosen_now)
    data.augmentation = replace(data.augmentation, transform=made.data.transform)
    model = LitClassifier(**vars(made.model))
    model.name_run(config.recipe, net=described(config.model.net), **_described(config, made))
    model.init_from = config.init_from
    if command in ("fit", "validate"):
        data.prepare_data()  # refuses a validation split that leaves no images
    if data.images.why_drawn:
        os.environ[DRAWN_INSTEAD] = data.images.why_drawn
    config.data.dataset = data.images.kind  # so that config.yaml repeats the run, or fails if its images are gone
    if command == "validate" and not data.val_size:
        sentence = f"validate has no images: --data.val_size {config.data.val_size} holds none out"
        raise UsageError("validation-empty", f"{sentence} of {len(data.images.train.labels):,}")
    if command in ("test", "predict"):
        data.test_dataloader()  # refuses if there are no such images

    callbacks = _asked(made.trainer.callbacks)
    if command == "fit":
        _check_states(callbacks)
    if any(isinstance(callback, FINDERS) for callback in callbacks):
        if start and any(isinstance(callback, LearningRateFinder) for callback in callbacks):
            model.lr = start.card.optimizer["init_args"].get("lr")
        if start and any(isinstance(callback, BatchSizeFinder) for callback in callbacks):
            data.batch_size = start.card.batch_size
        others = [callback for callback in callbacks if not isinstance(callback, FINDERS)]
        callbacks = others if command != "fit" or start else [Finders(), *callbacks]  # they run before a new training
    callbacks.append(RunReport())
    best = None
    if command == "fit" and made.trainer.enable_checkpointing is not False and not made.trainer.fast_dev_run:
        if data.val_size:
            callbacks.append(best := BestCheckpoint())
            if any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks):
                best = None  # weights are averaged after the last validation, and it is the average that is tested
        refuse_overwriting(_asked(made.trainer.callbacks), Path(config.trainer.default_root_dir or "."))
        callbacks.append(LastCheckpoint(config.checkpoint_seconds))  # after the best, whose state it saves
    if not made.trainer.fast_dev_run and command != "validate":
        callbacks.append(WholeConfig(parser.dump(config, skip_unset=False)))
        if command == "fit":
            callbacks.append(RunStateWriter(note))
    name = f"{config.recipe}-drawn" if data.images.kind == "drawn" else config.recipe
    logger = _loggers(command, made.trainer, name, start if is_resumed else None)
    trainer = _trainer(made.trainer, callbacks=callbacks, logger=logger)
    refuse_spawned(trainer, made.trainer.strategy)
    if start and command == "fit":
        now = model.make_card(data, trainer)
        if chosen:  # by the hardware, which may be another
            now.trainer["precision"] = start.card.trainer.get("precision")
        check_resumable(start, now, data.root)
        check_callbacks(start, _asked(made.trainer.callbacks), model)
    model.check(data, trainer, train=command == "fit")
    if weights:
        rank_zero_only(print)(take_weights(model, weights, data.classes))
    if command == "fit":
        validates = bool(data.val_size and trainer.limit_val_batches)
        require_metrics(trainer, data.classes, validates, model.make_lr_scheduler)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # the user names no plugin
        trainer.strategy.checkpoint_io = RunCheckpoints(start)
    return Run(trainer, model, data, path, best)


def _described(config: Any, made: Any) -> dict[str, Any]:
    """Descriptions of the classes that the recipe names, with all arguments; objects may have forgotten theirs."""
    parts = {name: (config.model[name], made.model[name]) for name in ("optimizer", "lr_scheduler", "loss")}
    parts["transform"] = config.data.transform, made.data.transform
    return {
        name: {"class_path": describe(part)["class_path"], "init_args": vars(given.get("init_args") or Namespace())}
        for name, (given, part) in parts.items()
        if isinstance(given, Namespace) and "class_path" in given
    }


def _check_states(callbacks: list[Any]) -> None:
    """Raises UsageError if the state of a callback, as far as it is known, can't be written."""
    for callback in callbacks:
        try:
            state = callback.state_dict()
        except Exception:  # it may need the training, and is then tried when that begins
            continue
        readable(state, type(callback).__name__)


def _parser(
    command: str, given: Given, start: Checkpoint | None, weights: Checkpoint | None, description: str
) -> Parser:
    """The parser of the command, whose defaults are what the checkpoint says of network and data."""
    parser = Parser(prog=f"python -m lit_cifar {command}", description=description)
    parser.given, parser.essentials = given, FIT if command == "fit" else MEASURE
    take_open_arguments(given, None)
    add_run_arguments(parser, start.card.recipe if start and command != "fit" else recipe_name(given))
    options: dict[str, Any] = {"sub_configs": True, "fail_untyped": False}
    if given.own_classes:
        parser.add_subclass_arguments(pl.LightningDataModule, "data", fail_untyped=False)
        parser.add_subclass_arguments(pl.LightningModule, "model", fail_untyped=False)
    else:
        parser.add_class_arguments(CIFAR10DataModule, "data", instantiate=False, skip={"seed"}, **options)
        parser.add_class_arguments(LitClassifier, "model", instantiate=False, **options)
    parser.add_class_arguments(Trainer, "trainer", instantiate=False, **options)
    parser.set_defaults({"trainer.num_sanity_val_steps": 0, "trainer.enable_model_summary": False})
    if start and not given.own_classes:
        card = start.card
        if not card.mean and not given.get("data.normalize"):
            sentence = (
                f"--ckpt_path {start.path} was trained on loaders of your own, and doesn't know their normalization"
            )
            todo = "set --data.normalize to theirs, for example half or [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]"
            raise UsageError("normalization-unknown", f"{sentence}; {todo}")
        settings = ("image_size", "resize", *(() if command in ("test", "predict") else ("val_size",)))
        known: dict[str, Any] = {f"data.{name}": getattr(card, name) for name in settings if card.mean}
        known |= {"data.normalize": [card.mean, card.std]} if card.mean else {}
        known |= {f"model.{name}": getattr(card, name) for name in ("test_time_augmentation", "confidence_threshold")}
        if card.dataset != "own" and (card.dataset != "folder" or command == "fit"):
            known["data.dataset"] = card.dataset  # any images of its classes may test what was trained on a folder
        known |= {"data.labels": card.labels, "seed_everything": card.seed}
        if command != "fit" and (loss := default_loss(start)):
            known["model.loss"] = loss
        parser.set_defaults(known)
    if (source := start or weights) and not given.own_classes:
        named = [*given.flags("--model.net"), *given.flags("--model.net.class_path")]
        arguments = [word.partition("=")[0].split(".")[-1] for word in given.words if word.startswith("--model.net.")]
        if net := default_net(source, named[-1] if named else None, command == "fit", arguments):
            parser.set_defaults({"model.net": take_open_arguments(given, copy.deepcopy(net))})
    return parser


def _trainer(settings: Any, **ours: Any) -> Trainer:
    try:
        return Trainer(**vars(settings) | ours)
    except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
        why = " ".join(str(error).split()).rstrip(".!")
        raise UsageError("value-invalid", f"{why}. Change the value on the command line or in the recipe") from error


def _asked(one_or_more: Any) -> list[Any]:
    return [one_or_more] if isinstance(one_or_more, Callback | Logger) else list(one_or_more or [])


def _in_mlflow_run(config: Any, run: str | None) -> Any:
    """A copy in which MLFlowLogger goes on in a run, unless the user names another."""
    config = config.clone()
    loggers = config.trainer.logger if isinstance(config.trainer.logger, list) else [config.trainer.logger]
    for logger in loggers:
        if str(getattr(logger, "class_path", "")).endswith("MLFlowLogger") and not logger.init_args.run_id:
            logger.init_args.run_id = run
    return config


def _loggers(command: str, trainer: Any, name: str, resumed: Checkpoint | None) -> list[Logger]:
    """TensorBoard's logger, whose folder is that of the run, and the loggers that the user asks for.

    `validate` writes nothing but to the latter, and `predict` only into a folder: nobody wants their empty runs.

    A resumed run goes on in its folder, and drops the steps that were lost; one from elsewhere begins a new one.
    """
    if trainer.logger is False:
        return []
    root = trainer.default_root_dir or "."
    options: dict[str, Any] = {}
    if resumed and resumed.path.resolve().parents[2] == Path(root, RUNS, name).resolve():
        options = {"resumed": resumed.path.parents[1].name, "purge_step": resumed.history["trained"]["steps"] + 1}
    asked = [] if trainer.logger in (None, True) else _asked(trainer.logger)
    if command in ("validate", "predict"):
        return asked if command == "validate" else [PlainFolder(Path(root, RUNS, name))]
    return [RunLogger(root, f"{RUNS}/{name}", default_hp_metric=False, **options), *asked]
