"""CIFAR-100 as published, and which of several data sets in a folder is taken."""

import io
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Cli, paint_pictures, refused
from mirrors import Mirror, Request, Start, mirror, no_proxy
from PIL import Image
from published import (
    COARSE_NAMES,
    NAMES,
    batch,
    cifar100_files,
    cifar100_part,
    pickled,
    publish,
    tar,
    write_batches,
)

from lit_cifar import CIFAR10DataModule
from lit_cifar.data.cifar import CIFAR100, Labels
from lit_cifar.data.image_set import CIFAR10_CLASSES, CIFAR100_CLASSES
from lit_cifar.data.sources import Dataset, open_images
from lit_cifar.errors import UsageError, UserError
from lit_cifar.runs.card import RunCard

__all__ = ["mirror", "no_proxy"]  # fixtures

FILES = cifar100_files()
ARCHIVE = tar(FILES, CIFAR100.folder)
FILES_OF_10 = {name: pickled(batch(number)) for number, name in enumerate(NAMES)}
ARCHIVE_OF_10 = tar(FILES_OF_10)
NOWHERE = ("http://127.0.0.1:9/cifar-100-python.tar.gz",)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, FILES, ARCHIVE, "cifar100")
    publish(monkeypatch, FILES_OF_10, ARCHIVE_OF_10)


def write_archives(root: Path, *names: str) -> Path:
    root.mkdir(exist_ok=True)
    for name in names:
        (root / f"{name}-python.tar.gz").write_bytes(ARCHIVE if name == "cifar-100" else ARCHIVE_OF_10)
    return root


def paint(root: Path, classes: Sequence[str]) -> Path:
    """A folder with one picture of each class."""
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(root / split / name / "1.png")
    return root


@pytest.mark.parametrize("labels", ["fine", "coarse"])
@pytest.mark.parametrize("layout", ["files", "archive"])
def test_images_labels_and_class_names_are_those_of_the_files(tmp_path: Path, layout: str, labels: Labels) -> None:
    if layout == "files":
        write_batches(tmp_path, FILES, CIFAR100.folder)
    else:
        write_archives(tmp_path, "cifar-100")
    data = CIFAR10DataModule(str(tmp_path), labels=labels)
    assert data.images.kind == "cifar100"
    for split, count, found in (("train", 300, data.images.train), ("test", 100, data.images.test)):
        part = cifar100_part(split, count)
        assert torch.equal(found.images, torch.from_numpy(part["data"]).view(-1, 3, 32, 32))
        assert found.labels.tolist() == part[f"{labels}_labels"]
        assert found.labels.dtype == torch.int64
    assert data.classes == (CIFAR100_CLASSES if labels == "fine" else tuple(COARSE_NAMES.split()))
    assert data.title == ("CIFAR-100" if labels == "fine" else "CIFAR-100 (coarse labels)")
    assert {path.name for path in (tmp_path / CIFAR100.folder).iterdir()} == {"train", "test", "meta"}


def test_a_download_of_cifar_100_goes_on_where_it_broke_off(
    tmp_path: Path, mirror: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(request: Request) -> None:
        request.head_from(request.start(), len(ARCHIVE))
        request.wfile.write(ARCHIVE[request.start() :][: len(ARCHIVE) // 2 + 1])

    server = mirror(answer)
    assert open_images(tmp_path, "cifar100", [server.url]).kind == "cifar100"
    assert server.ranges == [None, f"bytes={len(ARCHIVE) // 2 + 1}-"]
    assert capsys.readouterr().err == f"Downloading CIFAR-100 ({len(ARCHIVE) / 1e6:.0f} MB) from {server.host}\n"


def test_a_data_set_that_is_named_and_can_not_be_downloaded_is_never_drawn(tmp_path: Path) -> None:
    with refused(UserError, "download-failed", "CIFAR-100", "cifar-100-python.tar.gz"):
        open_images(tmp_path, "cifar100", NOWHERE)


def test_of_two_data_sets_in_a_folder_cifar_10_is_taken_unless_the_other_is_named(tmp_path: Path) -> None:
    write_archives(tmp_path, "cifar-10", "cifar-100")
    taken: dict[Dataset | None, str] = {
        None: "cifar10",
        "auto": "cifar10",
        "cifar10": "cifar10",
        "cifar100": "cifar100",
    }
    assert {dataset: open_images(tmp_path, dataset, NOWHERE).kind for dataset in taken} == taken
    paint(tmp_path, ["cat", "dog"])
    taken |= {None: "folder", "auto": "folder", "folder": "folder"}
    assert {dataset: open_images(tmp_path, dataset, NOWHERE).kind for dataset in taken} == taken


def test_a_data_set_that_is_named_is_downloaded_beside_the_other(tmp_path: Path, mirror: Start) -> None:
    def sends(archive: bytes) -> Mirror:
        def answer(request: Request) -> None:
            request.head_from(0, len(archive))
            request.wfile.write(archive)

        return mirror(answer)

    ten = write_batches(tmp_path / "10", FILES_OF_10).parent
    assert open_images(ten, "cifar100", [sends(ARCHIVE).url]).kind == "cifar100"
    hundred = write_archives(tmp_path / "100", "cifar-100")
    assert open_images(hundred, "cifar10", [sends(ARCHIVE_OF_10).url]).kind == "cifar10"
    for root in (ten, hundred):
        kinds = [open_images(root, name, NOWHERE).kind for name in (None, "cifar10", "cifar100")]
        assert kinds == ["cifar10", "cifar10", "cifar100"]


def test_a_folder_with_another_data_set_than_named_is_refused_and_says_what_it_holds(tmp_path: Path) -> None:
    hundred = write_archives(tmp_path / "100", "cifar-100")
    others = paint_pictures(tmp_path / "pictures")
    before = sorted(tmp_path.rglob("*"))
    with refused(UsageError, "data-other", str(hundred), "CIFAR-100", "train/<class>/"):
        open_images(hundred, "folder", NOWHERE)
    with refused(UsageError, "data-other", str(others), "CIFAR-10", "no class cat"):
        open_images(others, "cifar10", NOWHERE)
    with refused(UsageError, "data-missing", "train/<class>/"):
        open_images(tmp_path / "empty", "folder", NOWHERE)
    assert sorted(tmp_path.rglob("*")) == before


def test_pictures_of_exactly_the_classes_of_a_data_set_may_stand_for_it(tmp_path: Path) -> None:
    names = ["airplane", "automobile", *CIFAR10_CLASSES[2:]]
    assert open_images(paint(tmp_path / "10", names), "cifar10", NOWHERE).train.classes == CIFAR10_CLASSES
    opened = open_images(paint(tmp_path / "100", CIFAR100_CLASSES), "cifar100", NOWHERE)
    assert (opened.kind, opened.test.classes) == ("folder", CIFAR100_CLASSES)
    paint(tmp_path / "10", ["lynx"])
    with refused(UsageError, "data-other", "no class lynx"):
        open_images(tmp_path / "10", "cifar10", NOWHERE)


def test_an_archive_under_the_name_of_the_other_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(ARCHIVE)
    with refused(UserError, "archive-damaged", "archive of CIFAR-100", "rename it to cifar-100-python.tar.gz"):
        open_images(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["cifar-10-python.tar.gz"]


def test_the_unpacked_folder_itself_is_no_root(tmp_path: Path) -> None:
    folder = write_batches(tmp_path, FILES, CIFAR100.folder)
    with refused(UsageError, "data-missing", "CIFAR-100", f"--data.root {tmp_path}"):
        open_images(folder, mirrors=NOWHERE)


def test_files_of_cifar_10_are_not_those_of_cifar_100(tmp_path: Path) -> None:
    folder = write_batches(tmp_path, FILES_OF_10, CIFAR100.folder)
    with refused(UserError, "data-damaged", str(folder), "is missing"):
        open_images(tmp_path)
    for name, other in zip(FILES, FILES_OF_10.values(), strict=False):
        (folder / name).write_bytes(other)
    with refused(UserError, "data-damaged", str(folder), "MD5"):
        open_images(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_damaged_or_would_run_code_is_named_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = write_batches(tmp_path, FILES, CIFAR100.folder)
    (folder / name).write_bytes(FILES[name][:-1])
    with refused(UserError, "data-damaged", str(folder / name), "MD5"):
        open_images(tmp_path)
    evil = pickle.dumps({"data": Payload(tmp_path / "executed")}, protocol=2)
    (folder / name).write_bytes(evil)
    publish(monkeypatch, FILES | {name: evil}, ARCHIVE, "cifar100")  # as if its MD5 were right
    with refused(UserError, "data-damaged", str(folder / name), "exec"):
        open_images(tmp_path)
    assert not (tmp_path / "executed").exists()


class Payload:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.proof)!r}, 'w')",)


@pytest.mark.parametrize("names", [["cat"] * 100, [*range(100)]])
def test_class_names_that_are_not_different_words_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[Any]
) -> None:
    files = FILES | {"meta": pickled({"fine_label_names": names})}
    publish(monkeypatch, files, ARCHIVE, "cifar100")
    folder = write_batches(tmp_path, files, CIFAR100.folder)
    with refused(UserError, "data-damaged", str(folder / "meta"), "names"):
        open_images(tmp_path)


def test_a_link_in_place_of_a_file_of_the_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO(tar({name: FILES[name] for name in ("train", "test")}, CIFAR100.folder))
    with tarfile.open(fileobj=out) as archive, tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as evil:
        for member in archive:
            evil.addfile(member, archive.extractfile(member))
        link = tarfile.TarInfo(f"{CIFAR100.folder}/meta")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        evil.addfile(link)
    publish(monkeypatch, FILES, (tmp_path / "cifar-100-python.tar.gz").read_bytes(), "cifar100")
    with refused(UserError, "archive-damaged", f"{CIFAR100.folder}/meta"):
        open_images(tmp_path)
    assert not (tmp_path / CIFAR100.folder).exists()


def test_coarse_labels_of_anything_else_are_refused_before_anything_is_written(cli: Cli, tmp_path: Path) -> None:
    roots = [write_archives(tmp_path / "10", "cifar-10"), paint(tmp_path / "pictures", "ab"), tmp_path / "empty"]
    before = sorted(tmp_path.rglob("*"))
    for words in ([f"--data.root={root}"] for root in roots):
        with refused(UsageError, "value-invalid", "--data.labels coarse", "--data.dataset cifar100"):
            open_images(Path(words[0].partition("=")[2]), None, NOWHERE, "coarse")
    words = ["--data.dataset=drawn", "--data.labels=coarse", f"--trainer.default_root_dir={tmp_path}"]
    assert cli("fit", *words).failed(2, "value-invalid", "--data.labels coarse", "synthetic")
    assert sorted(tmp_path.rglob("*")) == before


def test_real_is_asked_what_it_means(cli: Cli, tmp_path: Path) -> None:
    result = cli("show", "--data.dataset=real")
    assert result.failed(2, "value-invalid", "--data.dataset real", "folder or drawn", "did you mean cifar10")
    assert "Literal" not in result.err
    assert cli("show", "--data.dataset=cifar_10").failed(2, "value-invalid", "did you mean cifar10?")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {dataset: real}")
    assert cli("fit", "--config", recipe).failed(2, "recipe-invalid", str(recipe), "did you mean cifar10")
    unknown: Any = "real"
    with refused(UsageError, "value-invalid", "did you mean cifar10"):
        _ = CIFAR10DataModule(str(tmp_path), unknown).images


def test_a_card_from_before_cifar_100_has_fine_labels() -> None:
    description: dict[str, Any] = {"class_path": "torch.nn.Identity", "init_args": {}}
    values: dict[str, Any] = dict.fromkeys(("net", "augmentation", "optimizer", "loss", "trainer"), description)
    values |= {
        **dict.fromkeys(("recipe", "test_time_augmentation"), "none"),
        **{name: [] for name in ("classes", "mean", "std", "sides")},
        **dict.fromkeys(("images", "val_size", "batch_size", "seed", "slice_size", "confidence_threshold"), 1),
        "lr_scheduler": None,
    }
    for kind in ("cifar10", "folder", "drawn"):
        card = RunCard.from_dict(values | {"dataset": kind})
        assert (card.dataset, card.labels) == (kind, "fine")
    with pytest.raises(ValueError, match="labels"):
        RunCard.from_dict(values | {"dataset": "cifar100", "labels": "large"})


@pytest.mark.slow
def test_a_run_on_coarse_labels_is_tested_and_repeated_with_them_and_not_resumed_with_others(
    cli: Cli, tmp_path: Path
) -> None:
    root = f"--data.root={write_archives(tmp_path / 'data', 'cifar-10', 'cifar-100')}"
    place = f"--trainer.default_root_dir={tmp_path}"
    words = ("--data.dataset=cifar100", "--data.batch_size=30", "--data.val_size=60", place, "--trainer.max_epochs=1")
    assert cli("fit", root, *words, "--data.labels=coarse").code == 0
    run = tmp_path / "lightning_logs" / "tutorial" / "version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["data"]["dataset"], config["data"]["labels"]) == ("cifar100", "coarse")
    tested = cli("test", root, place, "--ckpt_path=best")
    assert "CIFAR-100 (coarse labels)" in tested.out
    assert "large_man-made_outdoor_things" in tested.out
    again = cli("fit", root, *words, "--resume=auto", "--data.labels=fine")
    assert again.failed(2, "checkpoint-of-another-training", "--data.labels (coarse, now fine)")
    predicted = cli("predict", paint(tmp_path / "pictures", "a"), place, "--ckpt_path=best")
    assert any(name in predicted.out for name in COARSE_NAMES.split()), predicted
    repeated = cli("fit", "--config", run / "config.yaml", root, place, "--resume=auto", "--trainer.max_epochs=2")
    assert repeated.code == 0, repeated.err
