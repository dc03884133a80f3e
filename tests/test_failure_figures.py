import numpy as np
import pytest
from drawing import LONG_NAMES, overlapping, some_failures, some_images, texts
from matplotlib.patches import Patch, Rectangle

from lit_cifar.data.image_set import CIFAR10_CLASSES
from lit_cifar.report import failure_figures


def test_a_ranking_tells_probability_and_both_classes_and_frames_what_is_wrong_among_the_uncertain() -> None:
    report = some_failures()
    first, last = report["confident_mistakes"][0], report["uncertain_images"][0]
    mistakes = failure_figures.mistakes(some_images(40), report["confident_mistakes"], "Mistakes")
    caption = f"{first['probability'] * 100:.1f} % {first['predicted']} not {first['class']}"
    assert caption in texts(mistakes)
    assert not mistakes.axes[0].patches
    uncertain = failure_figures.uncertain(some_images(40), report["uncertain_images"], "Uncertain")
    assert f"{last['probability'] * 100:.1f} % {last['predicted']}" in texts(uncertain)
    wrong = [entry for entry in report["uncertain_images"] if entry["class"] != entry["predicted"]]
    assert 0 < len(uncertain.axes[0].patches) == len(wrong) < len(report["uncertain_images"])


def height_of(bar: Patch) -> float:
    assert isinstance(bar, Rectangle)
    return float(bar.get_height())


def test_the_reliability_diagram_has_a_bar_of_accuracy_and_a_line_of_confidence_for_each_bin_with_images() -> None:
    report = some_failures()
    bins = [b for b in report["calibration"] if b["images"]]
    upper, lower = failure_figures.reliability(report, "Reliability").axes
    assert sorted(map(height_of, upper.patches)) == sorted(b["accuracy"] for b in bins)
    lines = [np.asarray(path.vertices)[0, 1] for path in upper.collections[0].get_paths()]
    assert lines == pytest.approx([b["confidence"] for b in bins])
    assert sum(map(height_of, lower.patches)) == pytest.approx(1)
    hatched = [bar for bar in upper.patches if bar.get_hatch()]
    assert len(hatched) == len([b for b in bins if b["images"] < failure_figures.MANY]) > 0


def test_the_reliability_diagram_explains_hatched_bars_only_where_it_has_some() -> None:
    report = some_failures()
    hatched = failure_figures.FEW["label"]
    assert hatched in texts(failure_figures.reliability(report, "Reliability"))
    for one in report["calibration"]:
        one["images"] *= failure_figures.MANY
    assert hatched not in texts(failure_figures.reliability(report, "Reliability"))


def test_the_figure_of_the_classes_tells_its_three_measures_by_shape_and_what_is_not_defined_in_words() -> None:
    report = some_failures()
    figure = failure_figures.per_class(report, "Classes")
    lines = figure.axes[0].lines
    for line, measure in zip(lines, ("precision", "recall", "f1"), strict=True):
        values = [float("nan") if value is None else value for value in report[f"class_{measure}"].values()]
        assert np.array_equal(line.get_xdata(), values, equal_nan=True)
    assert len({str(line.get_marker()) for line in lines}) == 3
    assert texts(figure).count("never predicted") == 1


@pytest.mark.parametrize(
    "names", [CIFAR10_CLASSES, LONG_NAMES, tuple(f"{name} {i}" for i in range(9) for name in LONG_NAMES)]
)
def test_no_two_names_of_the_figure_of_the_classes_overlap(names: tuple[str, ...]) -> None:
    figure = failure_figures.per_class(some_failures(names), "Classes " * 20)
    figure.draw_without_rendering()
    assert not overlapping(figure.axes[0].get_yticklabels())
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox().padded(-0.01)
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
