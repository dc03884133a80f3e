"""What a sweep is asked to do: its command line, tried with fit before anything is written."""

import inspect
import io
import math
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml

from lit_cifar.cli.arguments import check_name, refusals_of_lightning
from lit_cifar.cli.build import Run, build
from lit_cifar.cli.commands import HELP
from lit_cifar.cli.parser import Parser
from lit_cifar.cli.recipes import Given
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.sources import kept_open
from lit_cifar.errors import UsageError, meant, require
from lit_cifar.experiments.search_space import Parameter, Range, as_words, parse_search
from lit_cifar.experiments.sweep_report import About
from lit_cifar.experiments.variants import flat, recipes_among
from lit_cifar.report import tables
from lit_cifar.runs.folder import WholeConfig

SWEEPS = "sweeps"
DESCRIPTION = """Search for the recipe with the highest validation accuracy, by Optuna; then train it again with three
other seeds, and test only these. Started again, the same command goes on. Started in several terminals, they share the
trials. Flags of fit, such as --data.root DIR, go to all trials."""
FLAGS = {  # type, default, what the value is called, help
    "--trials": (int, 30, "N", "Number of trials, counted over all processes and starts."),
    "--hours": (float | None, None, "N", "Start no trial after so many hours. Those that run are finished."),
    "--jobs": (int, 1, "N", "Trials at a time, on a GPU each where there are several, else sharing the cores."),
    "--sampler": (str, "TPESampler", "CLASS", "Class of optuna.samplers, which proposes values."),
    "--pruner": (str, "MedianPruner", "CLASS", "Class of optuna.pruners, which ends bad trials after an epoch."),
    "--name": (str | None, None, "NAME", "Folder in sweeps/, by default the name of the recipe."),
}
OF_THE_SWEEP = {"--ckpt_path": "trains anew", "--resume": "goes on by itself", "--print_config": "prints no config"}
"""Flags of fit that a sweep doesn't pass on, and what it does."""
PLACES = ("ckpt_path", "resume", "note", "trainer.default_root_dir", "trainer.enable_progress_bar")
"""Keys of config.yaml that are no settings of a training."""


@dataclass(frozen=True)
class Plan:
    """A sweep that can begin."""

    options: Any
    """Values of FLAGS."""
    parameters: list[Parameter]
    words: list[str]
    """What follows `fit` for all trials."""
    settings: dict[str, Any]
    """What these words and their recipe mean, by key, with the first value of each parameter."""
    folder: Path
    about: About
    tests: bool
    """Whether there are test images."""

    def words_of(self, values: dict[str, Any]) -> list[str]:
        """Returns what follows `fit` for a trial."""
        return [*self.words, *as_words(self.parameters, values)]


def plan(words: list[str]) -> Plan:
    """Reads the command line of a sweep, and lets fit refuse what it can't take, such as an end of a range."""
    parser = Parser(prog="python -m lit_cifar sweep", description=" ".join(DESCRIPTION.split()))
    parser.usage = "%(prog)s [RECIPE] --search KEY=VALUES ... [options]"
    text = "What to search (repeatable): KEY=LOW..HIGH, KEY=log:LOW..HIGH, or KEY=A,B,C. KEY is a flag of fit."
    parser.add_argument("--search", type=str, metavar="KEY=VALUES", help=text)
    for name, (kind, default, value, text) in FLAGS.items():
        parser.add_argument(name, type=kind, default=default, metavar=value, help=text)
    own, searches, rest = _split(words)
    options = parser.parse_args(own)
    require(options.trials >= 1, f"--trials {options.trials} must be 1 or more")
    require(options.jobs >= 1, f"--jobs {options.jobs} must be 1 or more")
    hours = math.inf if options.hours is None else options.hours
    require(hours > 0, f"--hours {hours} must be above 0")
    parameters = parse_search(searches, rest)
    try:
        return _tried(options, parameters, rest)
    except UsageError as error:
        named = re.search(r"there is no (?:flag|key or flag) (--[\w.-]+)", str(error))
        if named and (hint := meant(named[1], ["--search", *FLAGS])):
            raise UsageError(error.code, f"there is no flag {named[1]}; {hint}") from error
        raise


def _split(words: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Returns flags of the sweep, values of --search, and flags of fit with the recipe as --config."""
    own: list[str] = []
    searches: list[str] = []
    others: list[str] = []
    waiting = iter(words)
    for word in waiting:
        flag, equals, value = word.partition("=")
        if flag == "--search":
            searches.append(value if equals else next(waiting, ""))
        elif flag in FLAGS or flag in HELP:
            own += [word, *islice(waiting, flag in FLAGS and not equals)]
        else:
            others.append(word)
    recipes, rest = recipes_among(others)
    for flag, what in OF_THE_SWEEP.items():
        if any(word.partition("=")[0] == flag for word in rest):
            raise UsageError("value-invalid", f"{flag} is not for a sweep, which {what}; leave it out")
    if len(recipes) <= 1:
        rest = [*(f"--config={recipe}" for recipe in recipes), *rest]
        recipes = Given(rest).flags("--config", "-c")
    if len(recipes) > 1:
        raise UsageError("value-invalid", f"sweep takes one recipe, not {' and '.join(recipes)}; use one of them")
    return own, searches, rest


def _tried(options: Any, parameters: list[Parameter], rest: list[str]) -> Plan:
    given = Given(rest)
    if given.own_classes:
        raise UsageError("value-invalid", "sweep needs the network and data of a recipe, not classes of your own")
    words = rest if given.get("trainer.devices") not in (None, "auto") else [*rest, "--trainer.devices=1"]
    first = {parameter.key: parameter.tried[0] for parameter in parameters}
    with kept_open():
        run = _build([*words, *as_words(parameters, first)])
        config = next((each.content for each in run.trainer.callbacks if isinstance(each, WholeConfig)), None)
        _refuse_unfit(run, config)
        content = yaml.safe_load(config or "")
        words.append(f"--data.dataset={content['data']['dataset']}")  # even if the images of another one turn up
        if content["init_from"]:  # may have been given as best
            words.append(f"--init_from={Path(content['init_from']).absolute()}")
        found = []
        for parameter in parameters:
            for value in parameter.tried[1:]:
                _build([*words, *as_words(parameters, first | {parameter.key: value})])
            found.append(_with_type(parameter, [*words, *as_words(parameters, first)]))
    assert isinstance(run.data, CIFAR10DataModule)
    tables.print_drawn_box(run.data.images)
    name = options.name or content["recipe"]
    check_name("name", name)
    about = About(
        name,
        content["recipe"],
        content["data"]["dataset"],
        run.data.title,
        run.data.val_size,
        options.sampler,
        options.pruner,
        content["seed_everything"],
    )
    settings = {"seed_everything": about.seed, **flat(content)}
    settings = {key: value for key, value in settings.items() if key not in PLACES}
    folder = Path(content["trainer"]["default_root_dir"] or ".") / SWEEPS / name
    return Plan(options, found, words, settings, folder, about, len(run.data.images.test.labels) > 0)


def _refuse_unfit(run: Run, config: str | None) -> None:
    if config is None:
        raise UsageError("value-invalid", "--trainer.fast_dev_run trains nothing to compare; leave it out")
    if not run.trainer.loggers:
        raise UsageError("value-invalid", "--trainer.logger false leaves no run folder; sweep needs it, leave it on")
    if run.trainer.world_size > 1:
        sentence = f"--trainer.devices {run.trainer.world_size}: a trial trains on one device"
        raise UsageError("value-invalid", f"{sentence}; leave it out, and train several at a time with --jobs")
    if not run.data.val_size or run.trainer.limit_val_batches == 0:  # type: ignore[attr-defined]
        sentence = "no images are held out, but sweep compares validation accuracies"
        raise UsageError("validation-empty", f"{sentence}; use --data.val_size 0.1, and validate on them")


def _with_type(parameter: Parameter, words: list[str]) -> Parameter:
    """A range between integers is of floats if fit takes one."""
    if not isinstance(parameter, Range) or not parameter.integers:
        return parameter
    try:
        _build([*words, f"--{parameter.key}={parameter.middle}"])
    except UsageError:
        return parameter
    return parameter.floats()


def _build(words: list[str]) -> Run:
    with redirect_stdout(io.StringIO()), refusals_of_lightning():
        return build("fit", words, "")


def complete_recipe(words: list[str], comment: str) -> str:
    """Returns a recipe that is complete in itself, and with which `fit --config` trains as with these words."""
    run = _build(words)
    content = yaml.safe_load(next(each.content for each in run.trainer.callbacks if isinstance(each, WholeConfig)))
    unset = {name for name, each in inspect.signature(pl.Trainer).parameters.items() if each.default is None}
    for section, names in ((content, {"ckpt_path", "init_from"}), (content["trainer"], unset)):
        for name in names & section.keys():
            if section[name] is None:
                del section[name]
    for key in PLACES:
        section, _, name = key.rpartition(".")
        (content[section] if section else content).pop(name, None)
    return f"# {comment}\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}"
