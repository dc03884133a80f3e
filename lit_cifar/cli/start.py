"""The checkpoint that a command starts from: to go on, to measure, to take weights from, or to predict with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_cifar.cli.net_arguments import full_class_path
from lit_cifar.cli.recipes import Given
from lit_cifar.errors import UsageError, UserError
from lit_cifar.evaluation.test_time_augmentation import Views
from lit_cifar.runs.checkpoint import Checkpoint, find_checkpoint, newest_checkpoint
from lit_cifar.runs.folder import hold
from lit_cifar.runs.network import own_net
from lit_cifar.runs.state import RUNS
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.predictor import require_normalization
from lit_cifar.training.tested import Tested


def starting_checkpoint(command: str, given: Given) -> Checkpoint | None:
    """Reads the checkpoint to start from; `last` and `best` are the newest intact ones, of a recipe if named."""
    named = given.get("ckpt_path")
    path = named or ("last" if command == "fit" and given.get("resume") == "auto" else None)
    if not path:
        if command == "fit" or any(word.startswith(("-h", "--help", "--print_config")) for word in given.words):
            return None
        raise UsageError("value-missing", f"{command} needs --ckpt_path: a path, or best or last of the newest run")
    root = Path(given.get("trainer.default_root_dir") or ".").expanduser()
    by_name = path in ("best", "last")
    if by_name and str(given.get("trainer.logger")).lower() == "false":  # no run folder: where Lightning puts them
        found = newest_checkpoint([root], f"checkpoints/{path}.ckpt", resume=not named)
    elif by_name and (command == "fit" or given.recipes or given.flags("--recipe")):
        runs = root / RUNS / recipe_name(given)
        drawn, dataset = Path(f"{runs}-drawn"), given.get("data.dataset")
        either = dataset == "auto" or not (dataset or given.recipes)  # a recipe means the images in its root
        folders = [drawn] if dataset == "drawn" else [runs, drawn] if either else [runs]
        found = newest_checkpoint(folders, f"version_*/checkpoints/{path}.ckpt", resume=not named)
    else:
        found = find_checkpoint(path, root)
    if found is None and named:
        raise UsageError("checkpoint-missing", f"--ckpt_path {path}: there is no intact {path}.ckpt of it in {root}")
    if found and command == "fit" and found.path.name == "last.ckpt":
        hold(found.path.parent)
    return found


def initial_weights(command: str, given: Given) -> Checkpoint | None:
    """Reads the checkpoint whose weights a new training starts from."""
    path = given.get("init_from")
    if not path or command != "fit":
        return None
    if given.get("ckpt_path") or given.get("resume") == "auto":
        todo = "use --init_from to start a new training, or the other to go on with one"
        raise UsageError(
            "value-invalid", f"--init_from {path} and --ckpt_path or --resume auto exclude each other; {todo}"
        )
    try:
        return find_checkpoint(path, Path(given.get("trainer.default_root_dir") or ".").expanduser())
    except UserError as error:
        raise type(error)(error.code, str(error).replace("--ckpt_path", "--init_from")) from error


def load(config: Any, test_time_augmentation: Views | None = None) -> tuple[Checkpoint, LitClassifier]:
    """Returns the checkpoint that the flags of predict, export or demo name, and its classifier."""
    checkpoint = find_checkpoint(config.ckpt_path, config.trainer.default_root_dir)
    named = full_class_path(config.model.net) if config.model.net else None
    net = own_net(named, checkpoint) if named else None
    classifier = LitClassifier.load_from_checkpoint(checkpoint, net, test_time_augmentation)
    if named and classifier.card:
        classifier.card = replace(classifier.card, net=classifier.card.net | {"class_path": named})
    require_normalization(classifier)
    classifier.tested = Tested.of(checkpoint.path, checkpoint.trained, None)
    return checkpoint, classifier


def recipe_name(given: Given) -> str:
    """Returns the name of the recipe: as given, or that of its file."""
    return str(given.get("recipe") or Path(["tutorial", *given.recipes][-1]).stem)
