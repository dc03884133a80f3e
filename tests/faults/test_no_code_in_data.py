"""Batches, archives and caches made to run code, write outside the folder or fill memory do none of it."""

import io
import pickle
import tarfile
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from evil import Payload, evil
from published import FOLDER, NAMES, batch, pickled, publish, tar, write_batches

from lit_cifar.data.image_folder import CACHE
from lit_cifar.data.sources import open_images

__all__ = ["evil"]  # a fixture

FILES = {name: pickled(batch(number)) for number, name in enumerate(NAMES)}


@pytest.mark.parametrize("name", [*NAMES, "batches.meta"])
def test_a_payload_in_any_file_of_cifar_10_is_not_run(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    publish(monkeypatch, FILES, tar(FILES))
    folder = write_batches(tmp_path, FILES)
    (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "executed"), protocol=2))
    result = cli("show", f"--data.root={tmp_path}", "--data.val_size=5", f"--output={tmp_path / 'show.png'}")
    if name == "batches.meta":  # nothing reads it
        assert result.code == 0, result.err
    else:
        assert result.failed(1, "data-damaged", str(folder / name))
    assert not (tmp_path / "executed").exists()


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        for info, content in members:
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", content: bytes = b"") -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, content


REGULAR = [member(f"{FOLDER}/{name}", content=content) for name, content in FILES.items()]
FIRST = f"{FOLDER}/{NAMES[0]}"
ONLY_BY_LINK = {
    "symbolic": member(FIRST, tarfile.SYMTYPE, "/etc/passwd"),
    "symbolic inside": member(FIRST, tarfile.SYMTYPE, NAMES[1]),
    "hard": member(FIRST, tarfile.LNKTYPE, f"{FOLDER}/{NAMES[1]}"),
    "hard outside": member(FIRST, tarfile.LNKTYPE, "../../../etc/passwd"),
    "fifo": member(FIRST, tarfile.FIFOTYPE),
    "device": member(FIRST, tarfile.CHRTYPE),
    "folder": member(FIRST, tarfile.DIRTYPE),
    "outside": member(f"../{FIRST}", content=FILES[NAMES[0]]),
    "absolute": member(f"/{FIRST}", content=FILES[NAMES[0]]),
}


@pytest.mark.parametrize("kind", ONLY_BY_LINK)
def test_an_archive_whose_members_are_no_files_is_refused_before_anything_is_written(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    assert_refused(cli, tmp_path, monkeypatch, archive(*REGULAR[1:], ONLY_BY_LINK[kind]), FIRST)


def assert_refused(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, *names: str) -> None:
    """Expects that an archive is refused although its MD5 is right."""
    publish(monkeypatch, FILES, content)
    root = folder / "in" / "root"
    root.mkdir(parents=True)
    (root / "cifar-10-python.tar.gz").write_bytes(content)
    result = cli("show", f"--data.root={root}", f"--output={folder / 'show.png'}")
    assert result.failed(1, "archive-damaged", str(root / "cifar-10-python.tar.gz"), *names)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")} - {"in/root/.lit_cifar.lock"}
    assert left == {"in", "in/root", "in/root/cifar-10-python.tar.gz"}


@pytest.mark.slow
def test_a_hundred_gigabytes_of_zeros_are_refused_in_an_archive(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tarfile.TarInfo(FIRST)
    info.size = 100 * 10**9
    packer = zlib.compressobj(1, wbits=31)
    header = packer.compress(info.tobuf(tarfile.GNU_FORMAT)) + packer.flush()
    packer = zlib.compressobj(1, wbits=31)
    zeros = packer.compress(bytes(10**8)) + packer.flush()
    assert_refused(cli, tmp_path, monkeypatch, header + zeros * 1000, "200,000,000 bytes")


@pytest.mark.parametrize("content", [archive(*REGULAR)[:-100], b"\x1f\x8b\x08\0", b"no gzip"], ids=[*"abc"])
def test_an_archive_that_can_not_be_unpacked_is_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    assert_refused(cli, tmp_path, monkeypatch, content)


def test_of_an_archive_nothing_is_written_but_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = (
        member("../outside", content=b"1"),
        member(str(tmp_path / "absolute"), content=b"1"),
        member("link", tarfile.SYMTYPE, str(tmp_path)),
        member("link/through", content=b"1"),
        member(f"{FOLDER}/../../up", content=b"1"),
    )
    content = archive(*others, *REGULAR)
    publish(monkeypatch, FILES, content)
    root = tmp_path / "in" / "root"
    root.mkdir(parents=True)
    (root / "cifar-10-python.tar.gz").write_bytes(content)
    assert len(open_images(root).train.labels) == 50
    files = {path.name for path in tmp_path.rglob("*") if not path.is_dir()}
    assert files - {".lit_cifar.lock"} == {"cifar-10-python.tar.gz", *NAMES}


def test_a_cache_that_is_larger_unpacked_is_not_unpacked(pictures: Path) -> None:
    right = open_images(pictures).train.images
    np.savez_compressed(pictures / CACHE, fingerprint=np.zeros(2 * 10**8, dtype=np.uint8))
    tracemalloc.start()
    again = open_images(pictures).train.images
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert torch.equal(again, right)
    assert peak < 10**8
