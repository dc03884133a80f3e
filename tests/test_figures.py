import io
import sys
import warnings
from pathlib import Path
from subprocess import run

import matplotlib
import numpy as np
import pytest
from conftest import refused
from drawing import (
    LONG_NAMES,
    draw_one_of_each,
    entry,
    overlapping,
    pixels,
    some_answers,
    some_images,
    text_object,
    texts,
)
from matplotlib.patches import Rectangle

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


def test_a_wrong_prediction_has_a_bold_caption_in_another_colour_and_a_frame() -> None:
    shown = [entry(0, "cat", "cat"), entry(2, "cat", "dog", 0.9996), entry(1, "cat", "cat", float("nan"))]
    figure = figures.predictions(some_images(3), shown, "Test images")
    caption, right = text_object(figure, "dog (>99.9 %)\nactually cat"), text_object(figure, "cat (50.0 %)")
    assert (caption.get_fontweight(), right.get_fontweight()) == ("bold", "normal")
    assert caption.get_color() != right.get_color()
    assert "cat" in texts(figure)  # without a probability
    frames = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    framed = figure.axes[0].images[1].get_extent()
    assert [frame.get_x() < framed[0] < framed[1] < frame.get_x() + frame.get_width() for frame in frames] == [True]


def test_the_images_of_a_ranking_are_those_of_its_entries_in_their_order() -> None:
    images, ranked = some_images(40), some_answers()["confident_mistakes"]
    figure = figures.predictions(images, ranked, "Mistakes", framed=False)
    assert not figure.axes[0].patches
    drawn = figure.axes[0].images
    for expected, image in zip(ranked, drawn, strict=True):
        assert np.array_equal(np.asarray(image.get_array()), images[expected["image"]].permute(1, 2, 0))
    first = ranked[0]
    assert f"{first['predicted']} ({first['probability'] * 100:.1f} %) actually {first['class']}" in texts(figure)


def test_a_ranking_without_images_is_a_sentence() -> None:
    assert "There are no such images." in texts(figures.predictions(some_images(1), [], "Mistakes"))


def test_captions_of_long_names_stay_on_the_figure_and_off_each_other_and_off_the_images() -> None:
    shown = [entry(i, LONG_NAMES[i % 10], LONG_NAMES[(i + 1) % 10]) for i in range(20)]
    mixtures = [f"70 % {LONG_NAMES[i % 10]},\n30 % {LONG_NAMES[(i + 1) % 10]}" for i in range(20)]
    for figure in (
        figures.predictions(some_images(20), shown, "Title " * 40),
        figures.image_grid(some_images(20), mixtures, "Title " * 40, headings=LONG_NAMES[:8]),
    ):
        figure.draw_without_rendering()
        written = [text for text in figure.axes[0].texts if text.get_text()]
        assert not overlapping(written)
        width, height = figure.get_size_inches() * figure.dpi
        places = [text.get_window_extent() for text in written]
        assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in places)
        assert not any(box.overlaps(image.get_window_extent()) for box in places for image in figure.axes[0].images)


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes_in_another_process_too_and_pyplot_keeps_no_figure(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import drawing; drawing.draw_one_of_each(Path(sys.argv[1]));"
        " import matplotlib.pyplot; assert not matplotlib.pyplot.get_fignums()"
    )
    run([sys.executable, "-c", code, str(tmp_path / "there")], check=True, cwd=Path(__file__).parent)
    for here in draw_one_of_each(tmp_path / "here"):
        assert here.read_bytes() == (tmp_path / "there" / here.name).read_bytes()


def test_a_drawing_that_fails_leaves_the_old_picture_and_no_part_of_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")
    figure = figures.sentence("new", "Loss")

    def fail(file: io.BytesIO, **_: object) -> None:
        file.write(b"half")
        raise RuntimeError("drawing failed")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="drawing failed"):
        figures.save(figure, path)
    assert [file.name for file in tmp_path.iterdir()] == ["loss.png"]
    assert path.read_bytes() == b"old"


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    figure = figures.sentence("new", "Confusion")
    for path in (tmp_path / "file" / "loss.png", tmp_path / "folder.png"):
        with refused(UserError, "not-writable", path.name):
            figures.save(figure, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.png"]


def test_drawing_leaves_the_settings_of_matplotlib_and_the_warning_filters_alone(tmp_path: Path) -> None:
    before, after, filters = matplotlib.rcParams.copy(), matplotlib.rcParams, list(warnings.filters)
    draw_one_of_each(tmp_path)
    assert {name for name in before if name != "backend" and before[name] != after[name]} == set()
    assert warnings.filters == filters


def test_a_class_name_in_letters_that_the_font_lacks_is_drawn_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save(figures.image_grid(some_images(1), ["猫"], "犬"), tmp_path / "grid.png")
