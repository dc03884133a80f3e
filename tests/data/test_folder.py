"""A folder of pictures is decoded once, to the right bytes, and the cache is never wrong."""

import os
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, damaged_exif, refused
from PIL import Image

from lit_cifar.data.image_files import read_picture
from lit_cifar.data.image_folder import CACHE
from lit_cifar.data.sources import Images, open_images
from lit_cifar.errors import UsageError, UserError


def pixels_of(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def same(a: Images, b: Images) -> bool:
    pairs = ((a.train.images, b.train.images), (a.train.labels, b.train.labels), (a.test.images, b.test.images))
    return all(torch.equal(x, y) for x, y in pairs)


def test_images_come_sorted_by_class_and_name_with_their_labels(pictures: Path) -> None:
    opened = open_images(pictures)
    assert opened.kind == "folder"
    assert opened.train.classes == ("plane", "car", "bird")
    assert opened.train.labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert torch.equal(opened.train.images[25], pixels_of(pictures / "train" / CLASSES[1] / "005.png"))
    assert torch.equal(opened.test.images[-1], pixels_of(pictures / "test" / CLASSES[2] / "007.png"))


def test_what_is_no_picture_or_hidden_is_passed_over(pictures: Path) -> None:
    before = open_images(pictures)
    (pictures / "train" / "bird" / "notes.txt").write_text("notes")
    (pictures / "train" / "bird" / "._000.png").write_bytes(b"left by macOS")
    (pictures / "train" / ".ipynb_checkpoints").mkdir()
    (pictures / "train" / "index.csv").write_text("a,b")
    assert same(open_images(pictures), before)


def test_the_cache_is_used_and_a_picture_added_removed_or_changed_makes_it_anew(pictures: Path) -> None:
    open_images(pictures)
    cache, folder = pictures / CACHE, pictures / "train" / "bird"
    written = cache.stat().st_mtime_ns
    open_images(pictures)
    assert cache.stat().st_mtime_ns == written

    Image.new("RGB", (32, 32), "red").save(folder / "added.png")
    assert len(open_images(pictures).train.labels) == 61
    (folder / "added.png").unlink()
    assert len(open_images(pictures).train.labels) == 60

    changed = folder / "000.png"
    size = changed.stat().st_size
    flipped = Image.open(changed).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    flipped.save(changed)
    changed.write_bytes(changed.read_bytes() + b"\0" * max(0, size - changed.stat().st_size))
    assert torch.equal(open_images(pictures).train.images[40], torch.from_numpy(np.array(flipped)).permute(2, 0, 1))


@pytest.mark.parametrize("what", ["name", "size", "time"])
def test_the_cache_is_rebuilt_if_only_the_name_the_size_or_the_time_of_a_picture_changes(
    pictures: Path, what: str
) -> None:
    picture = pictures / "train" / "bird" / "000.png"
    red, blue = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    red.save(picture, compress_level=0)
    before, stat = open_images(pictures), picture.stat()
    if what == "name":  # the last car becomes the first bird, so that the order stays and the label changes
        last = pictures / "train" / CLASSES[1] / "019.png"
        stat, picture = last.stat(), last.rename(picture.with_name("!.png"))
    else:
        blue.save(picture, compress_level=0 if what == "time" else 9)
    os.utime(picture, ns=(stat.st_atime_ns, stat.st_mtime_ns + (what == "time")))
    assert (picture.stat().st_size != stat.st_size) == (what == "size")
    after = open_images(pictures)
    assert not same(after, before)
    place = 39 if what == "name" else 40
    assert torch.equal(after.train.images[place], pixels_of(picture))
    assert after.train.labels[place] == 2


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04"])
def test_a_cache_that_is_cut_short_or_not_ours_is_made_anew(pictures: Path, content: bytes) -> None:
    right = open_images(pictures)
    (pictures / CACHE).write_bytes(content)
    assert same(open_images(pictures), right)
    assert (pictures / CACHE).stat().st_size > 100_000


def test_a_cache_whose_header_was_damaged_is_made_anew(pictures: Path) -> None:
    right = open_images(pictures)
    content = (pictures / CACHE).read_bytes()
    for shape, shorter in ((b"(24,)", b"(23,)"), (b"(60, 3, 32, 32)", b"(60, 3, 32, 22)")):
        assert content.count(shape) == 1
        (pictures / CACHE).write_bytes(content.replace(shape, shorter))  # numpy reads no further, not up to the CRC
        again = open_images(pictures)
        assert same(again, right)
        assert len(again.test.labels) == 24


def test_a_cache_with_a_pickle_in_it_runs_nothing(pictures: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {proof}",)

    right = open_images(pictures)
    with np.load(pictures / CACHE) as file:
        arrays = dict(file)
    arrays["train_labels"] = np.array([Payload()], dtype=object)
    with (pictures / CACHE).open("wb") as out:
        np.savez(out, allow_pickle=True, **arrays)
    assert same(open_images(pictures), right)
    assert not proof.exists()


def test_where_the_cache_can_not_be_written_training_goes_on_and_a_line_says_so(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / f"{CACHE}.part").mkdir()  # stands in for a read-only folder, which doesn't stop root
    assert len(open_images(pictures).train.labels) == 60
    assert f"Could not write the cache {pictures / CACHE}" in capsys.readouterr().err


def test_pictures_of_any_size_mode_and_turn_become_32_by_32_rgb(tmp_path: Path) -> None:
    def decoded(picture: Image.Image, name: str, **options: Any) -> torch.Tensor:
        picture.save(tmp_path / name, **options)
        image = read_picture(tmp_path / name)
        assert (image.mode, image.size) == ("RGB", (32, 32))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    grey = Image.new("L", (50, 40), 100)
    assert decoded(grey, "grey.png").unique().tolist() == [100]
    assert decoded(grey.convert("P"), "palette.png").unique().tolist() == [100]
    assert decoded(Image.new("CMYK", (64, 64), (0, 0, 0, 0)), "cmyk.jpg").min() >= 250
    assert decoded(Image.fromarray(np.full((9, 9), 100 << 8, dtype=np.uint16)), "16.png").unique().tolist() == [100]
    assert decoded(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), "clear.png").unique().tolist() == [255]
    turned = Image.new("RGB", (32, 32))
    turned.paste((255, 255, 255), (0, 0, 32, 16))  # white above, black below
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise: white is on the right
    image = decoded(turned, "turned.jpg", exif=exif, quality=95).float()
    assert image[:, :, 20:].mean() > 240
    assert image[:, :, :12].mean() < 15


@pytest.mark.parametrize("name", ["a.png", "b.jpg"])
@pytest.mark.parametrize("content", [b"", b"no picture", b"GIF89a"])
def test_a_file_that_is_no_picture_is_named(pictures: Path, name: str, content: bytes) -> None:
    path = pictures / "train" / "bird" / name
    path.write_bytes(content)
    with refused(UserError, "picture-unreadable", str(path)):
        open_images(pictures)


def enlarged(path: Path, side: int) -> bytes:
    """A PNG file whose header says that it is of another size."""
    content = bytearray(path.read_bytes())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_exif_data_and_a_bomb_are_named(pictures: Path) -> None:
    path = pictures / "train" / "bird" / "a.jpg"
    bombs = [enlarged(pictures / "train" / "bird" / "000.png", side) for side in (10_000, 60_000)]
    for content, why in ((damaged_exif(), "damaged"), *((bomb, "million pixels") for bomb in bombs)):
        path.write_bytes(content)
        with refused(UserError, "picture-unreadable", str(path), why):
            open_images(pictures)


def test_a_truncated_picture_is_named(pictures: Path) -> None:
    path = pictures / "test" / "bird" / "000.png"
    path.write_bytes(path.read_bytes()[:-300])
    with refused(UserError, "picture-unreadable", str(path)):
        open_images(pictures)


@pytest.mark.parametrize(("here", "there"), [("train", "test"), ("test", "train")])
def test_a_class_that_is_missing_is_named(pictures: Path, here: str, there: str) -> None:
    for file in (pictures / there / "bird").iterdir():
        file.unlink()
    with refused(UsageError, "data-missing", "'bird'", f"has images in {pictures / here}", str(pictures / there)):
        open_images(pictures)


def test_training_images_that_are_missing_are_named(pictures: Path) -> None:
    (pictures / "train").rename(pictures / "elsewhere")
    with refused(UsageError, "data-missing", str(pictures), "has no folder train"):
        open_images(pictures)


def test_a_split_without_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with refused(UsageError, "data-missing", str(tmp_path / "train")):
        open_images(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: others have no such names")
def test_a_class_whose_name_is_not_utf_8_is_named(pictures: Path) -> None:
    for split in ("train", "test"):
        (pictures / split / "bird").rename(pictures / split / os.fsdecode(b"caf\xe9"))
    with refused(UsageError, "name-not-unicode", "caf"):
        open_images(pictures)
