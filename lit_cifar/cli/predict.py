"""`python -m lit_cifar predict PATH …`: predicts pictures of your own, for which it needs no data set."""

import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from lit_cifar.cli.parser import Parser, add_checkpoint_arguments
from lit_cifar.cli.start import load
from lit_cifar.data.pictures import find_pictures
from lit_cifar.deploy.predict import draw_sheet, predict_files, ranked
from lit_cifar.errors import UsageError, UserError
from lit_cifar.evaluation.test_time_augmentation import Views
from lit_cifar.report import tables

ROWS = 20  # of the printed table; predictions.csv has them all
WITHOUT_VALUE = {"-h", "--help", "--print_config"}


def names_pictures(words: Sequence[str]) -> bool:
    """Whether the words after `predict` name pictures, as paths or with `--data.images`."""
    return bool(_split(words)[0]) or any(word.split("=")[0] == "--data.images" for word in words)


def main(argv: list[str]) -> None:
    """Predicts, prints a table, and writes predictions.csv and a contact sheet; then fails if a file was unreadable."""
    words, flags = _split(argv)
    parser = Parser(
        prog="python -m lit_cifar predict",
        usage="%(prog)s PATH [PATH ...] [options]",
        description="Predict pictures of your own. PATH is a file, a folder or a pattern such as 'shots/*.png';"
        " --data.images PATH ... means the same. Without PATH, predict --ckpt_path best predicts the test images.",
    )
    add_checkpoint_arguments(parser)
    folder = "Folder to write into."
    parser.add_argument("--output", type=Path, default=Path("predictions"), metavar="FOLDER", help=folder)
    parser.add_argument(
        "--model.test_time_augmentation",
        type=Views | None,
        metavar="VIEWS",
        help="Average the logits of the picture alone (none), with its mirror image (flip), or with both shifted too"
        " (flip-shift). By default, the setting the run was tested with.",
    )
    config = parser.parse_args(flags)
    if not words:
        raise UsageError("value-missing", "--data.images needs files, folders or patterns such as 'photos/*.jpg'")
    csv_path, sheet_path = config.output / "predictions.csv", config.output / "predictions.png"
    files, unread = find_pictures(words, sheet_path)
    checkpoint, classifier = load(config, config.model.test_time_augmentation)
    classifier.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=config.output).close()
    except OSError as error:
        sentence = f"--output {config.output} can't be written to ({error.strerror}); use another folder"
        raise UsageError("output-refused", sentence) from error
    assert classifier.tested is not None  # load says which weights these are
    trained = tables.length(classifier.tested.epochs, classifier.tested.step)
    print(f"Predicting with {tables.printable(str(checkpoint.path))} after {trained}", flush=True)

    files, probabilities, failed = predict_files(classifier, files)
    unread += failed
    for sentence in unread:
        print(tables.printable(sentence), file=sys.stderr)
    if files:
        guesses = ranked(probabilities, classifier.classes)
        tables.print_predictions(files[:ROWS], guesses, len(files), csv_path)
        tables.write_predictions(csv_path, {"file": files}, probabilities, classifier.classes, "--output")
        tables.print_written(csv_path, tables.plural(len(files), "picture"))
        tables.print_written(sheet_path, draw_sheet(sheet_path, files, guesses, classifier.recipe))
    if unread:
        total = tables.plural(len(unread) + len(files), "file")
        raise UserError("picture-unreadable", f"{len(unread):,} of {total} could not be read, as the lines above say")


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the paths, and the flags with their values; `--data.images` only announces paths."""
    paths, flags = list[str](), list[str]()
    rest = iter(words)
    for word in rest:
        if word == "--":
            paths += rest
        elif word.startswith("--data.images=") or not word.startswith("-"):
            paths.append(word.removeprefix("--data.images="))
        elif word != "--data.images":
            flags.append(word)
            if "=" not in word and word not in WITHOUT_VALUE:
                flags += itertools.islice(rest, 1)
    return paths, flags
