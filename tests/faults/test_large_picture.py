"""A picture of more pixels than are opened is refused in one sentence, and Pillow says nothing beside it."""

from pathlib import Path

import pytest
from running import start
from serving import bomb


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (50_000, 50_000)])
def test_a_training_picture_of_too_many_pixels_is_refused_in_one_line(
    pictures: Path, tmp_path: Path, width: int, height: int
) -> None:
    large = pictures / "train" / "bird" / "large.png"
    large.write_bytes(bomb(width, height))
    process = start("fit", "--data.root", pictures, "--trainer.default_root_dir", tmp_path)
    out, err = process.communicate(timeout=500)
    assert (process.returncode, out) == (1, ""), err
    assert err.startswith(f"lit_cifar: {large} ")
    assert err.endswith(" [picture-unreadable]\n")
    assert err.count("\n") == 1
