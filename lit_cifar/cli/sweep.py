"""`python -m lit_cifar sweep`: searches for the best recipe by validation accuracy, and tests only that.

The study is the truth: a sweep may be killed at any moment, and the same command goes on. Whoever ends the last trial
trains the best recipe again, with other seeds.
"""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from lit_cifar.cli.sweep_plan import Plan, complete_recipe, plan
from lit_cifar.cli.worker_process import Job, Outcome
from lit_cifar.cli.workers import Workers
from lit_cifar.data.files import write_whole
from lit_cifar.errors import UsageError, UserError
from lit_cifar.evaluation.wording import percent
from lit_cifar.experiments.comparison import read_run

if TYPE_CHECKING:
    from lit_cifar.experiments.study import Study, Trial
    from lit_cifar.experiments.sweep_lines import SweepLines
    from lit_cifar.experiments.sweep_report import Again

SAME_FAILURES = 5  # of the first trials, after which the others would fail, too


def main(words: list[str]) -> None:
    """Searches, trains the best again, and writes the report."""
    asked = plan(words)
    for package in ("optuna", "scipy"):
        if find_spec(package) is None:
            raise UsageError("package-missing", f"sweep needs the package {package}: pip install -e '.[sweep]'")
    from lit_cifar.experiments.samplers import quietly
    from lit_cifar.experiments.study import Study
    from lit_cifar.experiments.sweep_lines import SweepLines

    with ExitStack() as stack:
        stack.enter_context(quietly())
        about, options = asked.about, asked.options
        how = (about.sampler, about.pruner, about.seed)
        study = Study(asked.folder, asked.parameters, asked.settings, *how)
        lines = SweepLines(about, asked.parameters, options.trials, options.jobs)
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _end))
        try:
            _sweep(asked, study, lines)
        except KeyboardInterrupt as error:
            raise _interrupted("the sweep was stopped by Ctrl-C", 130) from error


def _end(signum: int, frame: FrameType | None) -> None:
    raise _interrupted("the sweep was stopped by SIGTERM", 143)


def _interrupted(how: str, exit_code: int) -> UserError:
    error = UserError("interrupted", f"{how}; the same command goes on")
    error.exit_code = exit_code
    return error


def _sweep(asked: Plan, study: "Study", lines: "SweepLines") -> None:
    lines.start(asked.folder, len(_ended(study)))
    with Workers(min(asked.options.jobs, asked.options.trials)) as workers:
        _do_trials(asked, study, lines, workers)
        if study.is_shared():
            lines.say("Other processes are still doing trials; the last one to finish trains the best recipe again.")
            return
        try:
            with FileLock(asked.folder / ".best.lock", timeout=0):
                _finish(asked, study, lines, workers)
        except Timeout:
            lines.say("Another process is training the best recipe again.")


def _do_trials(asked: Plan, study: "Study", lines: "SweepLines", workers: Workers) -> None:
    """Does trials until there are enough, of all processes together, or the hours are over."""
    until = time.monotonic() + 3600 * (asked.options.hours or math.inf)
    started: dict[str, float] = {}

    def jobs() -> Iterator[Job]:
        while time.monotonic() < until and (trial := study.take(asked.options.trials)):
            name, folder = str(trial.number), study.trial_folder(trial.number)
            started[name] = time.monotonic()
            yield Job(name, tuple(asked.words_of(trial.values)), folder, study.ask_pruner(trial.number), tests=False)

    failures: list[Outcome] = []
    shares: dict[str, float] = {}
    with lines.bar() as bar:
        task = bar.add_task("trials", total=asked.options.trials, completed=len(_ended(study)))

        def show(job: Job, share: float) -> None:
            bar.advance(task, share - shares.get(job.name, 0.0))
            shares[job.name] = share

        for job, outcome in workers.run(jobs(), show):
            if outcome.state == "interrupted":
                raise _interrupted(f"trial {job.name} was {outcome.sentence.partition(';')[0]}", outcome.exit_code)
            trial = _told(study, int(job.name), outcome, time.monotonic() - started[job.name])
            lines.trial(trial, study.trials(), until - time.monotonic())
            bar.update(task, completed=len(_ended(study)) + sum(shares.values()) - shares.pop(job.name, 0.0))
            failures.append(outcome)
            if len(failures) == SAME_FAILURES and {(each.exit_code, each.code) for each in failures} == {
                (UsageError.exit_code, outcome.code)
            }:
                raise UsageError(outcome.code, f"the first {SAME_FAILURES} trials failed alike: {outcome.sentence}")


def _ended(study: "Study") -> list["Trial"]:
    return [trial for trial in study.trials() if trial.state != "running"]


def _told(study: "Study", number: int, outcome: Outcome, seconds: float) -> "Trial":
    if outcome.state == "stopped":
        return study.tell(number, None, seconds)
    if outcome.state == "finished" and outcome.val_accuracy is None:
        return study.tell(number, None, seconds, "it was never validated")
    return study.tell(number, outcome.val_accuracy, seconds, outcome.sentence)


def _finish(asked: Plan, study: "Study", lines: "SweepLines", workers: Workers) -> None:
    """Writes the best recipe, trains it again, and writes the report."""
    from lit_cifar.experiments.sweep_report import best_of, summary, write

    trials, folder = study.trials(), asked.folder
    best = best_of(trials)
    if best is None or best.accuracy is None:
        page, *_ = write(folder, summary(asked.about, study, []), "")
        why = next((trial.reason for trial in trials if trial.reason), "all were pruned, or none was started")
        raise UserError("trials-failed", f"no trial of the sweep {folder} reached its end: {why}; see {page}")
    comment = f"Trial {best.number} of the sweep {asked.about.name}: validation accuracy {percent(best.accuracy)}"
    recipe = complete_recipe(asked.words_of(best.values), comment)
    path = write_whole(folder / "best.yaml", recipe)
    write(folder, summary(asked.about, study, []), recipe)  # should the rest be interrupted
    found = summary(asked.about, study, _train_again(asked, lines, workers, path))
    lines.result(found, folder, [path, *write(folder, found, recipe)])


def _train_again(asked: Plan, lines: "SweepLines", workers: Workers, recipe: Path) -> list["Again"]:
    """Trains a recipe with other seeds, and tests it."""
    from lit_cifar.experiments.sweep_lines import AGAIN

    seeds = [(asked.about.seed + i) % 2**32 for i in range(1, AGAIN + 1)]
    lines.say(f"Training the best recipe again, with the seeds {', '.join(map(str, seeds))}")
    jobs = {
        Job(
            f"seed {seed}",
            (f"--config={recipe}", f"--seed_everything={seed}"),
            asked.folder / "best" / f"seed_{seed}",
            tests=asked.tests,
        ): seed
        for seed in seeds
    }
    again = []
    with lines.bar() as bar:
        tasks = {job.name: bar.add_task(job.name, total=1.0) for job in jobs}
        for job, outcome in workers.run(jobs, lambda job, share: bar.update(tasks[job.name], completed=share)):
            if outcome.state == "interrupted":
                raise _interrupted(f"{job.name} was {outcome.sentence.partition(';')[0]}", outcome.exit_code)
            bar.update(tasks[job.name], completed=1.0)
            again.append(_again(asked, jobs[job], outcome))
            lines.again(again[-1])
    return sorted(again, key=lambda run: seeds.index(run.seed))


def _again(asked: Plan, seed: int, outcome: Outcome) -> "Again":
    from lit_cifar.experiments.sweep_report import Again

    if outcome.state != "finished" or outcome.run is None:
        return Again(seed, outcome.state, reason=outcome.sentence)
    folder = outcome.run.relative_to(asked.folder).as_posix()
    if not asked.tests:
        return Again(seed, "finished", outcome.val_accuracy, folder=folder)
    try:
        run = read_run("", seed, outcome.run, asked.folder)
    except UserError as error:
        return Again(seed, "failed", folder=folder, reason=str(error))
    return Again(seed, "finished", run.val_accuracy, run.test_accuracy, folder)
