import io
import sys
from pathlib import Path
from subprocess import run

import matplotlib
import numpy as np
import pytest
import torch
from drawing import (
    LONG_NAMES,
    curve,
    draw_one_of_each,
    overlapping,
    pixels,
    some_images,
    text_object,
    texts,
)
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lit_cifar.data.image_set import CIFAR10_CLASSES
from lit_cifar.errors import UserError
from lit_cifar.report import figures


@pytest.mark.parametrize(
    ("count", "height", "width"), [(1, 32, 32), (3, 32, 32), (11, 32, 32), (64, 32, 32), (9, 5, 20), (2, 28, 9)]
)
def test_each_pixel_of_an_image_becomes_a_square_of_its_very_colour(
    tmp_path: Path, count: int, height: int, width: int
) -> None:
    images = some_images(count, height, width)
    figure = figures.image_grid(images, ["x"] * count, "Title", marked=[i % 2 == 0 for i in range(count)])
    written = pixels(figures.save(figure, tmp_path / "grid.png"))
    drawn = figure.axes[0].images
    assert len(drawn) == count
    for image, at in zip(images, drawn, strict=True):
        left, right, bottom, top = (round(edge) for edge in at.get_extent())
        scale = (right - left) // width
        assert scale >= 2 and right - left == scale * width and bottom - top == scale * height
        squares = image.permute(1, 2, 0).repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        assert np.array_equal(written[top:bottom, left:right], squares.numpy())


def test_an_image_larger_than_its_place_is_shrunk_and_its_colours_are_still_its_own(tmp_path: Path) -> None:
    image = some_images(1, 700, 1000) // 64 * 64
    figure = figures.image_grid(image, ["x"], "Title")
    written = pixels(figures.save(figure, tmp_path / "grid.png"))
    left, right, bottom, top = (round(edge) for edge in figure.axes[0].images[0].get_extent())
    assert set(np.unique(written[top:bottom, left:right])) == {0, 64, 128, 192}


def test_a_wrong_prediction_is_told_by_its_caption_by_weight_and_by_a_frame() -> None:
    right, wrong = CIFAR10_CLASSES.index("cat"), CIFAR10_CLASSES.index("dog")
    labels, predicted = torch.tensor([right, right, right]), torch.tensor([right, wrong, right])
    figure = figures.predictions(some_images(3), labels, predicted, CIFAR10_CLASSES, "Test images")
    assert texts(figure).count("cat") == 2
    caption = text_object(figure, "dog, not cat")
    assert (caption.get_fontweight(), text_object(figure, "cat").get_fontweight()) == ("bold", "normal")
    assert caption.get_color() != text_object(figure, "cat").get_color()
    frames = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    framed = figure.axes[0].images[1].get_extent()
    assert [frame.get_x() < framed[0] < framed[1] < frame.get_x() + frame.get_width() for frame in frames] == [True]


def test_predictions_say_what_their_captions_mean() -> None:
    figure = figures.predictions(some_images(1), torch.tensor([0]), torch.tensor([1]), CIFAR10_CLASSES, "Test images")
    assert any("“A, not B” is a B predicted as A" in text for text in texts(figure))


def test_captions_of_long_names_stay_on_the_figure_and_off_each_other_and_off_the_images() -> None:
    labels = torch.arange(20) % 10
    figure = figures.predictions(some_images(20), labels, labels.roll(1), LONG_NAMES, "Title " * 40)
    figure.draw_without_rendering()
    written = [text for text in figure.axes[0].texts if text.get_text()]
    assert not overlapping(written)
    width, height = figure.get_size_inches() * figure.dpi
    places = [text.get_window_extent() for text in written]
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in places)
    assert not any(box.overlaps(image.get_window_extent()) for box in places for image in figure.axes[0].images)


def cells(axes: Axes) -> dict[tuple[float, float], str]:
    """The numbers in a confusion matrix by (row, column)."""
    return {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}


def shares_of(figure: Figure) -> np.ndarray:
    shares = figure.axes[0].images[0].get_array()
    assert shares is not None
    return shares


def test_a_cell_of_the_confusion_matrix_is_the_percentage_of_its_row() -> None:
    figure = figures.confusion(torch.tensor([[6, 2, 0], [1, 1, 6], [0, 0, 5]]), ["a", "b", "c"], "Confusion")
    assert cells(figure.axes[0]) == {
        (0, 0): "75",
        (0, 1): "25",
        (1, 0): "12",
        (1, 1): "12",
        (1, 2): "75",
        (2, 2): "100",
    }
    assert (figure.axes[0].get_ylabel(), figure.axes[0].get_xlabel()) == ("true class", "predicted class")
    assert shares_of(figure).tolist() == [[0.75, 0.25, 0], [0.125, 0.125, 0.75], [0, 0, 1]]


def test_a_nearly_empty_cell_is_not_called_0_and_a_nearly_full_one_not_100() -> None:
    figure = figures.confusion([[997, 3], [5, 995]], ["a", "b"], "Confusion")
    assert cells(figure.axes[0]) == {(0, 0): ">99", (0, 1): "<1", (1, 0): "<1", (1, 1): ">99"}


def test_numbers_stand_out_from_the_colour_of_their_cell() -> None:
    rows = [[share, 100 - share] for share in range(1, 100, 5)]
    figure = figures.confusion([row + [0] * 18 for row in rows], [str(i) for i in range(20)], "Confusion")

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    drawn = figure.axes[0].images[0]
    assert len(figure.axes[0].texts) == 40
    for text in figure.axes[0].texts:
        column, row = (int(at) for at in text.get_position())
        cell, ink = luminance(drawn.to_rgba(shares_of(figure))[row, column]), luminance(to_rgb(text.get_color()))
        assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) > 4.5  # WCAG's level AA


def test_a_class_without_images_has_a_grey_row_that_says_so(tmp_path: Path) -> None:
    figure = figures.confusion([[3, 1], [0, 0]], ["a", "b"], "Confusion")
    figures.save(figure, tmp_path / "confusion.png")
    assert "no images of this class" in texts(figure)
    assert not any("nan" in text for text in texts(figure))


@pytest.mark.parametrize(
    ("names", "count"),
    [(CIFAR10_CLASSES, count) for count in (3, 10, 100)] + [(LONG_NAMES, count) for count in (2, 10, 20, 40)],
)
def test_no_two_labels_of_the_confusion_matrix_overlap(names: tuple[str, ...], count: int) -> None:
    matrix = torch.eye(count) * 90 + 10 / count
    figure = figures.confusion(matrix, [names[i % 10] for i in range(count)], "Confusion " * 20)
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
    legend = figure.axes[0].get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_a_long_training_loss_is_drawn_raw_and_smoothed_and_a_short_one_as_it_is() -> None:
    val = ([225, 450], [1.3, 1.1])
    assert labels_of(figures.loss(curve(450), val, "Loss")) == ["train", "train, mean of 19 points", "validation"]
    assert labels_of(figures.loss(curve(100), val, "Loss")) == ["train", "validation"]
    figure = figures.loss(curve(450), val, "Loss")
    raw, smoothed = (np.asarray(line.get_ydata()) for line in figure.axes[0].lines[:2])
    assert np.array_equal(raw, curve(450)[1])
    assert smoothed[200] == pytest.approx(raw[191:210].mean())
    assert smoothed[0] == pytest.approx(raw[:10].mean())
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("step", "cross-entropy loss")


def test_the_validation_loss_is_told_by_markers_and_dashes_and_not_by_colour_alone() -> None:
    train, val = figures.loss(curve(50), ([25, 50], [1.3, 1.1]), "Loss").axes[0].lines
    assert val.get_marker() != train.get_marker()
    assert val.get_linestyle() != train.get_linestyle()


@pytest.mark.parametrize("count", [30, 450])
def test_losses_that_are_not_finite_or_far_out_leave_the_others_in_view_and_are_counted(
    tmp_path: Path, count: int
) -> None:
    clean = figures.loss(curve(count), ([], []), "Loss").axes[0].get_ylim()
    steps, losses = curve(count)
    losses[5], losses[7], losses[20] = float("nan"), float("inf"), 1e6
    figure = figures.loss((steps, losses), ([count], [float("nan")]), "Loss")
    figures.save(figure, tmp_path / "loss.png")
    assert figure.axes[0].get_ylim() == pytest.approx(clean, abs=0.3)
    assert "not drawn: 1 off the scale, 3 not finite" in texts(figure)
    if count > figures.SMOOTHED_FROM:
        assert np.nanmax(np.asarray(figure.axes[0].lines[1].get_ydata())) < 3


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        (([], []), ([], []), []),
        (([1], [2.3]), ([], []), ["train"]),
        (([], []), ([10], [2.3]), ["validation"]),
        (([1, 2], [float("nan")] * 2), ([2], [float("inf")]), ["train", "validation"]),
    ],
)
def test_a_curve_may_be_empty_or_a_point_or_all_nan(
    tmp_path: Path,
    train: tuple[list[int], list[float]],
    val: tuple[list[int], list[float]],
    expected: list[str],
) -> None:
    figure = figures.loss(train, val, "Loss")
    assert figures.save(figure, tmp_path / "loss.png").is_file()
    assert labels_of(figure) == expected
    steps = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(steps) == len(set(steps))


def test_the_same_numbers_give_the_same_bytes_in_another_process_too_and_pyplot_is_not_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import drawing; drawing.draw_one_of_each(Path(sys.argv[1]));"
        " assert 'matplotlib.pyplot' not in sys.modules"
    )
    run([sys.executable, "-c", code, str(tmp_path / "there")], check=True, cwd=Path(__file__).parent)
    for here in draw_one_of_each(tmp_path / "here"):
        assert here.read_bytes() == (tmp_path / "there" / here.name).read_bytes()


def test_a_drawing_that_fails_leaves_the_old_picture_and_no_part_of_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")
    figure = figures.loss(curve(5), ([], []), "Loss")

    def fail(file: io.BytesIO, **_: object) -> None:
        file.write(b"half")
        raise RuntimeError("drawing failed")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="drawing failed"):
        figures.save(figure, path)
    assert [file.name for file in tmp_path.iterdir()] == ["loss.png"]
    assert path.read_bytes() == b"old"


def test_a_place_that_cannot_be_written_is_an_error_of_one_sentence_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    figure = figures.confusion([[1, 0], [0, 1]], ["a", "b"], "Confusion")
    for path in (tmp_path / "file" / "loss.png", tmp_path / "folder.png"):
        with pytest.raises(UserError, match=path.name):
            figures.save(figure, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.png"]


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path: Path) -> None:
    before, after = matplotlib.rcParams.copy(), matplotlib.rcParams
    draw_one_of_each(tmp_path)
    assert {name for name in before if name != "backend" and before[name] != after[name]} == set()
