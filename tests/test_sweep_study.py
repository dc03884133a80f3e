"""The parts of a sweep without a training: what is searched, the study that processes share, numbers, and the page."""

import json
import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from browsing import chromium, needs_chromium
from conftest import refused
from drawing import Page

from lit_cifar.errors import UsageError, UserError
from lit_cifar.experiments.samplers import make_pruner, quietly
from lit_cifar.experiments.search_space import Choices, Range, as_words, parse_search, short_names
from lit_cifar.experiments.study import Study, Trial
from lit_cifar.experiments.sweep_lines import SweepLines
from lit_cifar.experiments.sweep_report import About, Again, summary, write

SEARCH = ("model.optimizer.lr=log:1e-4..1e-1", "data.batch_size=32,64", "data.cutout=0..8")
ABOUT = About("first <b>", "tutorial", "folder", "the folder data", 5000, "TPESampler", "MedianPruner", 0)


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("log:1e-4..1e-1", Range("k", 1e-4, 1e-1, True, False)),
        ("0..1", Range("k", 0, 1, False, True)),
        ("-1..+8", Range("k", -1, 8, False, True)),
        ("log:1..64", Range("k", 1, 64, True, True)),
        (".5...9", Range("k", 0.5, 0.9, False, False)),
        ("1..2.5", Range("k", 1.0, 2.5, False, False)),
        ("32, 64,128", Choices("k", ("32", "64", "128"))),
        ("[0,1],null", Choices("k", ("[0,1]", "null"))),
        ('{"a": [1, 2]},"x,y"', Choices("k", ('{"a": [1, 2]}', '"x,y"'))),
        ("../a,../b", Choices("k", ("../a", "../b"))),
    ],
)
def test_a_search_is_a_range_or_choices(spec: str, meant: Choices | Range) -> None:
    assert parse_search([f"k={spec}"], []) == [meant]


@pytest.mark.parametrize(
    ("searches", "error", "name"),
    [
        ([], "value-missing", "--search"),
        (["lr"], "value-invalid", "lr"),
        (["lr="], "value-invalid", "lr="),
        (["lr=0.1"], "value-invalid", "lr=0.1"),
        (["lr=1..1"], "value-out-of-range", "1..1"),
        (["lr=log:0..1"], "value-out-of-range", "log:0..1"),
        (["lr=0..1e999"], "value-out-of-range", "1e999"),
        (["lr=0..a"], "value-wrong-type", "0..a"),
        (["lr=log:1,2"], "value-wrong-type", "log:1,2"),
        (["lr=1,,2"], "value-missing", "1,,2"),
        (["lr=[1,2"], "value-invalid", "]"),
        (["lr=1,1"], "value-invalid", "lr=1,1"),
        (["m.lr=0..1", "m.init_args.lr=0..2"], "value-invalid", "m.lr"),
        (["seed_everything=0..9"], "value-invalid", "seed_everything"),
        (["data.val_size=0.1,0.2"], "value-invalid", "data.val_size"),
        (["set=0..1"], "value-invalid", "--set"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(searches: list[str], error: str, name: str) -> None:
    with refused(UsageError, error, name):
        parse_search(searches, ["--set=3"])


def test_values_become_flags_a_class_before_its_arguments() -> None:
    parameters = parse_search(["m.net.depth=1..4", "m.net=A,B", "m.lr=0.5..1.5"], [])
    words = as_words(parameters, {"m.net.depth": 2, "m.net": "B", "m.lr": 1e-05})
    assert words == ["--m.net=B", "--m.lr=1e-05", "--m.net.depth=2"]
    assert short_names(["a.lr", "b.lr", "size", "x.size"]) == {
        "a.lr": "a.lr", "b.lr": "b.lr", "size": "size", "x.size": "x.size"
    }  # fmt: skip


def study(folder: Path, *searches: str, sampler: str = "TPESampler", crop: int = 4) -> Study:
    return Study(folder, parse_search(searches or SEARCH, []), {"data.crop": crop}, sampler, "MedianPruner", 0)


def accuracy(trial: Trial) -> float:
    return 0.8 - 0.1 * abs(math.log10(trial.values["model.optimizer.lr"]) + 2)


HOLDING = """
import sys
from pathlib import Path
from test_sweep_study import study
this = study(Path(sys.argv[1]))
print(this.take(9), flush=True)
input()
"""


@pytest.mark.slow
def test_a_killed_process_loses_no_trial_and_the_proposals_stay_the_same(tmp_path: Path) -> None:
    values = {}
    for name in ("whole", "killed"):
        with quietly():
            trials = []
            for number in range(4):
                if name == "killed" and number == 2:
                    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
                    command, pipe = [sys.executable, "-c", HOLDING, str(tmp_path / name)], subprocess.PIPE
                    environment = os.environ | {"PYTHONPATH": paths}
                    other = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
                    assert other.stdout is not None
                    taken = other.stdout.readline()
                    assert study(tmp_path / name).is_shared()
                    assert study(tmp_path / name).take(3) is None  # enough, with the one that the other does
                    other.kill()
                    other.wait()
                    assert not study(tmp_path / name).is_shared()
                this = study(tmp_path / name)  # as after each start of the command
                trial = this.take(4)
                assert trial is not None
                if name == "killed" and number == 2:
                    assert repr(trial) == taken.strip()  # the same trial goes on
                trials.append(trial.values)
                this.tell(trial.number, accuracy(trial), 1.0)
            assert study(tmp_path / name).take(4) is None
            values[name] = trials
    assert values["killed"] == values["whole"]
    assert len({each["model.optimizer.lr"] for each in values["whole"]}) == 4


def test_another_study_is_refused_with_what_differs_and_a_foreign_or_damaged_file_with_one_sentence(
    tmp_path: Path,
) -> None:
    study(tmp_path)
    with refused(UsageError, "study-of-another-sweep", "data.cutout", "0..8", "0..9"):
        study(tmp_path, *SEARCH[:2], "data.cutout=0..9")
    with refused(UsageError, "study-of-another-sweep", "data.crop", "4", "--name"):
        study(tmp_path, crop=0)
    path = tmp_path / "study.db"
    content = path.read_bytes()
    for damaged in (b"no database", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with refused(UserError, "study-damaged", str(path)):
            study(tmp_path)
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("create table photos (name text)")
    database.close()
    with refused(UsageError, "study-foreign", str(path)):
        study(tmp_path)
    with sqlite3.connect(path) as database:
        assert database.execute("select name from sqlite_master").fetchall() == [("photos",)]


@pytest.mark.parametrize(
    ("sampler", "error"),
    [
        ("TPEsampler", "TPESampler"),
        ("BaseSampler", "Sampler"),
        ("GridSampler", "arguments"),
        ("CmaEsSampler", "pickle"),
        ("BruteForceSampler", "step"),  # of the range of floats
    ],
)
def test_a_sampler_that_can_not_be_used_is_refused_before_anything_is_written(
    sampler: str, error: str, tmp_path: Path
) -> None:
    with quietly():
        with refused(UsageError, "value-invalid", f"--sampler {sampler}", error):
            study(tmp_path / "new", sampler=sampler)
        with refused(UsageError, "value-invalid", "--pruner PatientPruner"):
            make_pruner("PatientPruner")
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of sweep.json: 10 trials, of which one has failed and one was pruned."""
    count = 10
    with quietly():
        this = study(tmp_path_factory.mktemp("sweep"))
        for number in range(count):
            trial = this.take(count)
            assert trial is not None
            if number == 1:
                this.tell(trial.number, None, 1.5, "the loss is NaN at step 10 <script>")
            elif number == 2:
                assert not this.ask_pruner(trial.number)(1, 0.25)
                this.tell(trial.number, None, 2.0)
            else:
                this.tell(trial.number, accuracy(trial), 3.0)
        again = [Again(seed, "finished", 0.6 + 0.01 * seed, 0.5 + 0.02 * seed, "best/seed") for seed in (1, 2, 3)]
        return summary(ABOUT, this, [*again, Again(4, "diverged", reason="NaN")])


def test_numbers_pictures_and_page_of_a_sweep(sweep: dict[str, Any], tmp_path: Path) -> None:
    assert [trial["state"] for trial in sweep["trials"]][:4] == ["complete", "failed", "pruned", "complete"]
    assert [trial["val_accuracy"] for trial in sweep["trials"]][1:3] == [None, 0.25]
    best = max(trial["val_accuracy"] or 0 for trial in sweep["trials"])
    assert sweep["best"]["val_accuracy"] == best
    low, high = sweep["best"]["val_accuracy_interval"]
    assert high - low == pytest.approx(
        2 * 1.96 * math.sqrt(best * (1 - best) / 5000), rel=0.01
    )  # the normal approximation
    for name, values in (("val_accuracy", (0.61, 0.62, 0.63)), ("test_accuracy", (0.52, 0.54, 0.56))):
        half = 4.3027 * stdev(values) / math.sqrt(3)  # Student's t for 2 degrees of freedom, from a table
        assert sweep[name] == pytest.approx(mean(values))
        assert sweep[f"{name}_interval"] == pytest.approx([mean(values) - half, mean(values) + half], abs=1e-5)
    assert sweep["flattered_by"] == pytest.approx(best - 0.62)
    assert sum(sweep["importances"].values()) == pytest.approx(1)
    assert next(iter(sweep["importances"])) == "model.optimizer.lr"  # on which alone the accuracy depends

    names = {path.name for path in write(tmp_path, sweep, "a: <recipe>")}
    assert names == {"sweep.json", "sweep.html", "history.png", "importance.png", "slices.png"}
    assert json.loads((tmp_path / "sweep.json").read_text()) == json.loads(json.dumps(sweep))
    page = (tmp_path / "sweep.html").read_text()
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert page.count("data:image/png") == 3
    assert "a: &lt;recipe&gt;" in page
    nothing = dict(sweep, trials=[], best=None, again=[], importances={}, val_accuracy=None, test_accuracy=None)
    write(tmp_path, nothing | {"flattered_by": None}, "")


@pytest.mark.parametrize(
    ("less", "said"),
    [
        (0.0123, "is 1.2 percentage points lower: the best of 10 trials was partly lucky."),
        (0.0004, "is the same: the best of 10 trials was not just lucky."),
        (-0.0004, "is the same: the best of 10 trials was not just lucky."),
        (-0.0123, "is 1.2 percentage points higher: the best of 10 trials was not just lucky."),
    ],
)
def test_page_and_terminal_say_the_same_about_luck(
    less: float, said: str, sweep: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = sweep | {"flattered_by": less}
    written = write(tmp_path, sweep, "a: recipe")
    SweepLines(ABOUT, [], 10, 1).result(sweep, tmp_path, [tmp_path / "best.yaml", *written])
    shown = " ".join(Page(written[0].read_text()).text.split())
    for text in (" ".join(capsys.readouterr().out.split()), shown):
        assert f"With other seeds, validation accuracy {said}" in text


@pytest.mark.browser
@needs_chromium
def test_the_page_of_a_sweep_fits_a_phone_and_has_its_pictures(sweep: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, sweep, "a: recipe")
    with chromium(tmp_path / "browser") as page:
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto((tmp_path / "sweep.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
