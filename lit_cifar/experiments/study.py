"""The trials of a sweep: an Optuna study in SQLite, which any number of processes may work on, and be killed.

Optuna proposes values and decides which trials to prune (Akiba et al., Optuna: A next-generation hyperparameter
optimization framework, KDD 2019). Whoever does a trial holds a lock in its folder. The system drops the lock of a
killed process, and the trial, which Optuna still counts as running, goes on with the next process that asks for one.

What is proposed depends on the seed, the number of the trial and the trials before it alone, so that a sweep of one job
repeats, however often it is interrupted.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from lit_cifar.data.files import writing
from lit_cifar.errors import UsageError, UserError, listed
from lit_cifar.experiments.samplers import make_pruner, make_sampler, quietly, try_sampler
from lit_cifar.experiments.search_space import Parameter
from lit_cifar.experiments.study_file import (
    SECONDS_TO_WAIT,
    reading_study,
    refuse_foreign,
    storage_of,
    trial_id_of,
    using_study,
)

ENOUGH_FOR_IMPORTANCE = 8  # complete trials
SAME_SEED = {"QMCSampler"}  # whose trials are points of one sequence
STATES: dict[TrialState, Literal["complete", "pruned", "failed", "running"]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class Trial:
    """One training of a sweep."""

    number: int
    values: dict[str, Any]
    """Of the parameters, by their keys."""
    state: Literal["complete", "pruned", "failed", "running"]
    accuracy: float | None = None
    """Validation accuracy of its best epoch."""
    curve: tuple[tuple[int, float], ...] = ()
    """Validation accuracy after each epoch, from 1."""
    seconds: float | None = None
    reason: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class AskPruner:
    """Tells the study the validation accuracy of an epoch, and asks whether the trial is worth going on."""

    path: Path
    number: int
    pruner: str

    def __call__(self, epoch: int, accuracy: float) -> bool:
        with quietly(), using_study(self.path):
            storage = storage_of(self.path)
            study = optuna.load_study(study_name=None, storage=storage, pruner=make_pruner(self.pruner))
            storage.set_trial_intermediate_value(trial_id_of(storage, study, self.number), epoch, accuracy)
            return study.pruner.prune(study, study.get_trials(deepcopy=False)[self.number])


class Study:
    """The study in `folder`, which is made if it is missing.

    Raises UsageError if the study there is another one, and UserError if its file is damaged.

    Args:
        folder: Folder of the sweep.
        parameters: What is searched.
        settings: All other settings of the trials, by their keys.
        sampler: Name of a class of optuna.samplers.
        pruner: Name of a class of optuna.pruners.
        seed: Seed of the sampler.
    """

    def __init__(
        self,
        folder: Path,
        parameters: Sequence[Parameter],
        settings: dict[str, Any],
        sampler: str,
        pruner: str,
        seed: int,
    ) -> None:
        self.folder, self.path = folder, folder / "study.db"
        self.parameters, self._sampler, self._seed, self._pruner = parameters, sampler, seed, pruner
        self._distributions = {parameter.key: parameter.distribution() for parameter in parameters}
        try_sampler(sampler, self._distributions)
        pruning = make_pruner(pruner)
        refuse_foreign(self.path)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock", timeout=SECONDS_TO_WAIT)
        self._held: dict[int, FileLock] = {}
        self._is_exhausted = False
        with self._locked(), reading_study(self.path):
            self._storage = storage_of(self.path)
            names = optuna.get_all_study_names(self._storage)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=names[0] if names else folder.name,
                direction="maximize",
                load_if_exists=True,
                pruner=pruning,
            )
            about = {"search": {parameter.key: str(parameter) for parameter in parameters}, "settings": settings}
            about = json.loads(json.dumps(about))
            if names:
                self._refuse_another(names, about)
            for name, value in about.items():
                self._study.set_user_attr(name, value)
            self.trials()  # refuses what is damaged

    def _refuse_another(self, names: Sequence[str], about: dict[str, Any]) -> None:
        attributes = self._study.user_attrs
        before: dict[str, Any] = {name: attributes.get(name) for name in about}
        is_sweep = len(names) == 1 and all(isinstance(value, dict) for value in before.values())
        if not is_sweep or self._study.direction is not optuna.study.StudyDirection.MAXIMIZE:
            raise UsageError("study-foreign", f"{self.path} is not a study of a sweep; move it away, or use --name")
        for name, what in (("search", "searches"), ("settings", "has")):
            then, now = before[name], about[name]
            differing = [key for key in {**then, **now} if then.get(key) != now.get(key)]
            if differing:
                parts = (f"{key} {_written(then.get(key))}, now {_written(now.get(key))}" for key in differing)
                sentence = f"the study in {self.folder} {what} {listed(parts, 3)}"
                todo = "use the same settings to go on with it, or --name for another sweep"
                raise UsageError("study-of-another-sweep", f"{sentence}; {todo}")

    def take(self, most: int) -> Trial | None:
        """Returns a trial to do, or None if there are as many as `most`: one whose process was killed, or a new one."""
        with self._locked(), using_study(self.path):
            trials = self._study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state is TrialState.RUNNING and trial.number not in self._held and self._hold(trial.number):
                    if self._is_whole(trial):
                        return _described(trial)
                    self._study.tell(trial.number, state=TrialState.FAIL)  # killed before it had values
                    self._release(trial.number)
            if self._is_exhausted or sum(map(self._is_whole, trials)) >= most:
                return None
            self._study.sampler = self._new_sampler(len(trials))
            asked = self._study.ask(self._distributions)
            self._hold(asked.number)
            return Trial(asked.number, asked.params, "running")

    def _new_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = np.random.SeedSequence([self._seed, 0 if self._sampler in SAME_SEED else number]).generate_state(1)[0]
        return make_sampler(self._sampler, int(seed))

    def _is_whole(self, trial: FrozenTrial) -> bool:
        if trial.params.keys() != self._distributions.keys() or trial.state is TrialState.WAITING:
            return False
        return all(parameter.holds(trial.params[parameter.key]) for parameter in self.parameters)

    def tell(self, number: int, accuracy: float | None, seconds: float, reason: str = "") -> Trial:
        """Ends a trial: complete with an accuracy, failed with a reason, otherwise pruned."""
        state = TrialState.FAIL if reason else TrialState.PRUNED if accuracy is None else TrialState.COMPLETE
        with self._locked(), using_study(self.path):
            trial_id = trial_id_of(self._storage, self._study, number)
            for name, value in {"seconds": seconds, "reason": reason}.items():
                if value:
                    self._storage.set_trial_user_attr(trial_id, name, value)
            try:
                self._study.tell(number, accuracy if state is TrialState.COMPLETE else None, state)
            except RuntimeError:  # BruteForceSampler has tried everything, and would end Optuna's own loop
                self._is_exhausted = True
            self._release(number)
            return _described(self._study.get_trials(deepcopy=False)[number])

    def is_shared(self) -> bool:
        """Whether another process does a trial."""
        for trial in self.trials():
            if trial.state == "running" and trial.number not in self._held:
                if not self._hold(trial.number):
                    return True
                self._release(trial.number)
        return False

    def ask_pruner(self, number: int) -> AskPruner:
        return AskPruner(self.path, number, self._pruner)

    def trials(self) -> list[Trial]:
        """Returns all trials that have values."""
        with using_study(self.path):
            return [_described(trial) for trial in self._study.get_trials(deepcopy=False) if self._is_whole(trial)]

    def importances(self) -> dict[str, float]:
        """Returns shares of 1 that say which parameters matter to be among the best tenth, the highest first.

        PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI 2023), which Optuna computes without further packages. Empty if
        there are too few complete trials.
        """
        complete = [trial.accuracy for trial in self.trials() if trial.state == "complete"]
        if len(complete) < ENOUGH_FOR_IMPORTANCE or len({*complete}) == 1:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return optuna.importance.get_param_importances(self._study, evaluator=evaluator)

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / str(number)

    def _hold(self, number: int) -> bool:
        folder = self.trial_folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".sweep.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return False
        self._held[number] = lock
        return True

    def _release(self, number: int) -> None:
        self._held.pop(number).release()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with writing(self.folder), self._lock:
                yield
        except Timeout as error:
            sentence = f"another process has been using {self.folder} for {SECONDS_TO_WAIT:.0f} s; try again later"
            raise UserError("run-locked", sentence) from error


def _described(trial: FrozenTrial) -> Trial:
    curve = tuple(sorted(trial.intermediate_values.items()))
    accuracy = trial.value if trial.state is TrialState.COMPLETE else max((value for _, value in curve), default=None)
    seconds, why = trial.user_attrs.get("seconds"), str(trial.user_attrs.get("reason", ""))
    seconds = float(seconds) if isinstance(seconds, int | float) else None
    return Trial(trial.number, dict(trial.params), STATES[trial.state], accuracy, curve, seconds, why)


def _written(value: Any) -> str:
    return "nothing" if value is None else str(value)
