"""Files a second through `predict PATH`: found, decoded, predicted and written to a CSV file, but for the start.

    python tests/benchmarks/pictures.py RECIPE ROOT ours|pillow

The files are those of ROOT/test; the net is the recipe's, untrained. `pillow` only decodes and resizes, in one thread a
core. Prints JSON: the median of five rates.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import yaml
from PIL import Image

from lit_cifar.classifier import LitClassifier
from lit_cifar.commands.predict import predict_files
from lit_cifar.comparisons import made
from lit_cifar.data.images import CIFAR10_CLASSES
from lit_cifar.data.pictures import find_pictures
from lit_cifar.predictions import write_predictions

FILES_A_TASK = 100


def with_pillow(files: Sequence[Path]) -> int:
    """Decodes and resizes on all cores; how many there were."""

    def decode(start: int) -> None:
        for file in files[start : start + FILES_A_TASK]:
            with Image.open(file) as picture:
                picture.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(decode, range(0, len(files), FILES_A_TASK)))
    return len(files)


def main(recipe_path: str, root: str, kind: str) -> None:
    """Goes through the pictures."""
    recipe = yaml.safe_load(Path(recipe_path).read_text())
    classifier = LitClassifier(made(recipe["model"]["net"])).eval()
    classifier.classes = CIFAR10_CLASSES
    classifier.mean, classifier.std = recipe["data"]["mean"], recipe["data"]["std"]
    files = sorted(path for path in (Path(root) / "test").rglob("*") if path.is_file())
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(5):
            started = time.perf_counter()
            if kind == "ours":
                found, _ = find_pictures([f"{root}/test"], Path(folder, "predictions.png"))
                read, probabilities, _ = predict_files(classifier, found)
                write_predictions(Path(folder, "predictions.csv"), {"file": read}, probabilities, classifier.classes)
                count = len(read)
            else:
                count = with_pillow(files)
            rates.append(count / (time.perf_counter() - started))
    print(json.dumps({"value": median(rates)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
