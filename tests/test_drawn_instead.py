"""What the bare command does on a machine with no data and no network."""

import json
from pathlib import Path

import yaml
from conftest import Cli

NO_MIRROR = "--data.mirrors=http://127.0.0.1:9/cifar-10-python.tar.gz"


def test_the_bare_command_trains_on_drawn_images_and_says_so(cli: Cli, tmp_path: Path) -> None:
    root = f"--data.root={tmp_path / 'data'}"
    result = cli("fit", root, NO_MIRROR, "--trainer.max_steps=20", f"--trainer.default_root_dir={tmp_path}")
    assert result.code == 0, result.err
    before, _, after = result.out.partition("Finished training")
    assert "SYNTHETIC IMAGES" in before
    assert "SYNTHETIC IMAGES" in after
    assert "Accuracy per class on the synthetic data set" in after
    run = tmp_path / "lightning_logs" / "tutorial-drawn" / "version_0"
    report = json.loads((run / "report.json").read_text())
    assert report["dataset"] == "drawn"
    assert "127.0.0.1:9: connection refused" in report["drawn_because"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "SYNTHETIC IMAGES" in page
    assert "127.0.0.1:9: connection refused" in page
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["dataset"] == "drawn"


def test_a_recipe_fails_instead_and_names_what_was_tried(cli: Cli, tmp_path: Path) -> None:
    recipe = Path(__file__).parent.parent / "configs" / "tutorial.yaml"
    root = f"--data.root={tmp_path / 'data'}"
    result = cli("fit", "--config", recipe, root, NO_MIRROR, f"--trainer.default_root_dir={tmp_path}")
    assert result.code == 1
    assert "could not be downloaded (127.0.0.1:9: connection refused)" in result.err
    assert "--data.dataset drawn" in result.err
    assert not (tmp_path / "lightning_logs").exists()
