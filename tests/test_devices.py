"""Several processes on the CPU, started as a user starts them, give the result of one."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import Result
from running import (
    DRAWN,
    RUN,
    differences,
    largest_relative_difference,
    last_checkpoint,
    run,
    start,
    tensorboard_curves,
)

RECIPES = Path(__file__).parent.parent / "configs"


@pytest.mark.slow
def test_the_data_parallel_demonstration_prints_each_device_s_share() -> None:
    lines = run("fit", "--config", RECIPES / "parallel.yaml", "--trainer.devices=2").splitlines()
    full = ["\tIn Model: input size [15, 5] output size [15, 2]"] * 2
    full.append("Outside: input size [30, 5] output size [30, 2]")
    short = ["\tIn Model: input size [5, 5] output size [5, 2]"] * 2
    short.append("Outside: input size [10, 5] output size [10, 2]")
    assert [line for line in lines if "size" in line] == full * 3 + short


@pytest.mark.slow
def test_a_mistake_that_every_device_sees_is_printed_once(tmp_path: Path) -> None:
    endless = ("--model.lr_scheduler=lit_cifar.training.schedules.LinearToZero", "--trainer.max_epochs=-1")
    process = start(*DRAWN, "--trainer.devices=2", "--trainer.default_root_dir", tmp_path, *endless)
    _, err = process.communicate(timeout=500)
    assert Result(process.returncode, "", err).failed(2, "schedule-refused", "LinearToZero", "--trainer.max_epochs")


@pytest.mark.slow
def test_processes_that_are_forked_are_refused() -> None:
    process = start(*DRAWN, "--trainer.devices=2", "--trainer.strategy=ddp_fork")
    _, err = process.communicate(timeout=500)
    assert Result(process.returncode, "", err).failed(2, "value-invalid", "--trainer.strategy ddp_fork")


def train(root: Path, devices: int, *words: str) -> None:
    run(*DRAWN, *words, f"--trainer.devices={devices}", "--trainer.default_root_dir", root)


def assert_same_training(one: Path, other: Path) -> None:
    assert largest_relative_difference(last_checkpoint(one), last_checkpoint(other)) <= 1e-5
    losses = [tensorboard_curves(root)["loss/train"] for root in (one, other)]
    assert [step for step, _ in losses[0]] == [step for step, _ in losses[1]]
    assert losses[0]
    for (_, a), (_, b) in zip(*losses, strict=True):
        assert f"{a:.4f}" == f"{b:.4f}" or abs(a - b) < 2e-5


def assert_same_test(one: Path, other: Path) -> None:
    reports = [json.loads((root / RUN / "report.json").read_text()) for root in (one, other)]
    assert reports[0]["confusion_matrix"] == reports[1]["confusion_matrix"]
    assert sum(map(sum, reports[0]["confusion_matrix"])) == 2000
    for key in ("class_accuracy", "class_precision", "class_recall", "class_f1"):
        assert reports[0][key] == reports[1][key]
    assert reports[0]["calibration_error"] == pytest.approx(reports[1]["calibration_error"], abs=1e-4)
    assert reports[0]["test_loss"] == pytest.approx(reports[1]["test_loss"], rel=1e-5)


def assert_same_failures(one: Path, other: Path) -> None:
    """The numbers are the same but for those of time and device, and so is every byte of the pictures."""
    reports = [json.loads((folder / "report.json").read_text()) for folder in (one, other)]
    differing = {key for key in reports[0] if reports[0][key] != reports[1][key]}
    assert differing <= {"devices", "device_name", "date", "test_seconds", "test_loss"}  # the loss in its last digit
    for name in ("classes", "confusion", "mistakes", "predictions", "reliability", "uncertain"):
        assert (one / f"{name}.png").read_bytes() == (other / f"{name}.png").read_bytes()


SIXTY = ("--data.batch_size=4", "--trainer.max_steps=60", "--trainer.log_every_n_steps=10")
# Of 9,000 images in batches of 8,999, the second batch has one
ONE_LEFT = ("--data.batch_size=8999", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1")
LIGHTNING_S = "--trainer.gradient_clip_val=1e9"  # never reached, but then Lightning's own step exchanges gradients


@pytest.fixture(scope="module")
def sixty_on_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sixty")
    train(root, 1, *SIXTY)
    return root


@pytest.fixture(scope="module")
def one_left_on_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one_left")
    train(root, 1, *ONE_LEFT)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "words"), [(2, []), (3, []), (2, [LIGHTNING_S])])
def test_a_batch_of_4_on_more_devices_trains_like_on_one(
    sixty_on_one: Path, tmp_path: Path, devices: int, words: list[str]
) -> None:
    train(tmp_path, devices, *SIXTY, *words)
    assert_same_training(sixty_on_one, tmp_path)
    assert_same_test(sixty_on_one, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "words"), [(3, []), (3, [LIGHTNING_S])])
def test_a_device_without_an_image_in_the_last_batch_changes_nothing(
    one_left_on_one: Path, tmp_path: Path, devices: int, words: list[str]
) -> None:
    train(tmp_path, devices, *ONE_LEFT, *words)
    assert_same_training(one_left_on_one, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--model.slice_size=3"], [LIGHTNING_S]])
def test_mixed_images_and_labels_train_on_three_devices_like_on_one(tmp_path: Path, words: list[str]) -> None:
    mixing = ("--data.mixup=0.4", "--data.cutmix=1", "--data.erase=0.3", "--data.flip=true", "--data.mix_until=0.5")
    loss = ("--model.loss=torch.nn.CrossEntropyLoss", "--model.loss.label_smoothing=0.1")
    weights = f"--model.loss.weight={[0.5, *[1] * 8, 2]}"
    endless = ("--trainer.max_epochs=-1", "--data.batch_size=5", "--trainer.max_steps=40")
    for devices in (1, 3):
        train(tmp_path / str(devices), devices, *SIXTY, *endless, *mixing, *loss, weights, *words)
    assert_same_training(tmp_path / "1", tmp_path / "3")


@pytest.mark.slow
def test_seven_devices_test_every_image_exactly_once_and_leave_the_report_of_one(tmp_path: Path) -> None:
    train(tmp_path / "1", 1, "--trainer.max_epochs=1")
    checkpoint = tmp_path / "1" / RUN / "checkpoints" / "best.ckpt"
    for devices in (1, 2, 7):
        root = tmp_path / f"test{devices}"
        run("test", "--ckpt_path", checkpoint, f"--trainer.devices={devices}", "--trainer.default_root_dir", root)
    for devices in (2, 7):
        assert_same_test(tmp_path / "test1", tmp_path / f"test{devices}")
        assert_same_failures(tmp_path / "test1" / RUN, tmp_path / f"test{devices}" / RUN)


@pytest.mark.slow
def test_a_run_begun_on_two_devices_goes_on_with_another_number(sixty_on_one: Path, tmp_path: Path) -> None:
    train(tmp_path / "3", 2, *SIXTY, "--trainer.max_steps=33")
    shutil.copytree(tmp_path / "3", tmp_path / "1")
    for devices in (1, 3):
        train(tmp_path / str(devices), devices, *SIXTY, "--ckpt_path=last")
        assert_same_training(sixty_on_one, tmp_path / str(devices))


@pytest.mark.slow
def test_predict_writes_the_same_on_any_number_of_devices(tmp_path: Path) -> None:
    train(tmp_path / "1", 1, "--trainer.max_steps=5")
    checkpoint = tmp_path / "1" / RUN / "checkpoints" / "last.ckpt"
    written = []
    for devices in (1, 3):
        root = tmp_path / f"predict{devices}"
        words = ("--data.eval_batch_size=301", f"--trainer.devices={devices}")
        run("predict", "--ckpt_path", checkpoint, *words, "--trainer.default_root_dir", root)
        lines = (root / RUN / "predictions.csv").read_text().splitlines()
        written.append([line.split(",")[:3] for line in lines])
    assert len(written[0]) == 2001
    assert differences(written[0], written[1]) == []


@pytest.mark.slow
def test_a_loss_that_learns_learns_the_same_on_two_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "learned.py").write_text(
        "import torch\n\n\nclass Temperature(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.log = torch.nn.Parameter(torch.zeros(()))\n\n"
        "    def forward(self, logits, labels):\n"
        "        return torch.nn.functional.cross_entropy(logits * self.log.exp(), labels)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    for devices in (1, 2):
        train(tmp_path / str(devices), devices, *SIXTY, "--model.loss=learned.Temperature")
    assert_same_training(tmp_path / "1", tmp_path / "2")
    one, two = (last_checkpoint(tmp_path / str(devices))["state_dict"]["loss.log"] for devices in (1, 2))
    assert float(one) == pytest.approx(float(two), rel=1e-5)
    assert float(one) != 0
