"""`python -m lit_cifar compare`: trains variants with the same seeds, and says what is more than chance."""

import argparse
import json
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from lit_cifar.cli.arguments import check_name
from lit_cifar.cli.build import parse
from lit_cifar.cli.compare_output import Output, print_results
from lit_cifar.cli.help import PlainParser
from lit_cifar.cli.recipes import Given
from lit_cifar.cli.worker_process import Checked, Job
from lit_cifar.cli.workers import Workers
from lit_cifar.errors import UsageError, UserError, listed, meant
from lit_cifar.evaluation.statistics import scipy_stats
from lit_cifar.experiments.comparison import Run, read_run
from lit_cifar.experiments.comparison_files import Record, holds_another
from lit_cifar.experiments.variants import (
    OWN,
    Variant,
    default_name,
    flat,
    make_variants,
    read_vary,
    recipes_among,
)
from lit_cifar.report.tables import plural
from lit_cifar.runs.folder import hold, release

COMPARISONS = "comparisons"
MOST = 10_000  # runs


def main(argv: list[str]) -> None:
    """Checks all variants, trains them, prints a table, and writes `comparisons/<name>/`."""
    if "--checkpoints" in {word.partition("=")[0] for word in argv}:
        from lit_cifar.cli import compare_checkpoints

        compare_checkpoints.main(argv)
        return
    options, recipes, flags = _read(argv)
    scipy_stats()  # or refuses before anything is trained
    vary: dict[str, list[str]] = {}
    for key, values in map(read_vary, options.vary or []):
        if key in vary:
            raise UsageError("value-invalid", f"--vary {key} is given twice; name all its values in one")
        vary[key] = values
    variants = make_variants(recipes, vary, flags)
    if len(variants) * options.runs > MOST:
        sentence = f"{len(variants):,} variants with --runs {options.runs} are more than {MOST:,} trainings"
        raise UsageError("value-out-of-range", f"{sentence}; compare fewer")
    settings = [_settings(variant) for variant in variants]
    _refuse_same(variants, settings)
    root = Path(([*Given(flags).flags("--trainer.default_root_dir")] or ["."])[-1]).expanduser()
    folder = _folder(root / COMPARISONS, options.name, variants, settings)
    with ExitStack() as stack:
        stack.enter_context(_sigterm_as_exit())
        stack.callback(release)
        _compare(Record(folder, options.runs, variants, settings, []), options.jobs)


def _read(argv: list[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Returns our own options, the recipes, and the flags of `fit`."""
    parser = PlainParser(
        prog="python -m lit_cifar compare",
        usage="%(prog)s [RECIPE ...] [--vary KEY=V1,V2,...] [options]\n"
        "       python -m lit_cifar compare --checkpoints A B ... [options]",
        description="Train several recipes, or one with several values of a setting, with the same seeds, and say which"
        " differences are more than chance. Validation accuracy decides. What was interrupted goes on, if the same"
        " command is started again.",
        epilog="Flags of fit, such as --data.root DIR or --trainer.max_epochs 1, go to all trainings. --checkpoints"
        " compares trained networks on the test images instead.",
    )
    add = parser.add_argument
    add("--vary", action="append", metavar="KEY=V1,V2,...", help="Values of a flag of fit; several flags make a grid.")
    add("--runs", type=int, default=3, metavar="N", help="Trainings of each variant, with seeds 0, 1, 2, …")
    jobs = "Trainings at a time, on a GPU each or sharing the cores."
    add("--jobs", type=int, default=1, metavar="N", help=jobs)
    add("--name", help="Folder in comparisons/; by default, made of recipes and keys.")
    recipes, others = recipes_among(argv)
    try:
        options, flags = parser.parse_known_args(others)
    except argparse.ArgumentError as error:
        code = "value-missing" if "expected one argument" in str(error) else "value-wrong-type"
        raise UsageError(code, f"compare: {error}") from error
    for name in ("runs", "jobs"):
        if getattr(options, name) < 1:
            raise UsageError("value-out-of-range", f"--{name} {getattr(options, name)} must be at least 1")
    if options.name is not None:
        check_name("name", options.name)
    own = ("--vary", "--runs", "--jobs", "--name")
    for flag in flags:  # --run is nearer to --runs than to any flag of fit
        name = flag.partition("=")[0]
        if re.fullmatch(r"--\w+", name) and name[2:] not in OWN and (hint := meant(name, own)):
            raise UsageError("flag-unknown", f"there is no flag {name}; {hint}")
    return options, recipes, flags


def _settings(variant: Variant) -> dict[str, Any]:
    """Returns every setting of a variant by its flag; UsageError for one that `fit` refuses."""
    try:
        parsed = parse("fit", [*variant.words, "--seed_everything=0"], "")
    except UserError as error:
        raise type(error)(error.code, f"{variant.name}: {error}") from error
    if parsed.given.own_classes:
        raise UsageError("report-missing", f"{variant.name}: a module of your own writes no report to compare")
    return flat(yaml.safe_load(parsed.parser.dump(parsed.config, skip_unset=False)))


def _refuse_same(variants: Sequence[Variant], settings: Sequence[Mapping[str, Any]]) -> None:
    seen: dict[str, str] = {}
    for variant, each in zip(variants, settings, strict=True):
        before = seen.setdefault(json.dumps(each, sort_keys=True, default=str), variant.name)
        if before is not variant.name:
            sentence = f"{before} and {variant.name} are the same training; leave one of them out"
            raise UsageError("variants-same", sentence)


def _folder(place: Path, name: str | None, variants: Sequence[Variant], settings: Sequence[Mapping[str, Any]]) -> Path:
    """Returns the folder: an earlier comparison of these variants, perhaps of fewer, goes on; no other is replaced."""
    folder = place / (name or default_name(variants))
    number = 1
    while holds_another(folder, variants, settings):
        if name:
            sentence = f"--name {name}: {folder} holds a comparison of other variants; use another name"
            raise UsageError("comparison-other", sentence)
        number += 1
        folder = place / f"{default_name(variants)}-{number}"
    return folder


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _InterruptedError(UserError):
    """Ctrl-C or SIGTERM ended the comparison; the same command goes on."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__("interrupted", sentence)
        self.exit_code = exit_code


def _compare(record: Record, at_once: int) -> None:
    jobs: dict[str, tuple[Variant, int]] = {}
    output = Output(record, at_once)
    try:
        with Workers(at_once) as workers:
            firsts = [Job(each.name, _words(each, 0), _place(record, each, 0)) for each in record.variants]
            record.data = [_required(*found) for found in zip(record.variants, workers.check(firsts), strict=True)]
            _hold(record.folder)
            record.write()
            output.start()
            for seed in range(record.seeds):
                for variant in record.variants:
                    jobs[f"{variant.name}, seed {seed}"] = variant, seed
            todo = (Job(name, _words(*each), _place(record, *each)) for name, each in jobs.items())
            for job, outcome in workers.run(output.begun(todo), output.move):
                variant, seed = jobs[job.name]
                run = Run(variant.name, seed, outcome.state, code=outcome.code, sentence=outcome.sentence)
                if outcome.run:
                    try:
                        run = read_run(variant.name, seed, outcome.run, record.folder)
                    except UserError as error:
                        run = Run(variant.name, seed, "failed", code=error.code, sentence=str(error))
                record.runs.append(run)
                record.write()
                output.ended(job.name, run, outcome.trained)
    except (KeyboardInterrupt, SystemExit) as stop:
        how, code = ("Ctrl-C", 130) if isinstance(stop, KeyboardInterrupt) else ("SIGTERM", 143)
        output.stop()
        if not record.data:
            raise _InterruptedError(f"stopped by {how} before the first training", code) from stop
        for name in output.running:
            record.runs.append(Run(jobs[name][0].name, jobs[name][1], "interrupted", code="interrupted"))
        record.state = "interrupted"
        record.draw()
        finished = sum(run.state == "finished" for run in record.runs)
        sentence = f"stopped by {how}: {finished:,} of {plural(len(jobs), 'run')} finished; the same command goes on"
        raise _InterruptedError(sentence, code) from stop
    finally:
        output.stop()
    record.state = "finished"
    print_results(*record.draw())
    if failed := [run for run in record.runs if run.state != "finished"]:
        names = listed(f"{run.variant}, seed {run.seed} ({run.state})" for run in failed)
        sentence = f"{len(failed):,} of {plural(len(jobs), 'run')} did not finish: {names}"
        raise UserError("runs-failed", f"{sentence}; output.txt in {record.folder / 'runs'} has what they printed")


def _words(variant: Variant, seed: int) -> tuple[str, ...]:
    return (*variant.words, f"--seed_everything={seed}")


def _place(record: Record, variant: Variant, seed: int) -> Path:
    return record.folder / "runs" / variant.folder / f"seed_{seed}"


def _required(variant: Variant, checked: Checked) -> dict[str, Any]:
    """Returns what a variant trains on, or raises what it is refused for."""
    if refusal := checked.refusal:
        kind = UsageError if refusal.exit_code == 2 else UserError
        raise kind(refusal.code, f"{variant.name}: {refusal.sentence}")
    if not checked.data:
        sentence = "it writes no report to compare; leave --trainer.logger on and --trainer.fast_dev_run off"
        raise UsageError("report-missing", f"{variant.name}: {sentence}")
    if not checked.data["val"]:
        sentence = "it holds no images out for validation, by which variants are compared; raise --data.val_size"
        raise UsageError("validation-empty", f"{variant.name}: {sentence}")
    if not checked.data["test"]:
        sentence = f"{checked.data['title']} has no test images, and nothing is reported without; add a folder test"
        raise UsageError("data-missing", f"{variant.name}: {sentence}")
    return checked.data


def _hold(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        hold(folder)
    except UserError as error:
        todo = "wait until it ends, or use another --name"
        raise UserError(error.code, f"another process is comparing in {folder}; {todo}") from error
