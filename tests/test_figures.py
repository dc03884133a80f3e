import importlib
import io
import sys
import warnings
from collections.abc import Iterator
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
    texts,
)
from fontTools.fontBuilder import FontBuilder  # type: ignore[import-untyped]
from fontTools.pens.ttGlyphPen import TTGlyphPen  # type: ignore[import-untyped]
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from lit_cifar.errors import UserError
from lit_cifar.report import charts, figures, fonts


@pytest.mark.parametrize(
    ("count", "height", "width"), [(1, 32, 32), (3, 32, 32), (11, 32, 32), (64, 32, 32), (9, 5, 20), (2, 28, 9)]
)
def test_each_pixel_of_an_image_becomes_a_square_of_its_very_colour(
    tmp_path: Path, count: int, height: int, width: int
) -> None:
    images = some_images(count, height, width)
    figure = figures.image_grid(images, ["x"] * count, "Title", wrong=[i % 2 == 0 for i in range(count)])
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


def test_a_wrong_prediction_is_told_by_sign_words_and_colour() -> None:
    shown = [entry(0, "cat", "cat"), entry(2, "cat", "dog", 0.9996), entry(1, "cat", "cat", float("nan"))]
    figure = figures.predictions(some_images(3), shown, "Test images")
    captions = figure.axes[0].texts[1:]  # without the title
    lines = ["✓ predicted cat", "(50.0 %)", "✗ predicted dog", "(>99.9 %)", "actually cat", "✓ predicted cat"]
    assert [text.get_text() for text in captions] == lines
    assert [text.get_color() for text in captions] == [figures.INK] * 2 + [figures.ORANGE] * 3 + [figures.INK]
    assert len({text.get_position()[1] for text in captions}) == 3  # baselines
    assert {text.get_verticalalignment() for text in captions} == {"baseline"}


def test_the_images_of_a_ranking_are_those_of_its_entries_in_their_order() -> None:
    images, ranked = some_images(40), some_answers()["confident_mistakes"]
    figure = figures.predictions(images, ranked, "Mistakes")
    drawn = figure.axes[0].images
    for expected, image in zip(ranked, drawn, strict=True):
        assert np.array_equal(np.asarray(image.get_array()), images[expected["image"]].permute(1, 2, 0))
    first, written = ranked[0], " ".join(texts(figure))
    assert f"✗ predicted {first['predicted']} ({first['probability'] * 100:.1f} %) actually" in written


def test_two_long_names_that_begin_alike_are_not_taken_for_one() -> None:
    figure = figures.predictions(some_images(1), [entry(0, "n0211 " * 9 + "a", "n0211 " * 9 + "b")], "Mistakes")
    assert any(text.startswith("✗") for text in texts(figure))


def test_each_confused_pair_has_a_row_of_its_images_with_their_probabilities() -> None:
    images, pairs = some_images(40), some_answers()["confused_pairs"]
    figure = figures.confused_pairs(images, pairs, "Pairs")
    drawn = figure.axes[0].images
    expected = [image for pair in pairs for image in pair["images"]]
    assert [np.asarray(image.get_array()).tolist() for image in drawn] == [
        images[each["image"]].permute(1, 2, 0).tolist() for each in expected
    ]
    tops = [round(image.get_extent()[3]) for image in drawn]
    assert [tops.count(top) for top in sorted(set(tops))] == [len(pair["images"]) for pair in pairs]
    written = texts(figure)
    for pair in pairs:
        assert f"{pair['class']} taken for {pair['predicted']}: {pair['count']} of {pair['of']}" in written
    assert [text for text in written if text.startswith("✗")] == [
        f"✗ {each['probability'] * 100:.1f} %" for each in expected
    ]
    assert "There are no mistakes." in texts(figures.confused_pairs(images, [], "Pairs"))


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
    path = tmp_path / "training.png"
    path.write_bytes(b"old")
    figure = figures.sentence("new", "Loss")

    def fail(file: io.BytesIO, **_: object) -> None:
        file.write(b"half")
        raise RuntimeError("drawing failed")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="drawing failed"):
        figures.save(figure, path)
    assert [file.name for file in tmp_path.iterdir()] == ["training.png"]
    assert path.read_bytes() == b"old"


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    figure = figures.sentence("new", "Confusion")
    for path in (tmp_path / "file" / "training.png", tmp_path / "folder.png"):
        with refused(UserError, "not-writable", path.name):
            figures.save(figure, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.png"]


def test_drawing_leaves_the_settings_of_matplotlib_and_the_warning_filters_alone(tmp_path: Path) -> None:
    before, after, filters = matplotlib.rcParams.copy(), matplotlib.rcParams, list(warnings.filters)
    draw_one_of_each(tmp_path)
    assert {name for name in before if name != "backend" and before[name] != after[name]} == set()
    assert warnings.filters == filters


def hostile_pictures(names: tuple[str, ...], folder: Path) -> list[str]:
    """What is written in pictures whose classes, files and folder have such names."""
    answers, images = some_answers(names), some_images(40)
    title = f"Images of the folder {'/'.join(names)}"
    drawn = [
        figures.predictions(images, answers["confident_mistakes"], title),
        figures.predictions(images, [entry(0, names[0], names[0])], title, files=[f"{names[0]}.png"]),
        figures.confused_pairs(images, answers["confused_pairs"], title),
        figures.image_grid(images[:2], names[:2], title, headings=names[:2]),
        charts.confusion(np.eye(len(names), dtype=int).tolist(), names, title),
        charts.per_class(answers, title),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as for a letter that is drawn as a box
        for i, figure in enumerate(drawn):
            figures.save(figure, folder / f"{i}.png")
    return [text for figure in drawn for text in texts(figure)]


NAMES = ("猫", "ねこ 犬", "고양이", "🐶🦖", "قطة", "חתול שחור", "a\x1b[2Jb\udcff", "✈\ufe0f", "cafe\u0301")


@pytest.fixture
def fonts_of_the_system(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Files of fonts, which a test may add to an otherwise bare system."""
    files: list[str] = []
    own = [font for font in fontManager.ttflist if font.fname.startswith(matplotlib.get_data_path())]
    with monkeypatch.context() as bare:
        bare.setattr(fontManager, "ttflist", own)
        bare.setattr(font_manager, "findSystemFonts", lambda: files)
        importlib.reload(fonts)
        yield files
    importlib.reload(fonts)


def test_letters_without_a_font_are_named_in_words(
    tmp_path: Path, fonts_of_the_system: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    written = " ".join(hostile_pictures(NAMES, tmp_path))
    for name in ("[no font for U+732B]", "[dog face, t-rex]", "חתול", "قطة", "café", "a?[2Jb?", "✈"):
        assert name in written
    assert not set("猫犬고🐶\ufe0f") & set(written)
    assert capfd.readouterr().err == ""


def test_letters_are_drawn_in_an_installed_font_that_has_them(
    tmp_path: Path, fonts_of_the_system: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (900, 800), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    glyph = pen.glyph()
    square = FontBuilder(1000)
    square.setupGlyphOrder([".notdef", "cat"])
    square.setupCharacterMap({ord("猫"): "cat"})
    square.setupGlyf({".notdef": glyph, "cat": glyph})
    square.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    square.setupHorizontalHeader(ascent=800, descent=-200)
    square.setupNameTable({"familyName": "Square Cats", "styleName": "Regular"})
    square.setupOS2(sTypoAscender=800)
    square.setupPost()
    square.save(tmp_path / "cats.ttf")
    (tmp_path / "damaged.ttf").write_bytes((tmp_path / "cats.ttf").read_bytes()[:300])
    fonts_of_the_system += [str(tmp_path / name) for name in ("damaged.ttf", "cats.ttf", "missing.ttf")]
    written = " ".join(hostile_pictures(NAMES, tmp_path))
    assert "猫" in written
    assert "[no font for U+72AC]" in written
    assert fonts.families() == ["DejaVu Sans", "Square Cats"]
    assert not caplog.records  # that it has no bold letters


def test_the_path_of_a_folder_is_not_broken_in_a_title(tmp_path: Path) -> None:
    path = f"/srv/{'long folder/' * 12}last one"
    for figure in (
        figures.sentence("Nothing.", f"Accuracy against confidence on the folder {path}"),
        figures.image_grid(some_images(1), ["x"], f"Most confident mistakes on the folder {path}"),
    ):
        (line,) = [row for text in figure.findobj(Text) for row in text.get_text().split("\n") if "last" in row]
        assert path.endswith(line.removeprefix("…")) and line.startswith("…/")
    short = "Most confident mistakes on the folder /work/my data"
    assert short in texts(figures.image_grid(some_images(8), ["x"] * 8, short))


def test_text_has_a_contrast_of_at_least_4_5() -> None:
    """WCAG 2.2, 1.4.3; relative luminance as defined there."""

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in (figures.INK, figures.GREY, figures.BLUE, figures.ORANGE):
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5, colour
    assert (luminance(charts.NO_IMAGES) + 0.05) / (luminance(figures.INK) + 0.05) >= 4.5
