import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CLASSES, Cli

TUTORIAL = Path("configs/tutorial.yaml").resolve()
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
    assert config["data"]["dataset"] == "folder"  # and not auto: repeated without its images, it must not draw others
    assert report["steps"] == 28
    assert report["parameters"] == 62_006 - 7 * 85
    assert list(report["class_accuracy"]) == ["plane", "car", "bird"]
    assert sum(map(sum, report["confusion_matrix"])) == 8 * len(CLASSES)
    for name in ("config.yaml", "training.png", "confused.png", "confusion.png", "predictions.png"):
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
    run = fit(cli, pictures, tmp_path, "--data.normalize=[[0.4,0.4,0.4],[0.5,0.5,0.5]]")
    checkpoint = run / "checkpoints" / "best.ckpt"
    out = tmp_path / "test"
    result = cli("test", "--ckpt_path", checkpoint, "--data.root", pictures, "--trainer.default_root_dir", out)
    assert result.code == 0, result.err
    again = json.loads((out / "lightning_logs" / "tutorial" / "version_0" / "report.json").read_text())
    assert again["confusion_matrix"] == json.loads((run / "report.json").read_text())["confusion_matrix"]
    page = (out / "lightning_logs" / "tutorial" / "version_0" / "report.html").read_text()
    assert '<th scope="row">optimizer.lr</th><td>0.001</td></tr>' in page  # of the training, by the checkpoint's card


MISTAKES: list[tuple[list[str], str, tuple[str, ...]]] = [
    (["fit", "--data.rooot", "x"], "flag-unknown", ("--data.rooot", "did you mean --data.root?")),
    (["fit", "--trainer.max_epoch=3"], "flag-unknown", ("--trainer.max_epoch;", "did you mean --trainer.max_epochs?")),
    (["fit", "extra"], "flag-unknown", ("extra",)),
    (["fitt"], "command-unknown", ("fitt", "did you mean fit?")),
    (
        ["xyz"],
        "command-unknown",
        ("xyz", "fit, validate, test, predict, show, nets, runs, compare, sweep, export, demo"),
    ),
    (["fit", "--config", "nowhere.yaml"], "recipe-missing", ("--config nowhere.yaml",)),
    (["fit", "--config"], "value-missing", ("--config",)),
    (["fit", "--data.batch_size"], "value-missing", ("--data.batch_size",)),
    (["fit", "--data.batch_size=a"], "value-invalid", ("--data.batch_size", "int")),
    (["fit", "--model.optimizer=SGDD"], "value-invalid", ("--model.optimizer", "SGDD")),
    (
        ["fit", "--model.lr_scheduler=StepLR"],
        "value-missing",
        ("--model.lr_scheduler needs --model.lr_scheduler.step_size",),
    ),
    (["fit", "--trainer.logger=CSVLogger"], "value-missing", ("CSVLogger needs --trainer.logger.save_dir",)),
    (["fit", "--seed_everything=true"], "value-invalid", ("--seed_everything", "int")),
    (["fit", "--seed_everything=-1"], "value-out-of-range", ("--seed_everything", "-1")),
    (["fit", "--trainer.val_check_interval=0"], "value-out-of-range", ("--trainer.val_check_interval",)),
    (["test"], "value-missing", ("--ckpt_path",)),
    (["test", "--ckpt_path", "nowhere.ckpt"], "checkpoint-missing", ("--ckpt_path nowhere.ckpt",)),
    (["test", "--ckpt_path", "last"], "checkpoint-missing", ("last.ckpt",)),
]


@pytest.mark.parametrize(("words", "error", "names"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_gives_one_sentence_and_its_exit_code(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], error: str, names: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli(*words).failed(2, error, *names)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_the_images_is_refused_before_anything_is_written(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    common = ["fit", "--data.root", pictures, "--trainer.default_root_dir", out]
    for words, name in (
        (["--data.val_size=60"], "--data.val_size"),
        (["--data.val_size=6", "--model.net.num_classes=4"], "num_classes 3"),
        (["--data.val_size=6", "--data.batch_size=0"], "--data.batch_size"),
        (["--data.root", pictures / "train" / "bird" / "000.png"], "000.png"),
    ):
        result = cli(*common, *words)
        assert result.code == 2, result
        assert name in result.err
        assert result.err.count("\n") == 1
    assert not out.exists()


def test_a_wrong_key_or_value_of_a_recipe_is_named_with_its_file(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    for content, names in (
        ("data:\n  crp: 1\n", ("data.crp", "did you mean data.crop?")),
        ("traner: {}\n", ("traner",)),
        ("data:\n  crop: many\n", ("data.crop", "many")),
        (
            "model:\n  optimizer:\n    class_path: torch.optim.SGD\n    init_args: {lrr: 1}\n",
            ("model.optimizer", "lrr"),
        ),
        ("model:\n  net: {class_path: torch.nn.Linear}\n", ("model.net", "in_features")),
    ):
        recipe.write_text(content)
        assert cli("fit", "--config", recipe).failed(2, "recipe-invalid", f"--config {recipe}", *names)


def test_of_several_recipes_the_later_count_and_flags_after_them_more(cli: Cli, tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(TUTORIAL.read_text(encoding="utf-8"), encoding="utf-8")
    second.write_text("model:\n  optimizer:\n    init_args:\n      lr: 1e-3\ndata:\n  crop: 1\n  cutout: 2\n")
    result = cli("fit", "--config", first, "--config", second, "--data.cutout=3", "--print_config")
    assert result.code == 0, result.err
    config = yaml.safe_load(result.out)
    assert config["recipe"] == "second"
    assert (config["data"]["crop"], config["data"]["cutout"], config["data"]["batch_size"]) == (1, 3, 4)
    optimizer = config["model"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.SGD"
    assert (optimizer["init_args"]["lr"], optimizer["init_args"]["momentum"]) == (0.001, 0.9)


def test_short_class_names_and_added_callbacks_become_class_paths(cli: Cli) -> None:
    words = ["--model.optimizer=AdamW", "--model.optimizer.lr=0.01", "--model.lr_scheduler=StepLR"]
    words += ["--model.lr_scheduler.step_size=2", "--trainer.callbacks+=EarlyStopping"]
    words += ["--trainer.callbacks.monitor=loss/val", "--trainer.callbacks+=Timer"]
    result = cli("fit", *words, "--print_config")
    assert result.code == 0, result.err
    config = yaml.safe_load(result.out)
    assert config["model"]["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.01
    assert config["model"]["lr_scheduler"]["init_args"]["step_size"] == 2
    callbacks = config["trainer"]["callbacks"]
    assert [each["class_path"].rpartition(".")[2] for each in callbacks] == ["EarlyStopping", "Timer"]
    assert callbacks[0]["init_args"]["monitor"] == "loss/val"


def test_classes_of_a_recipe_take_the_place_of_ours(cli: Cli, tmp_path: Path) -> None:
    parallel = TUTORIAL.with_name("parallel.yaml")
    words = ["--data.init_args.batch_size=50", f"--trainer.default_root_dir={tmp_path}"]
    result = cli("fit", "--config", parallel, *words)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("Outside: input size [50, 5] output size [50, 2]") == 2
    assert not list(tmp_path.iterdir())


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
