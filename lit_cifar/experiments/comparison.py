"""What the runs of a comparison say: means, paired differences, and how many seeds tell which difference apart.

Variants are judged by validation accuracy, and compared with the first one by a t test of pairs with the same seed.
Shares are 0 to 1; a point is a hundredth.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lit_cifar.errors import UserError, reason
from lit_cifar.evaluation.statistics import detectable, mean_interval, paired, pairs_needed

FEWEST = 3  # pairs, for a test to say anything
POINT = 0.01
TOLD = 0.001  # 0.1 points, the difference that people ask about
LARGEST = 100_000_000  # bytes of a report.json


@dataclass
class Run:
    """One training of a comparison, and what it found."""

    variant: str
    seed: int
    state: str
    """`finished`, `interrupted`, `diverged` or `failed`."""
    folder: str | None = None
    """The run folder, relative to that of the comparison."""
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    epochs: float | None = None
    train_seconds: float | None = None
    test_seconds: float | None = None
    code: str = ""
    sentence: str = ""
    class_accuracy: dict[str, float | None] = field(default_factory=dict)
    """On the test images."""
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """`accuracy/val` and `loss/val`, as (epochs, value)."""
    about: dict[str, Any] = field(default_factory=dict)
    """Device and versions."""

    @property
    def seconds(self) -> float:
        return (self.train_seconds or 0) + (self.test_seconds or 0)


def read_run(variant: str, seed: int, folder: Path, root: Path) -> Run:
    """Returns what a finished run has left. Raises UserError if its report is damaged or lacks what is compared."""
    path = folder / "report.json"
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("it is too large")
        report = json.loads(path.read_text(encoding="utf-8"))
        names = ("val_accuracy", "test_accuracy", "epochs", "train_seconds", "test_seconds", "steps")
        numbers = {name: report[name] for name in names}
        if numbers["val_accuracy"] is None:
            raise ValueError("the tested weights have no validation accuracy")
        if wrong := [name for name, value in numbers.items() if not _is_number(value)]:
            raise ValueError(f"{wrong[0]} is not a number")
        classes = {str(name): value for name, value in report["class_accuracy"].items()}
        if not all(value is None or _is_number(value) for value in classes.values()):
            raise ValueError("class_accuracy has what is not a number")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else reason(error)
        raise UserError("report-missing", f"{path} can't be compared: {why}") from error
    steps = numbers.pop("steps")
    return Run(
        variant,
        seed,
        "finished",
        folder.resolve().relative_to(root.resolve()).as_posix(),
        **numbers,
        class_accuracy=classes,
        curves=read_curves(folder, numbers["epochs"] / steps if steps else 0),
        about={name: report.get(name) for name in ("device_name", "precision", "versions")},
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_curves(folder: Path, epochs_a_step: float) -> dict[str, list[tuple[float, float]]]:
    """Returns validation accuracy and loss from a run's event files, as far as those can be read."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves: dict[str, list[tuple[float, float]]] = {"accuracy/val": [], "loss/val": []}
    try:
        sizes = {"scalars": 0, "images": 1, "tensors": 1, "histograms": 1, "compressedHistograms": 1, "audio": 1}
        events = EventAccumulator(str(folder), size_guidance=sizes)
        events.Reload()
        for name in {*curves} & {*events.Tags()["scalars"]}:
            points = [(event.step * epochs_a_step, float(event.value)) for event in events.Scalars(name)]
            curves[name] = [point for point in points if math.isfinite(point[1])]
    except Exception:  # of whatever kind: a page without curves is better than none
        return curves
    return curves


def summarize(variants: Sequence[str], runs: Sequence[Run]) -> dict[str, Any]:
    """Returns the statistics of compare.json."""
    by_variant: dict[str, dict[int, Run]] = {name: {} for name in variants}
    for run in runs:
        if run.state == "finished":
            by_variant[run.variant][run.seed] = run
    found, spreads, first = [], [], by_variant[variants[0]]
    for name, finished in by_variant.items():
        each = {"name": name, "seeds": sorted(finished), **_means([finished[seed] for seed in sorted(finished)])}
        each["difference"] = difference = None if name == variants[0] else _difference(first, finished)
        spreads += [difference["spread"]] if difference and difference["p"] is not None else []
        found.append(each)
    statistics: dict[str, Any] = {"variants": found, "best": _best(found), "differences_tested": len(spreads)}
    pairs = min((each["difference"]["pairs"] for each in found if each["difference"]), default=0)
    if spreads and max(spreads) > 0 and pairs >= FEWEST:
        spread = max(spreads)
        told = {"spread": spread, "detectable": detectable(spread, pairs)}
        statistics |= told | {"pairs": pairs, "seeds_to_tell_0.1_points": pairs_needed(spread, TOLD)}
    return statistics


def _means(runs: Sequence[Run]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("val_accuracy", "test_accuracy"):
        values = [getattr(run, key) for run in runs]
        found[key] = fmean(values) if values else None
        found[f"{key}_interval"] = list(mean_interval(values)) if len(values) >= FEWEST else None
    found["seconds"] = fmean([run.seconds for run in runs]) if runs else None
    found["epochs"] = fmean([run.epochs or 0 for run in runs]) if runs else None
    return found


def _difference(first: Mapping[int, Run], second: Mapping[int, Run]) -> dict[str, Any] | None:
    """Returns by how much validation accuracy is higher in the second, over the seeds that both have finished."""
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    before, after = ([runs[seed].val_accuracy or 0.0 for seed in seeds] for runs in (first, second))
    changes = [new - old for old, new in zip(before, after, strict=True)]
    found: dict[str, Any] = {"mean": fmean(changes), "pairs": len(seeds), "interval": None, "p": None}
    if len(seeds) >= FEWEST:
        test = paired(before, after)
        spread = stdev(changes) if test.low < test.high else 0.0
        found |= {"interval": [test.low, test.high], "p": test.p, "spread": spread}
    return found


def _best(found: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns the variant of the highest validation accuracy, if its difference to the first surely isn't 0.

    The first is the best if all others are surely lower.
    """
    known = [each for each in found if each["val_accuracy"] is not None]
    intervals: dict[str, Any] = {each["name"]: (each["difference"] or {}).get("interval") for each in found[1:]}
    if len(known) < 2 or found[0]["val_accuracy"] is None:
        return None
    best = max(known, key=lambda each: each["val_accuracy"])["name"]
    if best == found[0]["name"]:
        return best if all(interval and interval[1] < 0 for interval in intervals.values()) else None
    low, _ = intervals[best] or (0.0, 0.0)
    return best if low > 0 else None


def conclusions(statistics: Mapping[str, Any], variants: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns what can and can't be said, in sentences, from the statistics and variants of compare.json."""
    said, differences = [], [each["difference"] for each in statistics["variants"][1:]]
    if any(difference is None or difference["pairs"] < FEWEST for difference in differences):
        said.append(
            f"Nothing can be said about differences of which fewer than {FEWEST} pairs have finished: "
            f"use --runs {FEWEST} or more."
        )
    if statistics["differences_tested"] > 1:
        said.append(
            f"{statistics['differences_tested']} differences were tested: "
            "by chance alone, about one in 20 has p below 0.05."
        )
    if "detectable" in statistics:
        pairs, needed = statistics["pairs"], statistics["seeds_to_tell_0.1_points"]
        said.append(
            f"How many seeds? {pairs} seeds tell differences from about {statistics['detectable'] / POINT:.2g} "
            f"percentage points on apart (in 80 of 100 cases); to tell {TOLD / POINT:g} percentage points takes "
            f"about {needed:,} seeds in all."
        )
    if len({json.dumps(_data(each), sort_keys=True) for each in variants}) > 1:
        said.append(
            "The variants have different images or validation images: differences, intervals and p are between "
            "different data, too."
        )
    if any(each["data"].get("why_drawn") for each in variants):
        said.append("SYNTHETIC IMAGES: accuracies on them say nothing about CIFAR-10.")
    return said


def _data(variant: Mapping[str, Any]) -> dict[str, Any]:
    return {key: variant["data"].get(key) for key in ("title", "classes", "train", "val", "test")}


def seconds_left(
    waiting: Sequence[str], epochs: Mapping[str, float], took: Mapping[str, Sequence[float]], at_once: int
) -> float | None:
    """Returns how long runs of these variants will take, from the seconds that finished ones of the same variant took
    or, by the epochs, those of the others; None if none has finished.
    """
    if not took:
        return None
    an_epoch = fmean(fmean(seconds) / epochs[name] for name, seconds in took.items())
    expected = [fmean(took[name]) if name in took else an_epoch * epochs[name] for name in waiting]
    return max(sum(expected) / at_once, max(expected, default=0.0))
