"""predictions.csv: a line for each image, with the probability of every class."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from lit_cifar.files import RUNS_FLAG, write_whole


def write_predictions(
    path: Path,
    columns: Mapping[str, Sequence[object]],
    probabilities: Tensor,
    classes: Sequence[str],
    flag: str = RUNS_FLAG,
) -> None:
    """Writes it whole, or not at all.

    Args:
        path: of the file.
        columns: what comes before the class predicted: their names and, for each image, their values.
        probabilities: `[N, C]`.
        classes: their names.
        flag: that names another place to write to.

    Raises:
        UserError: it can't be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*columns, "predicted", *classes])
    rows = zip(*columns.values(), probabilities.argmax(1).tolist(), probabilities.tolist(), strict=True)
    for *values, predicted, row in rows:
        writer.writerow([*values, classes[predicted], *(f"{value:.6f}" for value in row)])
    write_whole(path, text.getvalue().encode("utf-8", "surrogateescape"), flag)  # names are as the system has them
