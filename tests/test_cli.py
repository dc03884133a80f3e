import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CLASSES, Cli

THREE = "--model.net.init_args.num_classes=3"


def fit(cli: Cli, pictures: Path, out: Path, *more: str) -> Path:
    root = ["--data.root", pictures, "--data.val_size=6", "--trainer.default_root_dir", out, THREE, *more]
    result = cli("fit", *root)
    assert result.code == 0, result.err
    assert "Finished training: 2 epochs, 28 steps in" in result.out
    return out / "lightning_logs" / "tutorial" / "version_0"


def test_fit_leaves_report_figures_config_and_checkpoints(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    run = fit(cli, pictures, tmp_path)
    report = json.loads((run / "report.json").read_text())
    assert report["dataset"] == "folder"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["dataset"] == "real"  # and not auto: repeated without its images, it must not draw others
    assert report["steps"] == 28
    assert report["parameters"] == 62_006 - 7 * 85
    assert list(report["class_accuracy"]) == ["plane", "car", "bird"]
    assert sum(map(sum, report["confusion_matrix"])) == 8 * len(CLASSES)
    for name in ("config.yaml", "loss.png", "confusion.png", "predictions.png"):
        assert (run / name).stat().st_size > 0
    for name in ("best", "last"):
        assert torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def test_the_same_seed_gives_bit_identical_weights_and_config_yaml_repeats_the_run(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    first = fit(cli, pictures, tmp_path / "a")
    second = tmp_path / "b"
    assert cli("fit", "--config", first / "config.yaml", "--trainer.default_root_dir", second).code == 0
    weights = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (first, second / "lightning_logs" / "tutorial" / "version_0")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_test_needs_nothing_but_the_checkpoint_and_the_data(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    run = fit(cli, pictures, tmp_path, "--data.mean=[0.4,0.4,0.4]")
    checkpoint = run / "checkpoints" / "best.ckpt"
    out = tmp_path / "test"
    result = cli("test", "--ckpt_path", checkpoint, "--data.root", pictures, "--trainer.default_root_dir", out)
    assert result.code == 0, result.err
    again = json.loads((out / "lightning_logs" / "tutorial" / "version_0" / "report.json").read_text())
    assert again["confusion_matrix"] == json.loads((run / "report.json").read_text())["confusion_matrix"]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["fit", "--data.rooot", "x"], 2, "there is no flag --data.rooot; did you mean --data.root?"),
        (
            ["fit", "--trainer.max_epoch=3"],
            2,
            "there is no flag --trainer.max_epoch; did you mean --trainer.max_epochs?",
        ),
        (["fitt"], 2, "there is no command fitt"),
        (["fit", "--config", "nowhere.yaml"], 2, "--config nowhere.yaml does not exist"),
        (["fit", "--data.batch_size=0"], 2, "--data.batch_size 0 must be at least 1"),
        (["fit", "--data.root", "{pictures}/train/bird/000.png"], 2, "is a file, not a folder"),
        (
            ["fit", "--data.root", "{pictures}", "--data.val_size=60"],
            2,
            "--data.val_size 60 leaves nothing to train on",
        ),
        (["fit", "--data.root", "{pictures}"], 2, "set --model.net.init_args.num_classes 3"),
        (["test"], 2, "test needs --ckpt_path"),
        (["test", "--ckpt_path", "nowhere.ckpt"], 2, "--ckpt_path nowhere.ckpt does not exist"),
        (["test", "--ckpt_path", "{pictures}/train/bird/000.png"], 2, "is not a checkpoint of lit_cifar"),
    ],
)
def test_a_mistake_gives_one_sentence_and_its_exit_code(
    cli: Cli, pictures: Path, tmp_path: Path, words: list[str], code: int, sentence: str
) -> None:
    out = [f"--trainer.default_root_dir={tmp_path}"] if words[0] == "fit" else []
    if words[0] == "fit" and "{pictures}" in words and "--data.val_size=60" not in words:
        out.append("--data.val_size=6")
    result = cli(*[word.replace("{pictures}", str(pictures)) for word in words], *out)
    assert result.code == code, result.err
    assert sentence in result.err
    assert "Traceback" not in result.err
    assert result.err.count("lit_cifar:") == 1


def test_an_undecodable_picture_is_named(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    broken = pictures / "train" / "bird" / "000.png"
    broken.write_bytes(b"not a picture")
    result = cli("fit", "--data.root", pictures, "--trainer.default_root_dir", tmp_path)
    assert result.failed(1, "picture-unreadable", str(broken))


def test_a_class_without_test_images_is_named(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    for file in (pictures / "test" / "bird").iterdir():
        file.unlink()
    result = cli("fit", "--data.root", pictures, "--trainer.default_root_dir", tmp_path)
    assert result.failed(2, "data-missing", "'bird'", str(pictures / "train"), str(pictures / "test"))
