"""Files a second through `predict PATH`: found, decoded, predicted and written to a CSV file, but for the start.

    python tests/benchmarks/pictures.py RECIPE ROOT

The files are those of ROOT/test; the net is the recipe's, untrained. Prints JSON: the median of five rates.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import yaml
from comparisons import made, mean_and_std

from lit_cifar.data.image_set import CIFAR10_CLASSES
from lit_cifar.data.pictures import find_pictures
from lit_cifar.deploy.predict import predict_files
from lit_cifar.report.tables import write_predictions
from lit_cifar.training.classifier import LitClassifier


def main(recipe_path: str, root: str) -> None:
    """Goes through the pictures."""
    recipe = yaml.safe_load(Path(recipe_path).read_text())
    classifier = LitClassifier(made(recipe["model"]["net"])).eval()
    classifier.classes = CIFAR10_CLASSES
    classifier.mean, classifier.std = map(tuple, mean_and_std(recipe))
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(5):
            started = time.perf_counter()
            files, _ = find_pictures([f"{root}/test"], Path(folder, "predictions.png"))
            read, probabilities, _ = predict_files(classifier, files)
            write_predictions(Path(folder, "predictions.csv"), {"file": read}, probabilities, classifier.classes)
            rates.append(len(read) / (time.perf_counter() - started))
    print(json.dumps({"value": median(rates)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
