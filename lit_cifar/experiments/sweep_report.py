"""What a sweep leaves for people: sweep.json, and the pictures and the page that are drawn from it.

sweep.html can be mailed: it loads nothing, as its Content-Security-Policy says.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lit_cifar.data.files import write_whole
from lit_cifar.data.pictures import data_url
from lit_cifar.evaluation.statistics import mean_interval, wilson
from lit_cifar.experiments import sweep_charts
from lit_cifar.experiments.search_space import Parameter, short_names, shown
from lit_cifar.report import figures, pages

if TYPE_CHECKING:
    from lit_cifar.experiments.study import Study, Trial


@dataclass(frozen=True)
class Again:
    """A training of the best recipe with another seed."""

    seed: int
    state: str
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    folder: str = ""
    """Its run folder, from that of the sweep."""
    reason: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class About:
    """What a sweep is, as its report says it."""

    name: str
    recipe: str
    dataset: str
    data: str
    """The data set in words."""
    val_images: int
    sampler: str
    pruner: str
    seed: int


def best_of(trials: "Sequence[Trial]") -> "Trial | None":
    """Returns the first of the complete trials with the highest validation accuracy."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return max(complete, key=lambda trial: trial.accuracy or 0, default=None)


def summary(about: About, study: "Study", again: Sequence[Again]) -> dict[str, Any]:
    """Returns the content of sweep.json; accuracies are shares of 1, intervals 95 %."""
    trials = study.trials()
    best = best_of(trials)
    val = [run.val_accuracy for run in again if run.val_accuracy is not None]
    test = [run.test_accuracy for run in again if run.test_accuracy is not None]
    found: dict[str, Any] = {"version": 1, **asdict(about)}
    found["search"] = {parameter.key: _described(parameter) for parameter in study.parameters}
    found["trials"] = [
        {
            "number": trial.number,
            "values": trial.values,
            "state": trial.state,
            "val_accuracy": trial.accuracy,
            "curve": trial.curve,
            "seconds": trial.seconds,
            "reason": trial.reason,
            "folder": study.trial_folder(trial.number).relative_to(study.folder).as_posix(),
        }
        for trial in trials
    ]
    found["importances"] = study.importances()
    found["best"] = None
    if best and best.accuracy is not None:
        found["best"] = {
            "trial": best.number,
            "values": best.values,
            "val_accuracy": best.accuracy,
            "val_accuracy_interval": wilson(round(best.accuracy * about.val_images), about.val_images),
        }
    found["again"] = [asdict(run) for run in again]
    for name, values in (("val_accuracy", val), ("test_accuracy", test)):
        found[name] = fmean(values) if values else None
        found[f"{name}_interval"] = mean_interval(values) if len(values) > 1 else None
    found["flattered_by"] = best.accuracy - fmean(val) if best and best.accuracy is not None and val else None
    return found


def write(folder: Path, sweep: dict[str, Any], recipe: str) -> list[Path]:
    """Writes sweep.json, PNGs and sweep.html, with the content of best.yaml, into a folder; returns the paths."""
    written = [write_whole(folder / "sweep.json", json.dumps(sweep, indent=2) + "\n")]
    drawn = {
        "history": sweep_charts.history(sweep),
        "importance": sweep_charts.importance(sweep),
        "slices": sweep_charts.slices(sweep),
    }
    paths = {name: figures.save(figure, folder / f"{name}.png") for name, figure in drawn.items()}
    return [write_whole(folder / "sweep.html", _page(sweep, paths, recipe)), *written, *paths.values()]


def _page(sweep: dict[str, Any], pngs: dict[str, Path], recipe: str) -> str:
    return pages.render(
        Path(__file__).with_name("sweep.html.jinja"),
        {"shown": shown, "embedded": lambda path: data_url(path.read_bytes())},
        sweep=sweep,
        figures=pngs,
        names=short_names([*sweep["search"]]),
        recipe=recipe,
    )


def _described(parameter: Parameter) -> dict[str, Any]:
    return {name: value for name, value in asdict(parameter).items() if name != "key"}
