"""A disk that is full: one sentence that names the folder, and nothing already written is lost."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cli
from running import DRAWN, RUN, last_checkpoint, run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("free", [8, 100, 700])
def test_a_full_disk_ends_the_run_with_a_sentence_that_names_the_folder(cli: Cli, small_disk: Path, free: int) -> None:
    (small_disk / "filler").write_bytes(bytes((4096 - free) * 1024))
    result = cli(*DRAWN, "--trainer.max_steps=20", "--trainer.default_root_dir", small_disk)
    assert result.code == 1, result.out
    assert "No space left on device" in result.err
    assert str(small_disk) in result.err or "the run folder" in result.err
    assert "Traceback" not in result.err
    assert result.err.count("\n") == 1


def test_the_checkpoint_before_the_disk_was_full_is_intact_and_used(cli: Cli, small_disk: Path) -> None:
    words = (*DRAWN, "--data.batch_size=200", "--trainer.default_root_dir", small_disk)
    run(*words, "--trainer.max_epochs=1")
    before = last_checkpoint(small_disk)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    failed = cli(*words, "--trainer.max_epochs=2", "--ckpt_path=last")
    assert failed.code == 1
    assert "No space left on device" in failed.err
    assert last_checkpoint(small_disk)["global_step"] == before["global_step"]
    filler.unlink()
    assert cli(*words, "--trainer.max_epochs=2", "--ckpt_path=last").code == 0
    assert last_checkpoint(small_disk)["global_step"] == 2 * before["global_step"]
    assert [path.name for path in (small_disk / RUN).parent.iterdir()] == ["version_0"]
