"""`predict PATH …` on files as people have them: all formats, and everything that can be wrong with one."""

import csv
import os
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, Cli, Result, checkpoint
from PIL import Image, ImageDraw
from serving import bomb

from lit_cifar import LitClassifier

SHOWN_CLASSES = ("plane", "car", "bird")


@pytest.fixture
def predict(cli: Cli, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`predict` in a folder of its own, with the run's checkpoint."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: cli("predict", *words, "--ckpt_path", checkpoint(runs))


def rows(folder: str = "predictions") -> dict[str, list[str]]:
    """The lines of predictions.csv, by their file."""
    with Path(folder, "predictions.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["file", "predicted", *SHOWN_CLASSES]
    return {line[0]: line[1:] for line in lines}


def painted(width: int = 60, height: int = 40) -> Image.Image:
    """A picture whose four quarters differ, so that turning or mirroring it shows."""
    picture = Image.new("RGB", (width, height), (200, 30, 30))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width // 2, height // 2), fill=(30, 200, 40))
    draw.rectangle((width // 2, height // 2, width, height), fill=(20, 40, 210))
    return picture


def test_files_folders_and_patterns_are_predicted_each_file_once(predict: Cli, tmp_path: Path) -> None:
    files = ["photos/a.png", "photos/deep/er/b.JPG", "cat.webp", "shots/1.bmp", "shots/2.bmp"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        painted().save(name)
    for other in ("photos/notes.txt", "photos/.hidden.png", "shots/3.txt"):
        Path(other).write_text("no picture")
    words = ("photos", "cat.webp", "shots/*.bmp", "photos/a.png")
    Path("photos/nothing here").mkdir()
    patterns = ("photos/**/*.[pj]*g", "photos/*/", *words[1:])
    for given in (words, ("--data.images", *words), (*words[:2], f"--data.images={words[2]}"), patterns):
        result = predict(*given)
        assert result.code == 0, result.err
        assert list(rows()) == files
        assert "Written: predictions/predictions.png (5 pictures)" in result.out


def test_the_classes_that_were_learnt_are_found_in_pictures_of_other_sizes(predict: Cli, runs: Path) -> None:
    for name in CLASSES:
        with Image.open(runs / "pictures" / "test" / name / "000.png") as picture:
            picture.resize((640, 480)).save(f"{name}.jpg")
    result = predict("airplane.jpg", "automobile.jpg", "bird.jpg")
    assert result.code == 0, result.err
    assert [row[0] for row in rows().values()] == list(SHOWN_CLASSES)
    first = next(line for line in result.out.splitlines() if line.startswith("airplane.jpg"))
    values = dict(zip(SHOWN_CLASSES, map(float, rows()["airplane.jpg"][1:]), strict=True))
    ranked = sorted(values, key=lambda name: -values[name])
    shown = [f"{name} ({values[name] * 100:.1f} %)" for name in ranked]
    assert " ".join(first.split()) == f"airplane.jpg {shown[0]} {shown[1]}, {shown[2]}"


def test_every_row_is_what_python_predicts_for_its_file_and_nothing_is_left_changed(predict: Cli, runs: Path) -> None:
    classifier = LitClassifier.load_from_checkpoint(checkpoint(runs))
    generator = np.random.default_rng(1)
    names = ["b.png", "a.png", "deep/c.png"]  # in the order in which they are given
    Path("deep").mkdir()
    for name in names:
        Image.fromarray(generator.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(name)
    threads, filters = torch.get_num_threads(), list(warnings.filters)
    torch.set_num_threads(3)
    assert predict(*names).code == 0
    assert (torch.get_num_threads(), list(warnings.filters)) == (3, filters)
    torch.set_num_threads(threads)
    assert list(rows()) == names
    for name, (predicted, *shown) in rows().items():
        expected = classifier.predict(Image.open(name))[0]
        assert shown == [f"{value:.6f}" for value in expected.tolist()]
        assert predicted == SHOWN_CLASSES[int(expected.argmax())]


def test_a_picture_is_the_same_in_every_format(predict: Cli) -> None:
    picture = painted(64, 64)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.rotate(90).save("turned.png", exif=exif)
    picture.convert("CMYK").save("cmyk.tif")
    picture.convert("P", palette=Image.Palette.ADAPTIVE).save("palette.gif")
    picture.save("animated.webp", save_all=True, append_images=[painted().resize((64, 64)).rotate(90)], lossless=True)
    picture.convert("RGBA").save("rgba.png")
    picture.save("plain.bmp")
    assert predict(".").code == 0
    assert [len(rows()), len({tuple(row) for row in rows().values()})] == [6, 1]

    grey = Image.fromarray(np.arange(0, 250, 2, dtype=np.uint8)[None].repeat(50, 0))
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 256).save("deep.png")
    grey.save("grey.png")
    clear = Image.new("RGBA", (50, 50), (255, 0, 0, 0))
    clear.save("clear.png")
    Image.new("RGB", (1, 1), "white").save("one_pixel.png")
    assert predict("deep.png", "grey.png", "clear.png", "one_pixel.png").code == 0
    assert rows()["deep.png"] == rows()["grey.png"]
    assert rows()["clear.png"] == rows()["one_pixel.png"] != rows()["grey.png"]


def test_test_time_augmentation_makes_a_picture_and_its_mirror_image_alike(predict: Cli) -> None:
    painted().save("a.png")
    painted().transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("b.png")
    assert predict("a.png", "b.png").code == 0
    assert rows()["a.png"] != rows()["b.png"]
    assert predict("a.png", "b.png", "--model.test_time_augmentation", "flip").code == 0
    assert rows()["a.png"] == rows()["b.png"]


def test_of_many_pictures_the_table_shows_the_first_and_the_sheet_some(predict: Cli) -> None:
    Path("many").mkdir()
    for i in range(45):
        Image.new("RGB", (90, 30), (250, 0, 5 * i)).save(f"many/{i:02d}.png")
    result = predict("many", "--output", "there/it/is")
    assert result.code == 0, result.err
    assert list(rows("there/it/is")) == [f"many/{i:02d}.png" for i in range(45)]
    assert sum(line.startswith("many/") for line in result.out.splitlines()) == 20
    assert "… and 25 more in there/it/is/predictions.csv" in result.out
    assert "Written: there/it/is/predictions.png (32 of 45 pictures)" in result.out
    sheet = np.asarray(Image.open("there/it/is/predictions.png").convert("RGB"))
    red = (sheet[..., 0] == 250) & (sheet[..., 1] == 0)  # the pictures with their proportions: 128 x 43 or 90 x 30
    assert red.sum() == 32 * 90 * 30
    assert {0, 220} <= set(sheet[red][:, 2].tolist())


def test_a_table_fits_into_40_columns_and_in_a_pipe_each_file_keeps_its_line(
    predict: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a long name of a [bold] picture " * 4 + "\x1b[31m.png"
    painted().save(name)
    shown = name.replace("\x1b", "?")
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = predict(name).out.splitlines()
    assert sum(line.startswith(f"{shown}  ") for line in lines) == 1
    monkeypatch.setenv("COLUMNS", "40")
    result = predict(name)
    table = result.out.split("runners-up")[1].split("Written")[0]
    assert max(map(len, table.splitlines())) <= 40
    assert shown.replace(" ", "") in "".join(line[:13] for line in table.splitlines()).replace(" ", "")
    assert list(rows()) == [name]


def test_what_cannot_be_read_is_named_and_the_rest_is_predicted(predict: Cli) -> None:
    painted().save("good.png")
    painted().save("whole.jpg")
    Path("cut.jpg").write_bytes(Path("whole.jpg").read_bytes()[:-200])
    Path("text.jpg").write_text("this is no picture")
    Path("empty.png").touch()
    Path("bomb.png").write_bytes(bomb(20_000, 20_000))
    Path("warned_of.png").write_bytes(bomb(10_000, 10_000))
    Image.fromarray(np.zeros((40, 40), dtype=np.float32)).save("floats.tif")
    result = predict(".")
    assert result.code == 1
    assert list(rows()) == ["good.png", "whole.jpg"]
    *lines, last = result.err.splitlines()
    bad = ["bomb.png", "cut.jpg", "empty.png", "floats.tif", "text.jpg", "warned_of.png"]
    assert [line.split(" ")[0] for line in lines] == bad
    assert "89 million pixels" in lines[0] and "89 million pixels" in lines[5]
    assert "damaged" in lines[1] and "floating-point" in lines[3]
    assert re.fullmatch(r"lit_cifar: 6 of 8 files .* \[picture-unreadable\]", last)
    result = predict("text.jpg", "--output", "nothing")
    assert (result.code, result.err.endswith(" [picture-unreadable]\n")) == (1, True)
    assert not Path("nothing/predictions.csv").exists()


def test_a_path_that_can_not_be_looked_at_is_named_and_the_others_predicted(predict: Cli) -> None:
    painted().save("mine.png")
    long = "a" * 300 + ".png"
    result = predict("mine.png", long)
    assert result.code == 1
    assert f"{long} can't be read: File name too long\n" in result.err
    assert list(rows()) == ["mine.png"]


def test_its_own_contact_sheet_is_no_picture_of_yours(predict: Cli) -> None:
    painted().save("mine.png")
    for _ in range(2):
        assert predict(".").code == 0
        assert list(rows()) == ["mine.png"]


@pytest.mark.parametrize(
    ("words", "error", "name"),
    [
        (["nowhere.png"], "picture-missing", "nowhere.png"),
        (["*.gif"], "picture-missing", "*.gif"),
        (["empty"], "picture-missing", "empty"),
        (["a.png", "--output=a.png"], "output-refused", "--output a.png"),
        (["a.png", "--output=a.png/b"], "output-refused", "--output a.png/b"),
        (["--data.images"], "value-missing", "--data.images"),
        (["a.png", "--outputs=b"], "flag-unknown", "--output"),
        (["a.png", "--model.test_time_augmentation=twice"], "value-invalid", "none, flip or flip-shift"),
        (["a.png", "--model.net=mine"], "network-unknown", "--model.net mine"),
        (["a.png", "--model.net=torch.nn.Nothing"], "network-unknown", "--model.net torch.nn.Nothing"),
        (["a.png", "--model.net=builtins.dict"], "network-unknown", "--model.net builtins.dict"),
        (["a.png", "--model.net=nowhere.Mine"], "network-unknown", "--model.net nowhere.Mine"),
    ],
)
def test_a_mistake_gives_one_sentence_before_anything_is_predicted(
    predict: Cli, words: list[str], error: str, name: str
) -> None:
    painted().save("a.png")
    Path("empty").mkdir()
    assert_refused(predict(*words), error, name)


def assert_refused(result: Result, error: str, *names: str) -> None:
    assert result.failed(2, error, *names)
    assert not Path("predictions").exists()


def test_without_a_checkpoint_the_newest_run_of_any_recipe_is_taken_and_named(
    cli: Cli, predict: Cli, runs: Path, tmp_path: Path
) -> None:
    painted().save("a.png")
    assert_refused(cli("predict", "a.png"), "checkpoint-missing", "best.ckpt", "python -m lit_cifar fit")
    for age, name in enumerate(("resnet18/version_3", "tutorial/version_0", "speedrun/version_1")):
        path = tmp_path / "lightning_logs" / name / "checkpoints" / "best.ckpt"
        path.parent.mkdir(parents=True)
        shutil.copy(checkpoint(runs), path)
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    os.truncate("lightning_logs/resnet18/version_3/checkpoints/best.ckpt", 1000)
    for words in ((), ("--ckpt_path=best",), ("--trainer.default_root_dir", tmp_path)):
        result = cli("predict", "a.png", *words)
        assert result.code == 0, result.err
        assert "lightning_logs/tutorial/version_0/checkpoints/best.ckpt" in result.out


@pytest.mark.parametrize(
    ("net", "error"),
    [
        ({"class_path": "lit_cifar.nets.future.Net"}, "network-unknown"),
        ({"class_path": "lit_cifar.nets.tutorial.Net", "init_args": {"wings": 2}}, "network-unfit"),
        ({"class_path": "lit_cifar.nets.tutorial.Net", "init_args": {}}, "network-unfit"),
        ({"class_path": "somewhere.Net"}, "network-untrusted"),
    ],
)
def test_a_checkpoint_of_a_net_that_this_version_does_not_have_is_refused(
    cli: Cli, predict: Cli, runs: Path, net: dict[str, object], error: str
) -> None:
    painted().save("a.png")
    content = torch.load(checkpoint(runs), weights_only=True)
    content["lit_cifar"]["card"]["net"] = net
    torch.save(content, "other.ckpt")
    result = cli("predict", "a.png", "--ckpt_path=other.ckpt")
    assert_refused(result, error, "--ckpt_path other.ckpt", str(net["class_path"]))


def test_a_network_of_your_own_is_used_where_you_name_it(
    cli: Cli, predict: Cli, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted().save("a.png")
    assert predict("a.png").code == 0
    expected = rows()
    Path("mine.py").write_text("from lit_cifar.nets.tutorial import Net\n\n\nclass Mine(Net):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    content = torch.load(checkpoint(runs), weights_only=True)
    content["lit_cifar"]["card"]["net"]["class_path"] = "mine.Mine"
    torch.save(content, "mine.ckpt")
    result = cli("predict", "a.png", "--ckpt_path=mine.ckpt", "--model.net=mine.Mine")
    assert result.code == 0, result.err
    assert rows() == expected


def test_what_a_terminal_would_obey_in_a_class_name_is_not_printed(predict: Cli, cli: Cli, runs: Path) -> None:
    painted().save("a.png")
    content = torch.load(checkpoint(runs), weights_only=True)
    content["lit_cifar"]["card"]["classes"] = [f"{name}\x1b[2J" for name in content["lit_cifar"]["card"]["classes"]]
    torch.save(content, "foreign.ckpt")
    result = cli("predict", "a.png", "--ckpt_path=foreign.ckpt")
    assert result.code == 0, result.err
    assert "?[2J" in result.out
    assert "\x1b" not in result.out


def test_predict_without_a_path_is_still_that_of_the_test_images(cli: Cli, predict: Cli, runs: Path) -> None:
    result = cli("predict", "--ckpt_path", checkpoint(runs), "--data.root", runs / "pictures")
    assert result.code == 0, result.err
    with Path("lightning_logs/tutorial/version_0/predictions.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + 24
