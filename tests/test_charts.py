from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawing import LONG_NAMES, curve, overlapping, some_answers, texts, trained
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from lit_cifar.data.image_set import CIFAR10_CLASSES
from lit_cifar.report import charts, curves, figures


def cells(axes: Axes) -> dict[tuple[float, float], str]:
    """The numbers in a confusion matrix by (row, column)."""
    return {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}


def shares_of(figure: Figure) -> np.ndarray:
    """The shares that are drawn, on the diagonal and beside it, and NaN where none is."""
    drawn = [np.ma.masked_array(image.get_array()) for image in figure.axes[0].images]
    right, wrong = (shares.filled(np.nan) for shares in drawn)
    return np.where(np.eye(len(right), dtype=bool), right, wrong)


def test_a_cell_of_the_confusion_matrix_is_the_percentage_of_its_row() -> None:
    figure = charts.confusion(torch.tensor([[6, 2, 0], [1, 1, 6], [0, 0, 5]]), ["a", "b", "c"], "Confusion")
    assert cells(figure.axes[0]) == {
        (0, 0): "75",
        (0, 1): "25",
        (1, 0): "12",
        (1, 1): "12",
        (1, 2): "75",
        (2, 2): "100",
    }
    assert figure.axes[0].get_ylabel().startswith("true class")
    assert figure.axes[0].get_xlabel() == "predicted class"
    assert shares_of(figure).tolist() == [[0.75, 0.25, 0], [0.125, 0.125, 0.75], [0, 0, 1]]


def test_a_nearly_empty_cell_is_not_called_0_and_a_nearly_full_one_not_100() -> None:
    figure = charts.confusion([[997, 3], [5, 995]], ["a", "b"], "Confusion")
    assert cells(figure.axes[0]) == {(0, 0): ">99", (0, 1): "<1", (1, 0): "<1", (1, 1): ">99"}


def test_numbers_stand_out_from_the_colour_of_their_cell() -> None:
    rows = [[share, 100 - share] for share in range(1, 100, 5)]
    figure = charts.confusion([row + [0] * 18 for row in rows], [str(i) for i in range(20)], "Confusion")

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    right, wrong = figure.axes[0].images
    assert len(figure.axes[0].texts) == 40
    for text in figure.axes[0].texts:
        column, row = (int(at) for at in text.get_position())
        drawn = (right if row == column else wrong).to_rgba(shares_of(figure))[row, column]
        cell, ink = luminance(drawn), luminance(to_rgb(text.get_color()))
        assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) > 4.5  # WCAG's level AA


def test_the_colours_of_the_confusions_end_at_the_largest_of_them_and_those_of_the_diagonal_at_100_per_cent() -> None:
    figure = charts.confusion([[90, 8, 2], [1, 95, 4], [0, 3, 97]], ["a", "b", "c"], "Confusion")
    right, wrong = figure.axes[0].images
    assert right.get_clim() == (0, 1)
    assert wrong.get_clim() == (0, 0.08)
    assert [axes.get_ylabel() for axes in figure.axes[1:]] == ["right, on the diagonal", "taken for another class"]
    perfect = charts.confusion([[3, 0], [0, 2]], ["a", "b"], "Confusion")
    assert [axes.get_ylabel() for axes in perfect.axes[1:]] == ["right, on the diagonal"]


def test_a_class_without_images_has_a_grey_row_that_says_so(tmp_path: Path) -> None:
    figure = charts.confusion([[3, 1], [0, 0]], ["a", "b"], "Confusion")
    figures.save(figure, tmp_path / "confusion.png")
    assert "no images of this class" in texts(figure)
    many = charts.confusion(torch.diag(torch.arange(40)), [str(i) for i in range(40)], "Confusion")
    assert labels_of(many) == ["no images of this class"]
    assert np.ma.getmaskarray(np.ma.masked_invalid(shares_of(figure))).tolist() == [[False] * 2, [True] * 2]
    assert not any("nan" in text for text in texts(figure))


@pytest.mark.parametrize(
    ("names", "count"),
    [(CIFAR10_CLASSES, count) for count in (3, 10, 100)] + [(LONG_NAMES, count) for count in (2, 10, 20, 40)],
)
def test_no_two_labels_of_the_confusion_matrix_overlap(names: tuple[str, ...], count: int) -> None:
    matrix = torch.eye(count) * 90 + 10 / count
    figure = charts.confusion(matrix, [names[i % 10] for i in range(count)], "Confusion " * 20)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert not overlapping(axes.get_xticklabels())
    assert not overlapping(axes.get_yticklabels())
    assert not overlapping([axes.xaxis.label, *axes.get_xticklabels()])
    assert not overlapping([axes.yaxis.label, *axes.get_yticklabels()])
    assert len(axes.texts) == (count * count if count <= 20 else 0)
    title = next(text for text in figure.texts if text.get_text().startswith("Confusion"))
    assert not title.get_window_extent().overlaps(axes.get_window_extent())
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox().padded(-0.01)  # in inches
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 * figure.dpi <= width and box.y1 * figure.dpi <= height


def labels_of(figure: Figure) -> list[str]:
    legends = [*figure.legends, figure.axes[0].get_legend()]
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


def test_long_curves_are_drawn_raw_and_smoothed_and_the_legend_says_over_how_many_epochs() -> None:
    val = [(225, 1.3), (450, 1.1)]
    tested = "tested: after 1 epoch, chosen by validation accuracy (86.5 %)"
    figure = curves.training(trained(curve(450), val), "Training")
    smooth = "training images, smoothed over 0.08 epochs"  # 19 points of 2 / 450 epochs
    assert labels_of(figure) == ["training images", smooth, "validation images", tested]
    assert labels_of(curves.training(trained(curve(100), val), "T")) == ["training images", "validation images", tested]
    raw, smoothed = (np.asarray(line.get_ydata()) for line in figure.axes[0].lines[:2])
    epochs = np.asarray(figure.axes[0].lines[0].get_xdata())
    assert epochs.tolist() == pytest.approx([2 * step / 450 for step, _ in curve(450)])
    assert raw.tolist() == [loss for _, loss in curve(450)]
    assert smoothed[200] == pytest.approx(raw[191:210].mean())
    assert smoothed[0] == pytest.approx(raw[:10].mean())


def test_loss_accuracy_and_learning_rate_share_an_axis_of_epochs_below_and_of_steps_above() -> None:
    report = trained(curve(50), [(25, 1.3), (50, 1.1)])
    figure = curves.training(report, "Training")
    figure.draw_without_rendering()
    panels = figure.axes
    assert [axes.get_ylabel() for axes in panels] == ["loss", "accuracy", "learning rate"]
    assert panels[2].get_xlabel() == "epoch"
    (above,) = panels[0].child_axes
    assert above.get_xlabel() == "step"
    assert above.get_xlim() == pytest.approx([25 * edge for edge in panels[2].get_xlim()])
    for axes, name in zip(panels, ("loss", "accuracy"), strict=False):
        train, val, chosen = axes.lines
        assert val.get_marker() != train.get_marker() and val.get_linestyle() != train.get_linestyle()
        assert np.asarray(val.get_ydata()).tolist() == [value for _, value in report["curves"][f"{name}/val"]]
        assert np.asarray(chosen.get_xdata()).tolist() == [1, 1]


@pytest.mark.parametrize("count", [30, 450])
def test_losses_that_are_not_finite_or_far_out_leave_the_others_in_view_and_are_counted(
    tmp_path: Path, count: int
) -> None:
    clean = curves.training(trained(curve(count), []), "Training").axes[0].get_ylim()
    losses: list[tuple[int, float | None]] = [*curve(count)]
    losses[5], losses[7], losses[20] = (6, None), (8, None), (21, 1e6)
    figure = curves.training(trained(losses, [(count, None)]), "Training")
    figures.save(figure, tmp_path / "training.png")
    assert figure.axes[0].get_ylim() == pytest.approx(clean, abs=0.3)
    assert "not drawn: 1 off the scale, 3 not finite" in texts(figure)
    if count > curves.SMOOTHED_FROM:
        assert np.nanmax(np.asarray(figure.axes[0].lines[1].get_ydata(), float)) < 3


@pytest.mark.parametrize(
    ("train", "val", "epochs", "expected"),
    [
        ([(1, 2.3)], [], 0.01, ["training images"]),
        ([], [(10, 2.3)], 1, ["validation images"]),
        ([(1, None), (2, None)], [(2, None)], 0.2, ["training images", "validation images"]),
        (curve(200), [(2 * i, 1.0) for i in range(1, 101)], 100, None),
    ],
)
def test_a_training_may_be_a_point_or_all_nan_or_long(
    tmp_path: Path,
    train: list[tuple[int, float | None]],
    val: list[tuple[int, float | None]],
    epochs: float,
    expected: list[str] | None,
) -> None:
    figure = curves.training(trained(train, val, epochs), "Training")
    assert figures.save(figure, tmp_path / "training.png").is_file()
    if expected:
        assert labels_of(figure)[:-1] == expected
    for axes in (figure.axes[-1], *figure.axes[0].child_axes):
        ticks = [label.get_text() for label in axes.get_xticklabels()]
        assert len(ticks) == len(set(ticks)) > 1
        assert not overlapping(axes.get_xticklabels())


def height_of(bar: Patch) -> float:
    assert isinstance(bar, Rectangle)
    return float(bar.get_height())


def test_the_reliability_diagram_has_a_bar_of_accuracy_and_a_line_of_confidence_for_each_bin_with_images() -> None:
    report = some_answers()
    bins = [b for b in report["calibration"] if b["images"]]
    upper, lower = charts.reliability(report, "Reliability").axes
    assert sorted(map(height_of, upper.patches)) == sorted(b["accuracy"] for b in bins)
    lines = [np.asarray(path.vertices)[0, 1] for path in upper.collections[0].get_paths()]
    assert lines == pytest.approx([b["confidence"] for b in bins])
    assert sum(map(height_of, lower.patches)) == pytest.approx(1)
    hatched = [bar for bar in upper.patches if bar.get_hatch()]
    assert len(hatched) == len([b for b in bins if b["images"] < charts.ENOUGH_IMAGES]) > 0


def test_the_reliability_diagram_says_the_calibration_error_in_percentage_points() -> None:
    report = some_answers() | {"calibration_error": 0.0312, "without_probability": 2}
    assert any(
        "3.1 percentage points" in text and "2 images" in text for text in texts(charts.reliability(report, "R"))
    )


def test_the_reliability_diagram_explains_hatched_bars_only_where_it_has_some() -> None:
    report = some_answers()
    hatched = f"accuracy of fewer than {charts.ENOUGH_IMAGES} images"
    assert hatched in texts(charts.reliability(report, "Reliability"))
    for one in report["calibration"]:
        one["images"] *= charts.ENOUGH_IMAGES
    assert hatched not in texts(charts.reliability(report, "Reliability"))


def test_the_figure_of_the_classes_tells_its_three_measures_by_shape_and_what_is_not_defined_in_words() -> None:
    report = some_answers()
    figure = charts.per_class(report, "Classes")
    lines = figure.axes[0].lines
    for line, measure in zip(lines[:3], ("precision", "recall", "f1"), strict=True):
        values = [float("nan") if value is None else value for value in report[f"class_{measure}"].values()]
        assert np.array_equal(line.get_xdata(), values, equal_nan=True)
    assert len({str(line.get_marker()) for line in lines[:3]}) == 3
    assert texts(figure).count("never predicted") == 1
    drawn = [np.asarray(line.get_xdata()).tolist() for line in lines[3:]]  # the intervals of recall
    assert drawn == [[*bounds] for bounds in report["class_accuracy_interval"].values()]


@pytest.mark.parametrize(
    "names", [CIFAR10_CLASSES, LONG_NAMES, tuple(f"{name} {i}" for i in range(9) for name in LONG_NAMES)]
)
def test_no_two_names_of_the_figure_of_the_classes_overlap(names: tuple[str, ...]) -> None:
    figure = charts.per_class(some_answers(names), "Classes " * 20)
    figure.draw_without_rendering()
    assert not overlapping(figure.axes[0].get_yticklabels())
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox().padded(-0.01)
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_of_more_than_100_classes_those_with_the_lowest_f1_are_shown() -> None:
    names = [f"{i:03d}" for i in range(110)]
    scores = {name: (i * 37 % 110) / 110 for i, name in enumerate(names)}
    report: dict[str, Any] = {f"class_{score}": scores for score in ("precision", "recall", "f1")}
    report |= {"class_accuracy_interval": dict.fromkeys(names)}
    labels = charts.per_class(report, "Classes").axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == sorted(names, key=lambda name: scores[name])[:100]


def test_the_chart_of_learning_rates_marks_the_one_that_was_found() -> None:
    figure = curves.learning_rates([0.001, 0.01, 0.1], [2.3, 1.5, float("inf")], 0.005)
    curve_, found = figure.axes[0].lines
    assert np.asarray(curve_.get_xydata())[:2].tolist() == [[0.001, 2.3], [0.01, 1.5]]
    assert np.asarray(found.get_xdata()).tolist() == [0.005, 0.005]
    assert labels_of(figure) == ["found: 0.005"]


def test_a_long_curve_keeps_the_validation_that_was_tested_and_averages_training_batches() -> None:
    curve = [(step, 0.9 if step == 150 else 0.5) for step in range(1, 401)]
    thin = curves.thinned("accuracy/val", curve, 150)
    assert len(thin) == 200
    assert [150, 0.9] in thin
    assert curves.thinned("accuracy/train", curve, 150)[74] == [150, 0.7]
