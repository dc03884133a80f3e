"""`python -m lit_cifar predict PATH …`: what a trained net says of pictures of your own.

All cores decode and predict, and no data set is needed. `predict` without a path is Lightning's own, of the
test images.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from lit_cifar.cli.parser import Parser
from lit_cifar.data.image_files import Decoded
from lit_cifar.data.pictures import decode_files, find_pictures, thumbnail, to_tensor
from lit_cifar.errors import UsageError, UserError
from lit_cifar.evaluation.metrics import percent
from lit_cifar.evaluation.test_time_augmentation import Views
from lit_cifar.report import tables
from lit_cifar.report.predictions import write_predictions
from lit_cifar.runs.checkpoint import find_checkpoint
from lit_cifar.runs.network import own_net
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.memory import keep_freed_memory

GUESSES = 3  # the class predicted, and two runners-up
IN_THE_TABLE, ON_THE_SHEET = 20, 32
WITHOUT_VALUE = {"-h", "--help", "--print_config"}


def names_pictures(words: Sequence[str]) -> bool:
    """Whether the words after `predict` name pictures, as paths or with `--data.images`."""
    return bool(_split(words)[0]) or any(word.split("=")[0] == "--data.images" for word in words)


def main(argv: list[str]) -> None:
    """Predicts, prints a table, and writes predictions.csv and a contact sheet.

    Raises:
        UsageError: a path or flag is wrong, or there is no checkpoint.
        UserError: some pictures could not be read; the others are predicted and written.
    """
    words, flags = _split(argv)
    parser = Parser(
        prog="python -m lit_cifar predict",
        usage="%(prog)s PATH [PATH ...] [options]",
        description="Predict pictures of your own. PATH is a file, a folder or a pattern such as 'shots/*.png';"
        " --data.images PATH ... means the same.",
    )
    parser.add_argument("--ckpt_path", type=str, help="Checkpoint; by default the newest run's best, over all recipes.")
    parser.add_argument("--model.net", type=str, help="Class path of your own network, where the checkpoint is of one.")
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="Folder to write into.")
    parser.add_argument(
        "--model.test_time_augmentation",
        type=Views | None,
        help="What the logits of a picture are the mean of: itself (none), with its mirror image (flip), with both"
        " shifted by a pixel too (flip-shift); by default, what the training was tested with.",
    )
    parser.add_argument(
        "--trainer.default_root_dir", type=Path, default=Path(), help="Folder in which lightning_logs lies."
    )
    config = parser.parse_args(flags)
    if not words:
        raise UsageError("--data.images needs files, folders or patterns such as 'photos/*.jpg'")
    csv_path, sheet_path = config.output / "predictions.csv", config.output / "predictions.png"
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of metadata, and of sizes that we refuse
    files, unread = find_pictures(words, sheet_path)
    found = find_checkpoint(config.ckpt_path, config.trainer.default_root_dir)
    checkpoint = found.path
    net = config.model.net and own_net(config.model.net, found)
    classifier = LitClassifier.load_from_checkpoint(found, net, config.model.test_time_augmentation)
    classifier.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    _check_writable(config.output)
    print(tables.printable(f"Checkpoint: {checkpoint}, of recipe {classifier.recipe}"), flush=True)

    files, probabilities, failed = predict_files(classifier, files)
    unread += failed
    for sentence in unread:
        print(tables.printable(sentence), file=sys.stderr)
    if files:
        guesses = _guesses(probabilities, classifier.classes)
        tables.print_predictions(files[:IN_THE_TABLE], guesses, len(files), csv_path)
        write_predictions(csv_path, {"file": files}, probabilities, classifier.classes, "--output")
        tables.print_written(csv_path, tables.plural(len(files), "picture"))
        _draw_sheet(sheet_path, files, guesses, classifier.recipe)
    if unread:
        total = tables.plural(len(unread) + len(files), "file")
        raise UserError(f"{len(unread):,} of {total} could not be read; the lines above name them")


def predict_files(classifier: LitClassifier, files: Sequence[Path]) -> tuple[list[Path], Tensor, list[str]]:
    """The pictures that could be read, their probabilities `[N, C]`, and a sentence for each of the others.

    Each core predicts what it has decoded: a net on all cores at once, beside threads that decode, took twice as long.
    """
    keep_freed_memory()
    one_by_one = Lock()

    def predict(_: int, decoded: Decoded) -> tuple[list[Path], Tensor, list[str]]:
        with nullcontext() if classifier.device.type == "cpu" else one_by_one:
            probabilities = classifier.predict(to_tensor(decoded.pixels))
        return decoded.read, probabilities, decoded.unread

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts = decode_files(files, "any", f"Predicting {tables.plural(len(files), 'picture')}", predict)
    finally:
        torch.set_num_threads(threads)
    read = [path for paths, _, _ in parts for path in paths]
    unread = [sentence for _, _, sentences in parts for sentence in sentences]
    probabilities = [values for _, values, _ in parts] or [torch.empty(0, len(classifier.classes))]
    return read, torch.cat(probabilities), unread


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths, and flags with their values, in any order; `--data.images` only says that paths follow."""
    paths: list[str] = []
    flags: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            paths += rest
        elif word.startswith("--data.images="):
            paths.append(word.removeprefix("--data.images="))
        elif not word.startswith("-"):
            paths.append(word)
        elif word != "--data.images":
            flags.append(word)
            if "=" not in word and word not in WITHOUT_VALUE:
                flags += [value for value in [next(rest, None)] if value is not None]
    return paths, flags


def _check_writable(folder: Path) -> None:
    """Before anything is predicted."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--output {folder} can't be written into ({error.strerror}); name another folder") from error


def _guesses(probabilities: Tensor, classes: Sequence[str]) -> list[tables.Guesses]:
    """The likeliest classes of each picture with their probabilities."""
    values, indices = probabilities.topk(min(GUESSES, len(classes)))
    rows = zip(indices.tolist(), values.tolist(), strict=True)
    return [[(classes[i], value) for i, value in zip(*row, strict=True)] for row in rows]


def _draw_sheet(path: Path, files: Sequence[Path], guesses: Sequence[tables.Guesses], recipe: str) -> None:
    """The contact sheet: all the pictures, or some from everywhere among them."""
    from lit_cifar.report import figures

    shown = torch.linspace(0, len(files) - 1, min(ON_THE_SHEET, len(files))).long().tolist()
    side = max(128, 512 // min(8, len(shown)))  # as large as image_grid draws them
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pictures = list(pool.map(lambda i: thumbnail(files[i], side), shown))
    names = [tables.printable(files[i].name) for i in shown]
    short = [name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}" for name in names]
    best = [(tables.printable(guesses[i][0][0]), guesses[i][0][1]) for i in shown]
    captions = [f"{guess} {percent(value)}, {name}" for (guess, value), name in zip(best, short, strict=True)]
    number = tables.plural(len(files), "picture")
    content = number if len(shown) == len(files) else f"{len(shown)} of {number}"
    figures.save(
        figures.image_grid(torch.stack(pictures), captions, f"{content}, predicted by {recipe}"), path, "--output"
    )
    tables.print_written(path, content)
