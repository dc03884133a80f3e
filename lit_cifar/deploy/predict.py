"""Predicting picture files with a trained network, on all cores, and the contact sheet of the predictions."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from lit_cifar.data.image_files import Decoded
from lit_cifar.data.pictures import decode_files, thumbnail, to_tensor
from lit_cifar.report import figures, tables
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.preparation import keep_freed_memory
from lit_cifar.training.step import torch_threads

GUESSES = 3  # the predicted class and two runners-up
ON_THE_SHEET = 32
LONGEST_NAME = 24  # characters of a file name on the sheet


def predict_files(classifier: LitClassifier, files: Sequence[Path]) -> tuple[list[Path], Tensor, list[str]]:
    """Returns the files that could be read, their probabilities `[N, C]`, and a sentence about each of the others."""
    keep_freed_memory()
    one_by_one = Lock()

    def predict(_: int, decoded: Decoded) -> tuple[list[Path], Tensor, list[str]]:
        with nullcontext() if classifier.device.type == "cpu" else one_by_one:
            probabilities = classifier.predict(to_tensor(decoded.pixels, classifier.image_size))
        return decoded.read, probabilities, decoded.unread

    with torch_threads(1):  # each thread predicts on its core: a network on all, next to decoding, is half as fast
        title = f"Predicting {tables.plural(len(files), 'picture')}"
        parts = decode_files(files, classifier.scaling, None, title, predict)
    read = [path for paths, _, _ in parts for path in paths]
    unread = [sentence for _, _, sentences in parts for sentence in sentences]
    return read, torch.cat([torch.empty(0, len(classifier.classes)), *(values for _, values, _ in parts)]), unread


def ranked(probabilities: Tensor, classes: Sequence[str]) -> list[tables.Guesses]:
    """Returns the likeliest classes of each picture with their probabilities."""
    values, indices = probabilities.topk(min(GUESSES, len(classes)))
    rows = zip(indices.tolist(), values.tolist(), strict=True)
    return [[(classes[i], value) for i, value in zip(*row, strict=True)] for row in rows]


def draw_sheet(path: Path, files: Sequence[Path], guesses: Sequence[tables.Guesses], recipe: str) -> str:
    """Draws up to 32 of the pictures, evenly spaced, with their predicted classes. Returns `32 of 45 pictures`."""
    shown = torch.linspace(0, len(files) - 1, min(ON_THE_SHEET, len(files))).long().tolist()
    side = max(128, 512 // min(8, len(shown)))  # the size in pixels at which image_grid draws them
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pictures = list(pool.map(lambda i: thumbnail(files[i], side), shown))
    entries = [
        {"image": place, "predicted": guesses[i][0][0], "probability": guesses[i][0][1], "class": None}
        for place, i in enumerate(shown)
    ]
    names = [files[i].name.replace("\n", "?") for i in shown]
    names = [name if len(name) <= LONGEST_NAME else f"{name[:11]}…{name[-12:]}" for name in names]
    number = tables.plural(len(files), "picture")
    content = number if len(shown) == len(files) else f"{len(shown)} of {number}"
    sheet = figures.predictions(torch.stack(pictures), entries, f"{content}, predicted by {recipe}", names)
    figures.save(sheet, path, "--output")
    return content
