"""What a comparison says, from words to variants and from runs to numbers; test_compare.py trains."""

import csv
import io
import json
from pathlib import Path
from statistics import fmean, stdev

import pytest
from conftest import refused
from drawing import Page, texts

from lit_cifar.errors import UsageError, UserError
from lit_cifar.experiments import comparison_charts
from lit_cifar.experiments.comparison import Run, conclusions, read_run, seconds_left, summarize
from lit_cifar.experiments.comparison_files import Record, holds_another
from lit_cifar.experiments.variants import Variant, default_name, make_variants, read_vary, recipes_among

T_2 = 4.302653  # Student's t for the middle 95 % and two degrees of freedom, from a printed table
DATA = {"title": "CIFAR-10", "classes": ["a", "b"], "train": 9, "val": 3, "test": 3, "why_drawn": ""}


def variant(name: str, **varied: str) -> Variant:
    return Variant(name, name, ("--x=1",), "tutorial", varied)


def runs_of(name: str, accuracies: list[float], seconds: float = 10) -> list[Run]:
    curves = {"accuracy/val": [(1.0, 0.2), (2.0, 0.5)], "loss/val": [(1.0, 2.0)]}
    return [
        Run(
            name,
            seed,
            "finished",
            f"runs/{name}",
            accuracy,
            0.5,
            2,
            seconds,
            1,
            class_accuracy={"a": accuracy},
            curves=curves,
        )
        for seed, accuracy in enumerate(accuracies)
    ]


def test_recipes_are_words_that_are_no_flags_value() -> None:
    words = ["a.yaml", "--data.train_labels", "b.yml", "--trainer.max_epochs", "2", "configs/c.yml", "--config=d.yaml"]
    assert recipes_among(words) == (["a.yaml", "configs/c.yml"], [*words[1:5], words[6]])


def test_values_are_split_outside_brackets_and_quotes() -> None:
    key, values = read_vary("data.normalize=half,[[0.5,0.5,0.5],[1,1,1]],'a,b'")
    assert (key, values) == ("data.normalize", ["half", "[[0.5,0.5,0.5],[1,1,1]]", "a,b"])


def test_recipes_and_varied_values_make_a_grid_in_the_order_given() -> None:
    vary = {"model.optimizer.lr": ["0.1", "1"], "model.optimizer": ["SGD"], "data.flip": ["true", "false"]}
    made = make_variants(["x/a.yaml", "b.yaml"], vary, ["--data.root", "here", "--data.flip.more=1"])
    assert len(made) == 8
    assert [each.name for each in made[:2]] == [
        "a, lr=0.1, optimizer=SGD, flip=true",
        "a, lr=0.1, optimizer=SGD, flip=false",
    ]
    outer, inner = ("--data.flip=true",), ("--model.optimizer=SGD", "--model.optimizer.lr=0.1")
    assert made[0].words == ("--config=x/a.yaml", *outer, "--data.root", "here", "--data.flip.more=1", *inner)
    assert default_name(made) == "a-b-lr-optimizer-flip"
    assert len({each.folder.lower() for each in made}) == 8


def test_recipes_of_one_name_are_told_apart_and_odd_values_make_safe_folders() -> None:
    assert [each.name for each in make_variants(["x/a.yaml", "y/a.yaml"], {}, [])] == ["x/a", "y/a"]
    values = ["../../etc", "a/b", "a_b", "x" * 300, 'C:\\"<>|?*', "."]
    folders = [each.folder for each in make_variants([], {"data.root": values}, [])]
    assert len(set(folders)) == len(values)
    assert all(len(folder) <= 90 and not set(folder) & set('/\\:*?"<>| ') for folder in folders)
    (only,) = make_variants([], {}, ["--config", "configs/resnet20.yaml"])
    assert (only.name, only.words) == ("resnet20", ("--config", "configs/resnet20.yaml"))


def test_numbers_are_students_and_differences_are_of_pairs_with_the_same_seed() -> None:
    first, second = [0.50, 0.52, 0.57], [0.53, 0.54, 0.61]
    runs = [*reversed(runs_of("a", first)), *runs_of("b", second, seconds=20), Run("b", 3, "diverged")]
    found = summarize(["a", "b"], runs)
    a, b = found["variants"]
    half = T_2 * stdev(first) / 3**0.5
    assert a["val_accuracy_interval"] == pytest.approx([fmean(first) - half, fmean(first) + half])
    assert (a["difference"], b["seconds"], b["seeds"]) == (None, 21, [0, 1, 2])
    changes = [0.03, 0.02, 0.04]  # mean 0.03, standard deviation 0.01, t = 0.03 / (0.01 / √3) = 5.196
    half = T_2 * 0.01 / 3**0.5
    assert b["difference"]["mean"] == pytest.approx(fmean(changes))
    assert b["difference"]["interval"] == pytest.approx([0.03 - half, 0.03 + half])
    t = 3 * 3**0.5
    assert b["difference"]["p"] == pytest.approx(
        1 - t / (2 + t**2) ** 0.5
    )  # the t distribution of two degrees of freedom
    assert (found["best"], found["spread"], found["pairs"]) == ("b", pytest.approx(0.01), 3)
    assert found["seeds_to_tell_0.1_points"] == pytest.approx((2.8016 * 0.01 / 0.001) ** 2, rel=0.01)


def test_with_fewer_than_three_pairs_nothing_is_said() -> None:
    found = summarize(["a", "b"], [*runs_of("a", [0.5, 0.6, 0.7]), *runs_of("b", [0.8, 0.9])])
    difference = found["variants"][1]["difference"]
    assert (difference["pairs"], difference["interval"], difference["p"]) == (2, None, None)
    assert (found["best"], found["differences_tested"]) == (None, 0)
    assert "--runs 3" in " ".join(conclusions(found, [{"data": DATA}] * 2))


@pytest.mark.parametrize(
    ("others", "best"),
    [
        ([[0.40, 0.42, 0.41]], "a"),  # the first, as the other is surely below it
        ([[0.51, 0.49, 0.53]], None),
        ([[0.40, 0.42, 0.41], [0.51, 0.49, 0.53]], None),
        ([[0.60, 0.62, 0.61], [0.51, 0.49, 0.53]], "v0"),
    ],
)
def test_the_best_is_marked_only_if_its_difference_to_the_first_excludes_0(
    others: list[list[float]], best: str
) -> None:
    runs = runs_of("a", [0.50, 0.51, 0.52])
    for i, accuracies in enumerate(others):
        runs += runs_of(f"v{i}", accuracies)
    found = summarize(["a", *(f"v{i}" for i in range(len(others)))], runs)
    assert found["best"] == best
    said = " ".join(conclusions(found, [{"data": DATA}, {"data": DATA | {"val": 4}}]))
    assert ("one in 20" in said) == (len(others) > 1)
    assert "different images" in said


def test_the_time_left_is_that_of_the_same_variant_or_by_the_epochs() -> None:
    epochs = {"a": 2.0, "b": 4.0}
    assert seconds_left(["a", "b"], epochs, {}, 1) is None
    assert seconds_left(["a", "b"], epochs, {"a": [10, 14]}, 1) == pytest.approx(12 + 24)
    assert seconds_left(["a", "b"], epochs, {"a": [12], "b": [30]}, 2) == pytest.approx(30)


def record(folder: Path, *variants: Variant, runs: list[Run]) -> Record:
    settings = [{"model.lr": i, "data.flip": True} for i in range(len(variants))]
    return Record(folder, 3, variants, settings, [DATA] * len(variants), runs, "finished")


def test_files_have_every_run_and_the_page_shows_only_what_differs(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    runs = [*runs_of("a", [0.5, 0.6, 0.7]), *runs_of(evil, [0.6, 0.7, 0.75]), Run(evil, 3, "failed", sentence="<b>no")]
    made = record(tmp_path, variant("a"), variant(evil), runs=runs)
    content, paths = made.draw()
    assert json.loads((tmp_path / "compare.json").read_text()) == json.loads(json.dumps(content))
    rows = [*csv.DictReader(io.StringIO((tmp_path / "compare.csv").read_text()))]
    assert [(row["variant"], row["seed"], row["model.lr"]) for row in rows[:2]] == [("a", "0", "0"), (evil, "0", "1")]
    assert [row["state"] for row in rows].count("finished") == 6
    page = paths[0].read_text()
    assert "<script" not in page and "<b>no" not in page
    assert "default-src 'none'" in page
    shown = Page(page)
    assert "model.lr" in shown.text and "data.flip" not in shown.text
    assert evil in shown.text
    assert page.count("<polygon") == 2  # a band over the seeds of each in the accuracy; the loss has one point
    assert 'points="46.0,' not in page  # no curve begins at epoch 0


def test_budgets_are_drawn_as_accuracy_against_seconds(tmp_path: Path) -> None:
    runs = [*runs_of("a", [0.5, 0.6, 0.7], 10), *runs_of("b", [0.7, 0.8, 0.9], 42)]
    lines = {"tutorial": [("a", "1 epochs"), ("b", "4 epochs")]}
    figure = comparison_charts.budgets(summarize(["a", "b"], runs), runs, lines, "Budgets")
    points = [line.get_xydata().tolist() for line in figure.axes[0].lines]  # type: ignore[union-attr]
    assert [[11, pytest.approx(0.6)], [43, pytest.approx(0.8)]] in points
    assert {"1 epochs: 60.0 %", "4 epochs: 80.0 %"} <= {*texts(figure)}


def test_a_comparison_with_no_finished_run_is_written_too(tmp_path: Path) -> None:
    _, paths = record(tmp_path, variant("a"), variant("b"), runs=[Run("a", 0, "diverged", code="diverged")]).draw()
    assert "diverged" in Page(paths[0].read_text()).text
    one = record(tmp_path / "one", variant("a"), runs=runs_of("a", [0.5])).draw()[1]
    assert "50.00 %" in Page(one[0].read_text()).text


def test_a_folder_goes_on_only_with_variants_that_hold_all_of_it(tmp_path: Path) -> None:
    made = record(tmp_path, variant("a"), variant("b"), runs=[])
    made.write()
    more = [*made.variants, variant("c")]
    assert not holds_another(tmp_path, more, [*made.settings, {}])
    assert holds_another(tmp_path, more[1:], [*made.settings[1:], {}])
    assert holds_another(tmp_path, made.variants, [{"model.lr": 7}, made.settings[1]])
    (tmp_path / "compare.json").write_text("[" * 100_000)
    assert holds_another(tmp_path, made.variants, made.settings)


@pytest.mark.parametrize("damage", ["", "[]", '{"val_accuracy": null}', '{"val_accuracy": NaN}', "[" * 100_000])
def test_a_damaged_report_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / "report.json").write_text(damage)
    with refused(UserError, "report-missing", "report.json"):
        read_run("a", 0, tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("vary", "flags", "error"),
    [
        ("data.batch_size", [], "value-invalid"),
        ("data.batch_size=", [], "value-missing"),
        ("data.batch_size=1,,2", [], "value-missing"),
        ("seed_everything=1,2", [], "value-invalid"),
        ("trainer.default_root_dir=a,b", [], "value-invalid"),
        ("data.batch_size=1,2", ["--data.batch_size=4"], "value-invalid"),
        ("data.batch_size=1,2", ["--seed_everything", "4"], "value-invalid"),
        ("data.batch_size=1,2", ["--ckpt_path=last"], "value-invalid"),
    ],
)
def test_what_can_not_be_varied_is_refused(vary: str, flags: list[str], error: str) -> None:
    with refused(UsageError, error):
        make_variants([], dict([read_vary(vary)]), flags)
