"""The layout of a folder is detected automatically, checked, and never trusted."""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from conftest import Cli, refused
from published import FOLDER, NAMES, batch, pickled, publish, tar, write_batches
from torchvision.datasets import CIFAR10, CIFAR100

from lit_cifar.data import cifar
from lit_cifar.data.image_set import CIFAR10_CLASSES
from lit_cifar.data.sources import open_images
from lit_cifar.errors import UsageError, UserError

FILES = {name: pickled(batch(number)) for number, name in enumerate(NAMES)}
ARCHIVE = tar(FILES)
NOWHERE = ("http://127.0.0.1:9/cifar-10-python.tar.gz",)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, FILES, ARCHIVE)


@pytest.mark.parametrize(
    ("published", "size", "theirs", "meta"),
    [
        (cifar.CIFAR10, 170_498_071, CIFAR10, {}),
        (cifar.CIFAR100, 169_001_437, CIFAR100, {CIFAR100.meta["filename"]: CIFAR100.meta["md5"]}),
    ],
)
def test_the_sums_are_those_that_torchvision_lists(
    published: cifar.Published, size: int, theirs: type[CIFAR10], meta: dict[str, str]
) -> None:
    assert list(published.train.items()) == [tuple(pair) for pair in theirs.train_list]
    assert list(published.test.items()) == [tuple(pair) for pair in theirs.test_list]
    assert published.meta == meta
    assert published.archive[:3] == (theirs.filename, size, theirs.tgz_md5)
    assert published.folder == theirs.base_folder
    assert published.mirrors[-1] == theirs.url
    assert all(urlsplit(url).path.endswith(theirs.filename) for url in published.mirrors)


@pytest.mark.parametrize("layout", ["batches", "archive"])
def test_images_labels_and_classes_are_those_of_the_files(tmp_path: Path, layout: str) -> None:
    if layout == "batches":
        write_batches(tmp_path, FILES)
    else:
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(ARCHIVE)
    opened = open_images(tmp_path, mirrors=NOWHERE)
    assert opened.kind == "cifar10"
    assert opened.train.images.shape == (50, 3, 32, 32)
    assert opened.train.images.dtype == torch.uint8
    assert opened.train.labels.dtype == torch.int64
    data = np.concatenate([batch(number)["data"] for number in range(5)])
    assert torch.equal(opened.train.images, torch.from_numpy(data).view(-1, 3, 32, 32))
    assert torch.equal(opened.test.images, torch.from_numpy(batch(5)["data"]).view(-1, 3, 32, 32))
    assert opened.train.labels.tolist() == [x for number in range(5) for x in batch(number)["labels"]]
    assert opened.test.labels.tolist() == batch(5)["labels"]
    assert opened.train.classes == CIFAR10_CLASSES


def test_an_archive_is_unpacked_once_and_nothing_else_of_it(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(ARCHIVE)
    open_images(tmp_path, mirrors=NOWHERE)
    archive.unlink()
    assert open_images(tmp_path, mirrors=NOWHERE).kind == "cifar10"
    assert {path.name for path in (tmp_path / FOLDER).iterdir()} == set(NAMES)


def test_an_archive_of_another_length_or_with_wrong_bytes_is_refused_before_unpacking(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    for content, fault in (
        (ARCHIVE[:-1], f"{len(ARCHIVE) - 1:,} bytes instead of {len(ARCHIVE):,}"),
        (ARCHIVE[:-1] + b"!", hashlib.md5(ARCHIVE).hexdigest()),
    ):
        archive.write_bytes(content)
        with refused(UserError, "archive-damaged", str(archive), fault):
            open_images(tmp_path, mirrors=NOWHERE)
        assert not (tmp_path / FOLDER).exists()


def test_half_an_unpacking_is_never_taken_for_whole(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(ARCHIVE)
    part = tmp_path / f"{FOLDER}.part"
    part.mkdir()
    (part / "data_batch_1").write_bytes(b"half")
    assert len(open_images(tmp_path, mirrors=NOWHERE).train.labels) == 50
    assert not part.exists()


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
def test_a_batch_that_is_damaged_or_missing_is_named(tmp_path: Path, name: str) -> None:
    folder = write_batches(tmp_path, FILES)
    path = folder / name
    damaged = bytearray(FILES[name])
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with refused(UserError, "data-damaged", str(path), f"delete {folder}"):
        open_images(tmp_path)
    path.unlink()
    with refused(UserError, "data-damaged", f"{path} is missing", f"delete {folder}"):
        open_images(tmp_path)


class Payload:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def test_a_batch_that_would_run_code_is_refused_by_its_sum(tmp_path: Path) -> None:
    folder = write_batches(tmp_path, FILES)
    (folder / "data_batch_1").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    with refused(UserError, "data-damaged", str(folder / "data_batch_1"), "MD5"):
        open_images(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_batch_that_would_run_code_is_refused_even_if_its_sum_were_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FILES | {"data_batch_1": pickled(batch(0) | {"filenames": Payload(tmp_path / "executed")})}
    publish(monkeypatch, files, ARCHIVE)
    folder = write_batches(tmp_path, files)
    with refused(UserError, "data-damaged", str(folder / "data_batch_1"), f"{os.system.__module__}.system"):
        open_images(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_real_images_that_can_not_be_downloaded_fail_and_auto_draws_them_and_keeps_the_reason(tmp_path: Path) -> None:
    with refused(UserError, "download-failed", "127.0.0.1"):
        open_images(tmp_path, None, NOWHERE)
    opened = open_images(tmp_path, "auto", NOWHERE)
    assert opened.kind == "drawn"
    assert "127.0.0.1" in opened.why_drawn


def test_auto_takes_what_is_there_and_does_not_draw_over_damage(tmp_path: Path) -> None:
    folder = write_batches(tmp_path, FILES)
    assert open_images(tmp_path, "auto", NOWHERE).kind == "cifar10"
    (folder / "test_batch").unlink()
    with refused(UserError, "data-damaged", str(folder / "test_batch")):
        open_images(tmp_path, "auto", NOWHERE)


def test_pictures_in_other_folders_are_not_downloaded_over(tmp_path: Path) -> None:
    (tmp_path / "Train" / "cat").mkdir(parents=True)
    (tmp_path / "Train" / "cat" / "1.png").write_bytes(b"")
    with refused(UsageError, "data-missing", f"{tmp_path}/train/<class>/"):
        open_images(tmp_path, "auto", NOWHERE)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with refused(UsageError, "data-missing", str(file), "--data.root"):
        open_images(file)


def test_a_root_that_may_not_be_read_is_named(cli: Cli, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: object) -> None:  # the tests may run as root, whom no permission stops
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", forbidden)
    result = cli("show", f"--data.root={pictures}")
    assert result.failed(2, "data-unreadable", f"{pictures}/train", "Permission denied")


@pytest.mark.slow
def test_four_processes_that_start_at_once_on_an_archive_unpack_it_once_and_all_read_it(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(ARCHIVE)
    program = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
import tarfile
from pathlib import Path
import pytest
from published import *
from lit_cifar.data import sources
files = {{name: pickled(batch(number)) for number, name in enumerate(NAMES)}}
root = Path({str(tmp_path)!r})
publish(pytest.MonkeyPatch(), files, (root / "cifar-10-python.tar.gz").read_bytes())
unpack = tarfile.open
tarfile.open = lambda **options: (print("unpacked"), unpack(**options))[1]
print(len(sources.open_images(root).train.labels))
"""
    started = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    printed = "".join(process.communicate(timeout=100)[0] for process in started)
    assert [process.returncode for process in started] == [0] * 4
    assert sorted(printed.split()) == ["50"] * 4 + ["unpacked"]
