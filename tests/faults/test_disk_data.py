"""A disk that fills up while images are downloaded, unpacked or decoded: one sentence, and the next start is clean."""

import random
import re
import shutil
from pathlib import Path

import pytest
from conftest import Cli, paint_pictures
from published import FOLDER, NAMES, publish, tar
from test_disk import fill
from test_together import FILES, archive, mirror

__all__ = ["archive", "mirror"]  # fixtures


@pytest.mark.slow
def test_wherever_the_disk_fills_up_before_training_the_next_start_is_clean(
    cli: Cli, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: tuple[str, list[str]]
) -> None:
    content = tar(FILES)
    publish(monkeypatch, FILES, content)
    needed = (len(content) + sum(map(len, FILES.values()))) // 1000
    chance, told = random.Random(0), set[bool]()
    for number in range(30):
        root = small_disk / f"data {number}"
        data = (f"--data.root={root}", "--data.val_size=10", f"--data.mirrors={mirror[0]}")
        words = ("show", *data, f"--output={tmp_path / 'show.png'}")
        fill(small_disk, chance.randrange(needed))
        result = cli(*words)
        assert result.code == 1, result
        *before, sentence = result.err.splitlines()
        assert sentence.startswith("lit_cifar: "), result.err
        assert [line.split()[0] for line in before] in ([], ["Downloading"]), result.err
        assert f"{root} " in result.err, result.err
        assert re.search(r"[\d,]+ kB are free\b", result.err), result.err
        told.add((root / "cifar-10-python.tar.gz").exists())
        assert not (root / FOLDER).exists()
        (small_disk / "filler").unlink()
        assert cli(*words).code == 0
        assert {path.name for path in (root / FOLDER).iterdir()} >= set(NAMES)
        shutil.rmtree(root)
    assert told == {True, False}  # it was full while downloading, and while unpacking


@pytest.mark.slow
def test_wherever_the_disk_fills_up_while_a_cache_is_written_it_is_written_next_time(
    cli: Cli, small_disk: Path, tmp_path: Path
) -> None:
    chance = random.Random(0)
    for number in range(10):
        root = paint_pictures(small_disk / f"pictures {number}")
        words = ("show", f"--data.root={root}", "--data.val_size=6", f"--output={tmp_path / 'show.png'}")
        fill(small_disk, chance.randrange(200))
        full = cli(*words)
        assert full.code == 0, full.err
        assert full.err.startswith("Could not write the cache"), full.err
        first = (tmp_path / "show.png").read_bytes()
        (small_disk / "filler").unlink()
        for _ in range(2):
            again = cli(*words)
            assert (again.code, again.err) == (0, "")
            assert (tmp_path / "show.png").read_bytes() == first
        shutil.rmtree(root)
