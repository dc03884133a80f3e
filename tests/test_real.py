"""The tutorial recipe on the real images, where they lie in data/."""

import json
from pathlib import Path

import pytest
from conftest import Cli

from lit_cifar import CIFAR10DataModule

ROOT = Path(__file__).parent.parent / "data"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (ROOT / "train").is_dir(), reason="needs CIFAR-10's images: in data/train and data/test"),
]


def test_all_60_000_images_are_found_with_the_tutorial_s_class_names() -> None:
    data = CIFAR10DataModule(str(ROOT))
    assert data.classes == ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert data.images.train.images.shape == (50_000, 3, 32, 32)
    assert data.images.train.labels.bincount().tolist() == [5000] * 10
    assert data.images.test.labels.bincount().tolist() == [1000] * 10
    assert [len(indices) for indices in data.split()] == [45_000, 5_000]


@pytest.mark.slow
def test_the_tutorial_recipe_reaches_52_percent(cli: Cli, tmp_path: Path) -> None:
    result = cli("fit", "--data.root", ROOT, f"--trainer.default_root_dir={tmp_path}")
    assert result.code == 0, result.err
    assert "epoch 2/2, step 21,250  loss 1." in result.out
    report = json.loads((tmp_path / "lightning_logs" / "tutorial" / "version_0" / "report.json").read_text())
    assert report["parameters"] == 62_006
    assert report["steps"] == 22_500
    assert report["test_accuracy"] > 0.52  # 53.6 to 54.7 % with three seeds
    assert sum(map(sum, report["confusion_matrix"])) == 10_000
