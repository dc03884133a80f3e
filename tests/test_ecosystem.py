"""Lightning's own loggers, callbacks, finders, profilers and flags do on our command line what they do elsewhere."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import Cli, Result, paint_pictures
from running import curves_in, shown_settings, start

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.nets.tutorial import Net
from lit_cifar.report.finders import BETA, smoothed

CALLBACK = "--trainer.callbacks+="
RUN = Path("lightning_logs", "tutorial", "version_0")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_pictures(tmp_path_factory.mktemp("small") / "pictures")


@pytest.fixture
def fit(cli: Cli, root: Path, tmp_path: Path) -> Any:
    """Trains the tutorial recipe for two epochs of 14 steps."""

    def call(*flags: str, epochs: int = 2) -> Result:
        data = ("--data.root", root, "--data.val_size=6", "--model.net.init_args.num_classes=3")
        return cli("fit", *data, f"--trainer.default_root_dir={tmp_path}", f"--trainer.max_epochs={epochs}", *flags)

    return call


def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / RUN / "report.json").read_text())
    return content


def test_a_logger_stands_beside_tensorboard_and_the_run_resumes(fit: Any, tmp_path: Path) -> None:
    logger = ("--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'csv'}")
    result = fit(*logger, epochs=1)
    assert (result.code, result.err) == (0, "")
    assert {"report.json", "config.yaml", "checkpoints"} <= {path.name for path in (tmp_path / RUN).iterdir()}
    with next(tmp_path.glob("csv/**/version_0/metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["loss/val"]] == ["14"]
    assert float(rows[-1]["accuracy/test"]) == pytest.approx(report(tmp_path)["test_accuracy"])
    curves = {f"{value}/{stage}" for value in ("loss", "accuracy") for stage in ("train", "val", "test")}
    curves |= {"lr", "fit_seconds", "val_class/bird", "val_class/car", "val_class/plane"}
    assert rows[0].keys() == curves | {"step"}

    again = fit(*logger, "--resume=auto")
    assert (again.code, again.err) == (0, "")
    assert report(tmp_path)["epochs"] == 2
    assert not (tmp_path / RUN).with_name("version_1").exists()
    assert shown_settings(tmp_path / RUN).items() >= {"epochs": 2, "batch_size": 4, "optimizer.lr": 0.001}.items()
    steps = {name: [step for step, _ in points] for name, points in curves_in(tmp_path / RUN).items()}
    assert steps.keys() == curves
    assert (steps["accuracy/val"], steps["accuracy/test"], steps["lr"]) == ([14, 28, 29], [29], [14, 28])


@pytest.mark.slow
def test_a_tensorboard_logger_of_ones_own_stands_beside_ours(fit: Any, tmp_path: Path) -> None:
    logger = ("--trainer.logger=TensorBoardLogger", f"--trainer.logger.save_dir={tmp_path / 'tb'}")
    for epochs in (1, 2):
        result = fit(*logger, "--resume=auto", epochs=epochs)
        assert (result.code, result.err) == (0, "")
    assert report(tmp_path)["steps"] == 28
    assert [path.name for path in (tmp_path / RUN).parent.iterdir()] == ["version_0"]
    first, second = sorted({path.parent for path in tmp_path.glob("tb/**/events.*")})
    assert shown_settings(second) == shown_settings(tmp_path / RUN) == shown_settings(first) | {"epochs": 2}
    assert "hp_metric" not in curves_in(second)


@pytest.mark.slow
def test_without_a_logger_a_run_resumes_from_its_checkpoints(fit: Any, tmp_path: Path) -> None:
    assert fit("--trainer.logger=false", epochs=1).code == 0
    result = fit("--trainer.logger=false", "--resume=auto")
    assert result.code == 0, result.err
    assert "Finished training: 2 epochs, 28 steps" in result.out
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_callbacks_of_lightning_work_together_and_warn_of_nothing(fit: Any, tmp_path: Path) -> None:
    result = fit(
        f"{CALLBACK}EarlyStopping",
        "--trainer.callbacks.monitor=accuracy/val",
        "--trainer.callbacks.min_delta=2",
        "--trainer.callbacks.patience=1",
        f"{CALLBACK}LearningRateMonitor",
        f"{CALLBACK}Timer",
        "--trainer.callbacks.duration=00:00:10:00",
        f"{CALLBACK}ModelCheckpoint",
        "--trainer.callbacks.filename=mine",
        f"{CALLBACK}StochasticWeightAveraging",
        "--trainer.callbacks.swa_lrs=0.01",
        epochs=5,
    )
    assert (result.code, result.err) == (0, "")
    assert "2 epochs, 28 steps in" in result.out
    names = sorted(path.name for path in (tmp_path / RUN / "checkpoints").iterdir())
    assert names == [".lock", "best.ckpt", "last.ckpt", "mine.ckpt"]


def test_half_epochs_and_accumulated_batches_are_counted_rightly(fit: Any, tmp_path: Path) -> None:
    result = fit("--trainer.limit_train_batches=0.5", "--trainer.accumulate_grad_batches=4")
    assert (result.code, result.err) == (0, "")
    trained = report(tmp_path)
    assert (trained["epochs"], trained["steps"]) == (2, 4)
    assert trained["images_per_second"] * trained["train_seconds"] == pytest.approx(2 * 7 * 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ((f"{CALLBACK}EarlyStopping", "--trainer.callbacks.monitor=loss/val"), 28),
        ((f"{CALLBACK}RichProgressBar",), 28),
        ((f"{CALLBACK}WeightAveraging",), 28),
        (("--trainer.val_check_interval=0.5", "--trainer.gradient_clip_val=1"), 28),
        (("--trainer.detect_anomaly=true", "--trainer.precision=bf16-mixed"), 28),
        (("--trainer.max_time=00:00:10:00", "--trainer.deterministic=true"), 28),
        (("--trainer.fast_dev_run=true",), 1),
    ],
)
def test_flags_of_lightning_work_and_warn_of_nothing(fit: Any, flags: tuple[str, ...], steps: int) -> None:
    result = fit(*flags)
    assert (result.code, result.err) == (0, "")
    assert f", {steps} step{'' if steps == 1 else 's'} in" in result.out


def test_averaged_weights_are_those_validated_kept_and_tested(cli: Cli, fit: Any, root: Path, tmp_path: Path) -> None:
    ema = (f"{CALLBACK}EMAWeightAveraging", "--trainer.callbacks.decay=0.5", "--model.optimizer.lr=0.01")
    result = fit(*ema, "--trainer.logger+=CSVLogger", f"--trainer.logger.save_dir={tmp_path}", epochs=1)
    assert (result.code, result.err) == (0, "")
    checkpoint = torch.load(tmp_path / RUN / "checkpoints" / "last.ckpt", weights_only=True)
    name = "net.fc3.weight"
    assert not torch.equal(checkpoint["state_dict"][name], checkpoint["current_model_state"][name])

    weights = LitClassifier.load_from_checkpoint(tmp_path / RUN / "checkpoints" / "last.ckpt")
    data = CIFAR10DataModule(str(root), val_size=6)
    held_out = data.split()[1]
    images, labels = data.images.train.images[held_out], data.images.train.labels[held_out]
    loss = -weights.predict(images)[torch.arange(6), labels].log().mean()
    with next(tmp_path.glob("lightning_logs/version_*/metrics.csv")).open() as file:
        (logged,) = [float(row["loss/val"]) for row in csv.DictReader(file) if row["loss/val"]]
    assert logged == pytest.approx(float(loss), rel=1e-4)
    test = data.images.test
    right = float((weights.predict(test.images).argmax(1) == test.labels).float().mean())
    assert report(tmp_path)["test_accuracy"] == pytest.approx(right)


def test_the_learning_rate_found_is_used_told_and_drawn(fit: Any, tmp_path: Path) -> None:
    schedule = ("--model.lr_scheduler=CosineAnnealingLR", "--model.lr_scheduler.T_max=9")
    result = fit(f"{CALLBACK}LearningRateFinder", "--trainer.callbacks.num_training_steps=40", *schedule, epochs=5)
    assert (result.code, result.err) == (0, "")
    found = float(result.out.split("learning rate ")[1].split(",")[0])
    checkpoint = torch.load(tmp_path / RUN / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 70
    assert checkpoint["lr_schedulers"][0]["base_lrs"] == pytest.approx([found], rel=0.05)
    expected = found * (1 + math.cos(math.pi * 5 / 9)) / 2
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(expected, rel=0.05)
    assert (tmp_path / RUN / "lr_finder.png").stat().st_size > 0
    assert report(tmp_path)["steps"] == 70

    resumed = fit(f"{CALLBACK}LearningRateFinder", *schedule, "--resume=auto", epochs=6)
    assert (resumed.code, resumed.err) == (0, "")
    assert "LearningRateFinder" not in resumed.out
    again = torch.load(tmp_path / RUN / "checkpoints" / "last.ckpt", weights_only=True)
    assert again["lr_schedulers"][0]["base_lrs"] == checkpoint["lr_schedulers"][0]["base_lrs"]


def test_the_losses_behind_lightnings_running_mean_are_found_again() -> None:
    losses = torch.linspace(3, 1, 15).tolist()
    mean, means = 0.0, []
    for i, loss in enumerate(losses):
        mean = BETA * mean + (1 - BETA) * loss
        means.append(mean / (1 - BETA ** (i + 2)))
    assert smoothed(means).tolist() == pytest.approx(losses)


def test_one_learning_rate_for_an_optimizer_of_several_is_refused(fit: Any) -> None:
    result = fit(f"{CALLBACK}LearningRateFinder", "--model.optimizer=lit_cifar.training.optimizers.Muon")
    assert result.code == 2
    assert all(name in result.err for name in ("LearningRateFinder", "Muon", "0.001", "106.0", "1340.0"))


def test_the_batch_size_found_is_used_and_told(fit: Any, tmp_path: Path) -> None:
    finder = (f"{CALLBACK}BatchSizeFinder", "--trainer.callbacks.max_val=16")
    result = fit(
        *finder, "--model.lr_scheduler=lit_cifar.training.schedules.LinearToZero", "--model.lr_scheduler_interval=step"
    )
    assert (result.code, result.err) == (0, "")
    assert "batch size 16, by BatchSizeFinder" in result.out
    trained = report(tmp_path)
    assert (trained["batch_size"], trained["steps"]) == (16, 8)
    assert trained["images_per_second"] * trained["train_seconds"] == pytest.approx(108)
    checkpoint = torch.load(tmp_path / RUN / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == 0


def test_overfitting_sees_the_same_images_in_every_epoch(fit: Any) -> None:
    result = fit("--trainer.overfit_batches=1", "--model.optimizer.lr=1e-12", epochs=3)
    losses = [line.split("  loss ")[1].split()[0] for line in result.out.splitlines() if line.startswith("epoch ")]
    assert len(losses) == 3
    assert len(set(losses)) == 1


def test_a_class_that_was_not_tested_has_no_accuracy(fit: Any, tmp_path: Path) -> None:
    result = fit("--trainer.limit_test_batches=1", "--data.eval_batch_size=8", epochs=1)
    assert result.code == 0, result.err
    accuracies = report(tmp_path)["class_accuracy"]
    assert accuracies["plane"] is not None
    assert accuracies["car"] is accuracies["bird"] is None
    assert "car  " not in result.out


def test_an_accuracy_is_told_only_of_the_epoch_that_was_validated(fit: Any) -> None:
    result = fit("--trainer.check_val_every_n_epoch=2", epochs=3)
    told = ["validation accuracy" in line for line in result.out.splitlines() if line.startswith("epoch ")]
    assert told == [False, True, False]


def test_a_module_of_ones_own_may_bring_its_data(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("model: {class_path: pytorch_lightning.demos.boring_classes.BoringModel}\n")
    result = cli("fit", "--config", recipe, "--trainer.max_steps=1", f"--trainer.default_root_dir={tmp_path}")
    assert result.code == 0, result.err


def test_plain_python_trains_resumes_and_tests(root: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"default_root_dir": tmp_path, "accelerator": "cpu", "enable_progress_bar": False}
    pl.seed_everything(0)
    data = CIFAR10DataModule(str(root), val_size=6)
    trainer = pl.Trainer(max_epochs=2, **options)
    trainer.fit(whole := LitClassifier(Net(3)), datamodule=data)

    pl.seed_everything(0)
    half = pl.Trainer(max_epochs=1, **options)
    half.fit(LitClassifier(Net(3)), datamodule=data)
    rest = Trainer(max_epochs=2, **options)
    resumed = LitClassifier(Net(3))
    rest.fit(resumed, datamodule=data, ckpt_path=half.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    assert rest.global_step == 28
    for a, b in zip(whole.net.parameters(), resumed.net.parameters(), strict=True):
        torch.testing.assert_close(a, b)

    (results,) = rest.test(resumed, datamodule=data, verbose=False)
    test = data.images.test
    resumed.classes, resumed.mean, resumed.std = data.classes, data.mean, data.std
    right = float((resumed.predict(test.images).argmax(1) == test.labels).float().mean())
    assert results["accuracy/test"] == pytest.approx(right)


@pytest.mark.slow
def test_mlflow_takes_curves_and_figures_and_goes_on_in_the_same_run(
    fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow: pip install mlflow")
    monkeypatch.chdir(tmp_path)  # where MLflow keeps the figures
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    logger = ("--trainer.logger=MLFlowLogger", f"--trainer.logger.tracking_uri={uri}")
    assert fit(*logger, epochs=1).code == 0
    result = fit(*logger, "--ckpt_path=last")
    assert result.code == 0, result.err
    client = mlflow.MlflowClient(uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "lightning_logs"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["accuracy/test"] == pytest.approx(report(tmp_path)["test_accuracy"])
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss/val")] == [14, 28]
    assert "test/confusion.png" in {file.path for file in client.list_artifacts(run.info.run_id, "test")}
    assert run.data.params.items() >= {"batch_size": "4", "optimizer.momentum": "0.9", "epochs": "1"}.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        (("--trainer.profiler=simple",), ["FIT Profiler Report", "run_training_epoch"]),
        (("--trainer.profiler=advanced",), ["FIT Profiler Report", "cumtime"]),
        (
            ("--trainer.profiler=PyTorchProfiler", "--trainer.profiler.dict_kwargs.acc_events=true"),
            ["FIT Profiler Report", "LitClassifier.training", "aten::"],
        ),
        ((f"{CALLBACK}ModelSummary", "--trainer.callbacks.max_depth=2"), ["net.conv1", "1.3 M"]),
    ],
)
def test_what_was_asked_for_is_printed(root: Path, tmp_path: Path, flags: tuple[str, ...], lines: list[str]) -> None:
    data = ("--data.root", root, "--data.val_size=6", "--model.net.init_args.num_classes=3")
    process = start("fit", *data, f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1", *flags)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert all(line in out + err for line in lines)
    assert "USDT" not in err
    assert "Warning" not in err
