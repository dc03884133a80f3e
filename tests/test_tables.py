"""What is printed, and predictions.csv."""

import csv
from pathlib import Path

import pytest
import torch
from conftest import refused

from lit_cifar.errors import UserError
from lit_cifar.evaluation.metrics import class_scores
from lit_cifar.report import tables


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.62, "2.6 s"), (9.94, "9.9 s"), (41.4, "41 s"), (599, "599 s"), (605, "10 min 05 s"), (7199.9, "119 min 59 s")],
)
def test_a_duration_has_the_digits_that_matter(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


def test_a_number_agrees_with_its_noun() -> None:
    counts = [0, 1, 2, 62006, 1.5]
    assert [tables.plural(n, "step") for n in counts] == ["0 steps", "1 step", "2 steps", "62,006 steps", "1.5 steps"]


def test_a_name_from_outside_can_not_control_the_terminal() -> None:
    assert tables.printable("a\x1b[31m\nя猫\u202e\udc80") == "a?[31m?я猫??"


def test_each_class_has_its_accuracy_and_a_bar_of_its_length(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    matrix = [[2998, 0, 0], [1, 1, 0], [0, 0, 0]]
    scores = class_scores(torch.tensor(matrix), ["cat", "[bold]:car:", "dog"])
    tables.print_accuracies("test images", matrix, scores, "the folder [b]")
    first, second, _, *rows = capsys.readouterr().out.splitlines()
    assert "3000 test images: >99.9 % (95 % interval: 99.8–100.0)" in first  # by scipy's binomtest
    assert "the folder [b]:" in second
    assert [row.split() for row in rows] == [
        ["cat", "100.0", "%", "99.9–100.0", "█" * 30],
        ["[bold]:car:", "50.0", "%", "9.5–90.5", "█" * 15],
    ]


@pytest.mark.parametrize("columns", [40, 80])
def test_numbers_of_classes_with_long_names_are_never_cut(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    scores = class_scores(torch.tensor([[1, 1], [2, 6]]), ["a long name " * 7, "b"])
    tables.print_accuracies("test images", [[1, 1], [2, 6]], scores, "the folder [b]")
    *_, first, second = capsys.readouterr().out.splitlines()
    assert "50.0 %" in first and "9.5–90.5" in first and "75.0 %" in second and "40.9–92.9" in second
    assert max(len(first), len(second)) <= columns


def test_a_hundred_classes_stand_in_blocks_beside_each_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    matrix = torch.arange(100).diag()
    matrix[:, 0] += 100 - torch.arange(100)
    scores = class_scores(matrix, [f"a_name_{i}" for i in range(100)])
    tables.print_accuracies("test images", matrix.tolist(), scores, "CIFAR-100")
    _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 50  # two blocks
    assert rows[1].split() == ["a_name_1", "1.0", "%", "0.2–5.4", "a_name_51", "51.0", "%", "41.3–60.6"]


def test_a_table_of_predictions_shows_the_first_files_and_where_the_others_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    guesses = [[("cat", 0.7), ("dog", 0.2), ("frog", 0.1)], [("[b]", 1.0), ("dog", 0.0)]]
    tables.print_predictions([Path("a.png"), Path("b\n.png")], guesses, 1005, tmp_path / "p" / "predictions.csv")
    _, *rows, last = capsys.readouterr().out.splitlines()
    assert [row.split() for row in rows] == [
        ["a.png", "cat", "70.0", "%", "dog", "20.0", "%,", "frog", "10.0", "%"],
        ["b?.png", "[b]", "100.0", "%", "dog", "0.0", "%"],
    ]
    assert "1,003" in last
    assert str(Path("p", "predictions.csv")) in last


def test_the_run_folder_is_printed_with_its_files_and_the_command_for_its_curves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my runs" / "version_0"
    tables.print_run_folder([folder / "report.html", folder / "training.png"])
    files, curves = capsys.readouterr().out.splitlines()
    assert files.endswith(f"{Path('my runs', 'version_0')}/ with report.html, training.png")
    assert curves.endswith('tensorboard --logdir "my runs"')


def test_predictions_csv_has_the_columns_the_predicted_class_and_all_probabilities(tmp_path: Path) -> None:
    path = tmp_path / "new" / "predictions.csv"
    probabilities = torch.tensor([[0.25, 0.75], [0.9999996, 0.0000004]])
    tables.write_predictions(path, {"image": range(2), "file": ['a,"b"', "c\nd\udc80"]}, probabilities, ["no", "yes"])
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [
            ["image", "file", "predicted", "no", "yes"],
            ["0", 'a,"b"', "yes", "0.250000", "0.750000"],
            ["1", "c\nd\udc80", "no", "1.000000", "0.000000"],
        ]
    with refused(UserError, "not-writable", str(path / "below"), "--output"):
        tables.write_predictions(path / "below", {}, torch.ones(0, 2), ["no", "yes"], "--output")
