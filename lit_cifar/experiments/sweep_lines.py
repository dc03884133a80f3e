"""What a sweep prints: a line for each trial that has ended, and the result; on a terminal a progress bar, too."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lit_cifar.evaluation.wording import interval, percent
from lit_cifar.experiments.search_space import Parameter, short_names, shown
from lit_cifar.experiments.study import Trial
from lit_cifar.experiments.sweep_report import About, Again, best_of
from lit_cifar.report.tables import duration, plural, printable

LONGEST = 200  # letters of a reason or of values
AGAIN = 3  # trainings after the trials


class SweepLines:
    """Prints the lines of a sweep with so many trials and jobs, and draws its bar."""

    def __init__(self, about: About, parameters: Sequence[Parameter], trials: int, jobs: int) -> None:
        self._about, self._parameters, self._trials, self._jobs = about, parameters, trials, jobs
        self._short = short_names([parameter.key for parameter in parameters])
        self._console = Console(soft_wrap=True, markup=False, highlight=False, emoji=False)

    def say(self, text: str) -> None:
        self._console.print(text)

    def bar(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.percentage:.0f} %"))
        return Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)

    def start(self, folder: Path, ended: int) -> None:
        about = self._about
        search = ", ".join(f"{parameter.key}={parameter}" for parameter in self._parameters)
        self.say(f"Sweep  {about.name}: {plural(self._trials, 'trial')} of {printable(search)}")
        self.say(f"Goal   validation accuracy on {plural(about.val_images, 'image')} of {about.data}")
        self.say(f"Method {about.sampler}, {about.pruner}, seed {about.seed}, {plural(self._jobs, 'job')}")
        self.say(f"Study  {folder / 'study.db'}" + (f", goes on after {plural(ended, 'trial')}" if ended else ""))

    def trial(self, trial: Trial, trials: Sequence[Trial], most_seconds: float) -> None:
        """Says how a trial ended, which is the best, and how much time is left, at most so many seconds of trials."""
        values = " ".join(f"{name}={shown(trial.values[key])}" for key, name in self._short.items())
        accuracy = "" if trial.accuracy is None else f"{percent(trial.accuracy)}, "
        parts = [
            f"Trial {trial.number}, {_short(values)}: {accuracy}{trial.state} after {duration(trial.seconds or 0)}"
        ]
        parts += [_short(trial.reason)] if trial.reason else []
        if (best := best_of(trials)) and best.accuracy is not None:
            parts.append(f"best {percent(best.accuracy)} (trial {best.number})")
        ended = [each for each in trials if each.state != "running"]
        left = max(0, self._trials - len(ended))
        if left and (seconds := [each.seconds for each in ended if each.seconds is not None]):
            whole = [each.seconds for each in ended if each.state == "complete" and each.seconds is not None]
            until = min(median(seconds) * left / self._jobs, max(0.0, most_seconds))
            until += median(whole or seconds) * AGAIN / min(self._jobs, AGAIN)
            parts.append(f"{left} left, about {duration(until)}")
        self.say("; ".join(parts))

    def again(self, run: Again) -> None:
        figures = [("validation", run.val_accuracy), ("test", run.test_accuracy)]
        text = ", ".join(f"{name} {percent(share)}" for name, share in figures if share is not None)
        self.say(f"Seed {run.seed}: {_short(run.reason) or text}")

    def result(self, sweep: dict[str, Any], folder: Path, written: Sequence[Path]) -> None:
        """Says what is in sweep.json, and what was written."""
        best = sweep["best"]
        values = " ".join(f"{key}={shown(value)}" for key, value in best["values"].items())
        self.say(f"Best: trial {best['trial']}, {_short(values)}")
        found = _around(best["val_accuracy"], best["val_accuracy_interval"])
        self.say(f"Validation accuracy of this trial: {found}")
        for name in ("val_accuracy", "test_accuracy"):
            if sweep[name] is not None:
                what = "Validation" if name == "val_accuracy" else "Test"
                seeds = plural(sum(run[name] is not None for run in sweep["again"]), "other seed")
                self.say(f"{what} accuracy with {seeds}: {_around(sweep[name], sweep[f'{name}_interval'])}")
        if (less := sweep["flattered_by"]) is not None:
            differs = f"{abs(less) * 100:.1f} percentage points {'lower' if less > 0 else 'higher'}"
            differs = "the same" if abs(less) < 0.0005 else differs
            luck = "was partly lucky" if less >= 0.0005 else "was not just lucky"
            of = f"the best of {len(sweep['trials']):,} trials" if len(sweep["trials"]) > 1 else "the trial"
            self.say(f"With other seeds, validation accuracy is {differs}: {of} {luck}.")
        if sweep["test_accuracy"] is None:
            self.say("Nothing was tested")
        recipe, page, *_ = written
        for name, path in (("Folder", f"{folder}/"), ("Best recipe", recipe), ("Report", page)):
            self.say(f"{name}: {path}")


def _short(text: str) -> str:
    return textwrap.shorten(printable(text), LONGEST, placeholder=" …")


def _around(share: float, around: Sequence[float] | None) -> str:
    return percent(share) + (f" (95 % interval: {interval(*around)})" if around else "")
