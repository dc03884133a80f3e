"""Folders as people bring them: any suffix, any depth, other files, splits of their own."""

import sys
import unicodedata
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, Cli, checkpoint, paint_pictures, refused
from PIL import Image

from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.image_folder import CACHE
from lit_cifar.data.loader import BatchLoader
from lit_cifar.data.sources import open_images
from lit_cifar.errors import UsageError, UserError

BIRD = Path("train", "bird")


def stored_as(path: Path, new: str, kind: str) -> None:
    """Saves a picture under another name, in its class's folder, in another format of Pillow's."""
    target = path.parent / new
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.open(path).save(target, kind)
    path.unlink()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("0.bmp", "BMP"),
        ("0.JFIF", "JPEG"),
        ("0.Tif", "TIFF"),
        ("0.webp", "WEBP"),
        ("0.gif", "GIF"),
        ("0.ppm", "PPM"),
        ("no suffix", "PNG"),
        ("0.dat", "JPEG"),
        ("2019.05.12", "PNG"),
        ("deep/er/0.PNG", "PNG"),
        ("folder.jpg/0.png", "PNG"),
    ],
)
def test_what_pillow_can_read_is_used_whatever_its_name(
    pictures: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    right = open_images(pictures).train.images[40:].float()
    stored_as(pictures / BIRD / "000.png", name, kind)
    for _ in range(2):  # decoded, then from the cache
        opened = open_images(pictures).train
        assert opened.labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20
        assert opened.images[40:].float().mean() == pytest.approx(float(right.mean()), abs=1)
    assert capsys.readouterr().err == ""


def test_files_that_are_no_pictures_are_counted_by_suffix_and_those_of_the_system_are_not(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.txt", "b.TXT", "deep/c.txt", "d.csv", "README", ".hidden.txt", "Thumbs.db", "desktop.ini"):
        path = pictures / BIRD / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("no picture")
    Image.open(pictures / BIRD / "000.png").save(pictures / "train" / "stray.png")
    for _ in range(2):
        assert len(open_images(pictures).train.labels) == 60
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        for kind in (str(pictures), "3 .txt", "1 .csv", "1 without a suffix", "1 .png in no class's folder"):
            assert kind in line, line
        assert "thumbs" not in line.lower()
        assert ".ini" not in line


def test_a_file_that_becomes_a_picture_is_used(pictures: Path) -> None:
    path = pictures / BIRD / "later.dat"
    path.write_text("no picture yet")
    assert len(open_images(pictures).train.labels) == 60
    path.write_bytes((pictures / BIRD / "000.png").read_bytes())
    assert len(open_images(pictures).train.labels) == 61


def test_unreadable_pictures_are_counted_and_named_at_once(pictures: Path) -> None:
    names = [pictures / split / "bird" / f"broken{i}.png" for split in ("test", "train") for i in range(4)]
    for path in names[:2]:
        path.write_bytes(b"no picture")
    with refused(UserError, "picture-unreadable", "2 of 86", *map(str, names[:2])):
        open_images(pictures)
    for path in names:
        path.write_bytes(b"no picture")
    with refused(UserError, "picture-unreadable", "8 of 92", str(names[4]), "3 more"):
        open_images(pictures)
    assert not (pictures / CACHE).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links: Windows asks for rights")
def test_links_are_followed_but_not_in_circles_and_those_to_nothing_are_named(pictures: Path, tmp_path: Path) -> None:
    (pictures / BIRD).rename(tmp_path / "elsewhere")
    (pictures / BIRD).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "elsewhere")
    assert len(open_images(pictures).train.labels) == 60
    (pictures / BIRD / "gone.jpg").symlink_to(tmp_path / "nothing")
    with refused(UserError, "picture-unreadable", str(pictures / BIRD / "gone.jpg")):
        open_images(pictures)


@pytest.mark.parametrize(
    ("one", "other"),
    [("airplane", "plane"), (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café"))],
)
def test_classes_that_would_be_shown_alike_are_refused(tmp_path: Path, one: str, other: str) -> None:
    paint_pictures(tmp_path, ("bird", one))
    for split in ("train", "test"):
        if (tmp_path / split / other).exists():
            pytest.skip("needs a file system that keeps both forms of a name")
        (tmp_path / split / other).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / split / other / "0.png")
    with refused(UsageError, "data-ambiguous", str(tmp_path / "train" / one), str(tmp_path / "train" / other)):
        open_images(tmp_path)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_of_validation_images_is_validated_on(
    pictures: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "test").rename(pictures / name)
    for val_size, is_said in ((0.1, False), (24, False), (7, True)):
        data = CIFAR10DataModule(str(pictures), val_size=val_size)
        assert data.val_size == 24
        assert ("--data.val_size 7" in capsys.readouterr().err) == is_said
        assert [len(part) for part in data.split()] == [60, 0]
        loader = data.val_dataloader()
        assert isinstance(loader, BatchLoader)
        assert [label for _, labels in loader for label in labels.tolist()] == [0] * 8 + [1] * 8 + [2] * 8
    with refused(UsageError, "data-missing", "test"):
        data.test_dataloader()
    Image.new("RGB", (32, 32)).save(pictures / name / "bird" / "000.png")
    assert CIFAR10DataModule(str(pictures)).checksum != data.checksum


def test_validation_images_of_a_class_that_is_not_trained_or_two_sets_of_them_are_refused(pictures: Path) -> None:
    (pictures / "val").mkdir()
    (pictures / "test" / "bird").rename(pictures / "val" / "owl")
    (pictures / "test").rename(pictures / "gone")
    with refused(UsageError, "data-missing", "'owl'", str(pictures / "val" / "owl")):
        open_images(pictures)
    (pictures / "valid").mkdir()
    with refused(UsageError, "data-ambiguous", "val", "valid"):
        open_images(pictures)


def test_a_split_in_other_letters_is_named(pictures: Path) -> None:
    (pictures / "test").rename(pictures / "Test")
    if (pictures / "test").exists():
        pytest.skip("needs a file system that tells cases apart")
    with refused(UsageError, "data-missing", str(pictures / "Test"), "rename"):
        open_images(pictures)


@pytest.mark.parametrize(
    ("val_size", "count"), [(0.1, 6), (0.25, 15), (0.0, 0), (1, 1), (0.999, 57), (0.009, 1), (0.008, 0)]
)
def test_a_share_is_held_out_and_leaves_an_image_of_each_class(pictures: Path, val_size: float, count: int) -> None:
    data = CIFAR10DataModule(str(pictures), val_size=val_size)
    train, validation = data.split()
    assert (data.val_size, len(validation), len(train)) == (count, count, 60 - count)
    assert len(data.images.train.labels[train].unique()) == 3


@pytest.mark.parametrize("val_size", [1.5, 5000.0, 1.0, -0.1, float("nan")])
def test_a_size_that_is_neither_a_number_of_images_nor_a_share_is_refused(val_size: float) -> None:
    with refused(UsageError, "value-out-of-range", f"--data.val_size {val_size}"):
        CIFAR10DataModule(val_size=val_size)


def test_the_only_image_of_a_class_is_trained_on(tmp_path: Path) -> None:
    paint_pictures(tmp_path, CLASSES)
    for path in sorted((tmp_path / BIRD).iterdir())[1:]:
        path.unlink()
    data = CIFAR10DataModule(str(tmp_path), val_size=5)
    train, validation = data.split()
    assert torch.bincount(data.images.train.labels[train])[2] == 1
    assert len(validation) == 5


def test_a_folder_without_test_images_is_trained_on_and_says_that_nothing_was_tested(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (pictures / "test").rename(tmp_path / "gone")
    fit = ("fit", f"--data.root={pictures}", "--model.net.num_classes=3", "--trainer.max_epochs=1")
    result = cli(*fit)
    assert result.code == 0, result.err
    assert [line for line in result.out.splitlines() if line.startswith("Nothing was tested")], result.out
    assert "60 images" not in result.out
    run = tmp_path / "lightning_logs" / "tutorial" / "version_0"
    card = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["lit_cifar"]["card"]
    assert card["val_size"] == 6
    assert not (run / "report.json").exists()
    for command in ("test", "predict"):
        refusal = cli(command, "--ckpt_path=best", f"--data.root={pictures}")
        assert refusal.failed(2, "data-missing", str(pictures), "test/<class>/")
    assert cli("validate", "--ckpt_path=best", f"--data.root={pictures}").code == 0
    assert "train images in" in cli("export", "--format=torch", f"--data.root={pictures}").out
    assert sorted(path.name for path in run.parent.iterdir()) == ["version_0"]  # validate leaves no run


def test_show_needs_no_images_to_hold_out(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    result = cli("show", f"--data.root={pictures}", "--data.val_size=5000", f"--output={tmp_path / 'a.png'}")
    assert result.code == 0, result.err


def test_a_checkpoint_is_tested_on_a_folder_with_fewer_images_than_it_held_out(
    cli: Cli, runs: Path, tmp_path: Path
) -> None:
    few = paint_pictures(tmp_path / "few", CLASSES)
    for path in (few / "train").glob("*/*"):
        if path.name != "000.png":
            path.unlink()  # 3 are left, of 6 that were held out
    words = (f"--ckpt_path={checkpoint(runs)}", f"--data.root={few}", f"--trainer.default_root_dir={tmp_path}")
    result = cli("test", *words)
    assert result.code == 0, result.err
    assert "on the 24 test images" in result.out
