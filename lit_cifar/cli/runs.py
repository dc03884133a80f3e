"""`python -m lit_cifar runs`: what was trained, in a table. It needs no torch, and reads 1,000 runs in a second."""

import os
from pathlib import Path

from lit_cifar.cli.parser import Parser
from lit_cifar.data.files import write_whole
from lit_cifar.errors import UsageError, UserError
from lit_cifar.report import run_table
from lit_cifar.report.tables import plural, print_written
from lit_cifar.runs.catalog import Run, find_runs, read_run
from lit_cifar.runs.selection import differences, in_order, named_run, select
from lit_cifar.runs.state import RUNS

STANDARD_OUTPUT = Path("-")
DEFAULTS = {"--csv": "-", "--html": "runs.html"}


def main(words: list[str]) -> None:
    """Prints the table, or writes it as CSV or HTML."""
    parser = Parser(
        prog="python -m lit_cifar runs",
        usage="%(prog)s [FOLDER] [options]",
        description="List the runs in lightning_logs or, if FOLDER is named, in all lightning_logs below it.",
    )
    add = parser.add_argument
    add("folder", nargs="?", type=str, metavar="FOLDER", help="Folder to look in: the current one, or another.")
    add("--sort", type=str, default="when", metavar="KEY", help="Column or setting to sort by; -KEY: descending.")
    where = "Only these runs: KEY=VALUE, !=, <, <=, > or >=, of a column or a setting such as data.dataset. Several are"
    add("--where", action="append", type=str, metavar="CONDITION", help=f"{where} joined by and.")
    difference = "Show the settings in which two runs differ, and their results: tutorial/version_3, or a path."
    add("--diff", nargs=2, type=str, metavar="A B", help=difference)
    csv = "Write all results as CSV to FILE or, without FILE, to standard output."
    add("--csv", nargs="?", const=DEFAULTS["--csv"], type=str, metavar="[FILE.csv]", help=csv)
    html = "Write a page to FILE, or to runs.html: it sorts itself, and shows validation accuracy as curves."
    add("--html", nargs="?", const=DEFAULTS["--html"], type=str, metavar="[FILE.html]", help=html)
    config = parser.parse_args(_joined(words))
    outputs = {name: Path(config[name]) for name in ("csv", "html") if config[name] is not None}
    for name, path in outputs.items():
        if path != STANDARD_OUTPUT and (path.suffix.lower() != f".{name}" or path.is_dir()):
            raise UsageError("output-refused", f"--{name} {path} must be a file such as runs.{name}")
    root = _absolute(config.folder or ".")
    runs = [read_run(folder) for folder in find_runs(root if config.folder else root / RUNS)]
    if config.diff:
        if outputs or config.where:
            raise UsageError("value-invalid", "--diff shows two runs; leave out --where, --csv and --html")
        first, second = (_named(runs, name) for name in config.diff)
        run_table.print_differences(first, second, differences(first, second))
        return
    if not runs:
        raise UsageError("runs-missing", _none_in(root, config.folder))
    runs = in_order(in_order(select(runs, config.where or []), "version"), config.sort)
    if "csv" in outputs:
        content = run_table.as_csv(runs)
        if outputs["csv"] == STANDARD_OUTPUT:
            print(content, end="")
        else:
            print_written(write_whole(outputs["csv"], content, "--csv"), plural(len(runs), "run"))
    if "html" in outputs:
        run_table.write_page(runs, root, outputs["html"])
        if outputs.get("csv") != STANDARD_OUTPUT:
            print_written(outputs["html"], plural(len(runs), "run"))
    if not outputs:
        run_table.print_runs(runs, root) if runs else print(f"No run fits {' and '.join(config.where)}")


def _joined(words: list[str]) -> list[str]:
    """The words as argparse takes them: `--sort -epochs` as one, and `--csv FOLDER` as two."""
    found: list[str] = []
    for word in words:
        before = found[-1] if found else ""
        if before == "--sort" and word.startswith("-") and not word.startswith("--"):
            found[-1] = f"--sort={word}"
        elif before in DEFAULTS and not word.lower().endswith(f".{before[2:]}"):
            found[-1:] = [f"{before}={DEFAULTS[before]}", word]
        else:
            found.append(word)
    return found


def _named(runs: list[Run], name: str) -> Run:
    """Returns the run of a name, or at a path, which may be anywhere."""
    run = read_run(_absolute(name)) if _absolute(name).is_dir() else named_run(runs, name)
    if run.problem:
        raise UserError("run-damaged", f"--diff {name} is damaged: {run.problem}; name another")
    return run


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100, as links keep their names


def _none_in(root: Path, folder: str | None) -> str:
    if folder and not root.is_dir():
        hint = "; give each condition a --where of its own" if "=" in folder else ""
        return f"there is no folder {folder}{hint}"
    where = f"any {RUNS} below {folder}" if folder else f"{root / RUNS}"
    return f"there are no runs in {where}; train with python -m lit_cifar fit, or name another folder"
