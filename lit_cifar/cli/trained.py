"""The arguments with which predict, export and demo name a trained network, and loading it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_cifar.cli.parser import Parser
from lit_cifar.evaluation.test_time_augmentation import Views
from lit_cifar.runs.checkpoint import find_checkpoint
from lit_cifar.runs.network import own_net
from lit_cifar.training.classifier import LitClassifier


def add_checkpoint_arguments(parser: Parser) -> None:
    """Adds the flags that `load` reads."""
    parser.add_argument("--ckpt_path", type=str, help="A checkpoint, or best (the default) or last of the newest run.")
    parser.add_argument("--model.net", type=str, help="Class path of your own network, if the checkpoint is of one.")
    parser.add_argument("--trainer.default_root_dir", type=Path, default=Path(), help="Folder of lightning_logs.")


def load(config: Any, test_time_augmentation: Views | None = None) -> tuple[Path, LitClassifier]:
    """Returns the path of the checkpoint that the flags name, and its classifier."""
    checkpoint = find_checkpoint(config.ckpt_path, config.trainer.default_root_dir)
    named = config.model.net
    net = own_net(named, checkpoint) if named else None
    classifier = LitClassifier.load_from_checkpoint(checkpoint, net, test_time_augmentation)
    if named and classifier.card:
        classifier.card = replace(classifier.card, net=classifier.card.net | {"class_path": named})
    return checkpoint.path, classifier
