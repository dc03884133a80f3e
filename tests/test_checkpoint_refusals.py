"""Checkpoints that don't fit, are damaged, or were made to run code are refused, and nothing is overwritten."""

import hashlib
import os
import shutil
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from conftest import Cli, paint_pictures
from running import run

from lit_cifar.runs.card import RunCard

FIT = ("--data.val_size=6", "--model.net.init_args.num_classes=3", "--trainer.log_every_n_steps=2")


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    paint_pictures(root / "pictures")
    run("fit", "--data.root", root / "pictures", "--trainer.default_root_dir", root, *FIT, "--trainer.max_epochs=1")
    return root


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """last.ckpt of one epoch on the small pictures."""
    shutil.copytree(trained_once / "lightning_logs", tmp_path / "lightning_logs")
    return tmp_path / "lightning_logs" / "tutorial" / "version_0" / "checkpoints" / "last.ckpt"


def digest(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_classes_in_another_order_are_refused(
    cli: Cli, trained: Path, pictures: Path, tmp_path: Path, command: str
) -> None:
    for split in ("train", "test"):
        (pictures / split / "airplane").rename(pictures / split / "plane")  # which the folder's order puts last
    result = cli(command, f"--data.root={pictures}", f"--ckpt_path={trained}", f"--trainer.default_root_dir={tmp_path}")
    assert result.failed(2, "data-classes", "plane, car, bird", "car, bird, plane", "--data.root")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--data.batch_size=5"], ["--data.batch_size (4, now 5)"]),
        (["--seed_everything=7"], ["--seed_everything (0, now 7)"]),
        (["--data.val_size=9"], ["--data.val_size (6, now 9)"]),
        (
            ["--data.normalize=[[0.1,0.1,0.1],[0.5,0.5,0.5]]"],
            ["mean --data.normalize ([0.5, 0.5, 0.5], now [0.1, 0.1, 0.1])"],
        ),
        (["--recipe=other"], ["recipe (tutorial, now other)"]),
        (["--model.net.init_args.num_classes=4"], ["network", "num_classes"]),
        (["--data.dataset=drawn", "--model.net.init_args.num_classes=10"], ["data set (folder, now drawn)", "images"]),
        (["--model.optimizer.lr=0.01"], ["--model.optimizer.lr (0.001, now 0.01)"]),
        (["--model.optimizer=Adam"], ["--model.optimizer (torch.optim.sgd.SGD, now torch.optim.adam.Adam)"]),
        (["--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=1"], ["--model.lr_scheduler (None, now"]),
        (["--model.loss=torch.nn.CrossEntropyLoss"], ["--model.loss (torch.nn.functional.cross_entropy, now"]),
        (
            ["--data.trivial_augment=true", "--data.crop=2"],
            ["--data.trivial_augment (False, now True)", "--data.crop (0, now 2)"],
        ),
        (
            ["--data.transform=torchvision.transforms.v2.RandomRotation", "--data.transform.degrees=5"],
            ["--data.transform"],
        ),
        (["--trainer.gradient_clip_val=1"], ["--trainer.gradient_clip_val (None, now 1"]),
        (["--trainer.accumulate_grad_batches=2"], ["--trainer.accumulate_grad_batches (1, now 2)"]),
        (["--data.batch_size=5", "--data.val_size=9"], ["--data.batch_size (4, now 5)", "--data.val_size (6, now 9)"]),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    cli: Cli, trained: Path, pictures: Path, tmp_path: Path, words: list[str], names: list[str]
) -> None:
    before = digest(trained.parents[2])
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}")
    result = cli("fit", *root, *FIT, "--ckpt_path", trained, *words)
    assert result.failed(2, "checkpoint-of-another-training", str(trained), *names)
    assert digest(trained.parents[2]) == before


def test_images_that_changed_since_the_checkpoint_are_noticed(
    cli: Cli, trained: Path, pictures: Path, tmp_path: Path
) -> None:
    folder = pictures / "train" / "bird"
    shutil.copy(folder / "000.png", folder / "001.png")
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}")
    result = cli("fit", *root, *FIT, "--ckpt_path=last", "--trainer.max_epochs=2")
    assert result.failed(2, "checkpoint-of-another-training", str(trained), str(pictures), "images")


def test_a_truncated_checkpoint_is_refused_and_last_takes_the_one_before(
    cli: Cli, trained: Path, pictures: Path, tmp_path: Path
) -> None:
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}")
    assert cli("fit", *root, *FIT, "--trainer.max_epochs=1").code == 0
    newer = trained.parents[2] / "version_1" / "checkpoints" / "last.ckpt"
    newer.write_bytes(newer.read_bytes()[: newer.stat().st_size // 2])
    newer.with_suffix(".part").write_bytes(b"half")
    cut_short = cli("fit", *root, *FIT, "--ckpt_path", newer)
    assert cut_short.failed(2, "checkpoint-foreign", f"--ckpt_path {newer}")
    went_on = cli("fit", *root, *FIT, "--ckpt_path=last", "--trainer.max_epochs=2")
    assert "2 epochs, 28 steps" in went_on.out
    assert f"{trained.parents[1].name}/" in went_on.out


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.command = f"touch {path}"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("command", ["fit", "test", "validate", "predict"])
@pytest.mark.parametrize("place", ["state_dict", "callbacks", "lit_cifar", "optimizer_states", "new key"])
def test_a_checkpoint_that_would_run_code_is_refused(
    cli: Cli, trained: Path, pictures: Path, tmp_path: Path, command: str, place: str
) -> None:
    proof = tmp_path / "executed"
    checkpoint = torch.load(trained, weights_only=True)
    if isinstance(checkpoint.get(place), dict):
        checkpoint[place]["payload"] = Payload(proof)
    else:
        checkpoint[place] = [Payload(proof)]
    evil = tmp_path / "evil.ckpt"
    torch.save(checkpoint, evil)
    result = cli(command, "--ckpt_path", evil, f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}")
    assert result.failed(2, "checkpoint-foreign", str(evil))
    assert not proof.exists()


UNTRUSTED = ["os.system", "subprocess.Popen", "torch.hub.load", "torchvision.ops.MLP", "lit_cifar.nets.tutorial.Gone"]


@pytest.mark.parametrize("path", UNTRUSTED)
def test_a_checkpoint_may_not_name_any_class_for_its_net(
    cli: Cli, trained: Path, pictures: Path, tmp_path: Path, path: str
) -> None:
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint["lit_cifar"]["card"]["net"] = {"class_path": path, "init_args": {}}
    evil = tmp_path / "evil.ckpt"
    torch.save(checkpoint, evil)
    result = cli("test", "--ckpt_path", evil, f"--data.root={pictures}")
    error = "network-unknown" if path.startswith("lit_cifar") else "network-untrusted"
    assert result.failed(2, error, str(evil), path)


def test_a_card_that_was_changed_by_hand_is_refused(cli: Cli, trained: Path, pictures: Path, tmp_path: Path) -> None:
    wrong = [("std", [1.0, 1.0]), ("classes", "cat"), ("dataset", "mine"), ("sides", [["0", 20]])]
    for key, value in (*wrong, ("confidence_threshold", 0.0), ("confidence_threshold", 1.5)):
        checkpoint = torch.load(trained, weights_only=True)
        checkpoint["lit_cifar"]["card"][key] = value
        path = tmp_path / "changed.ckpt"
        torch.save(checkpoint, path)
        assert cli("test", "--ckpt_path", path, f"--data.root={pictures}").failed(
            1, "checkpoint-damaged", str(path), key
        )


def test_the_card_holds_what_the_command_line_set(trained: Path) -> None:
    card = torch.load(trained, weights_only=True)["lit_cifar"]["card"]
    assert card["optimizer"]["class_path"] == "torch.optim.sgd.SGD"
    assert card["optimizer"]["init_args"].items() >= {"lr": 0.001, "momentum": 0.9}.items()
    assert card["net"] == {"class_path": "lit_cifar.nets.tutorial.Net", "init_args": {"num_classes": 3}}


def test_an_augmentation_that_came_after_a_checkpoint_was_off_in_its_training(trained: Path) -> None:
    card = torch.load(trained, weights_only=True)["lit_cifar"]["card"]
    older = card | {"augmentation": {"flip": False, "crop": 0, "cutout": 0, "transform": None}}
    assert RunCard.from_dict(older).differences(RunCard.from_dict(card)) == []


def test_a_checkpoint_that_grows_when_it_is_unpacked_is_refused(cli: Cli, trained: Path, pictures: Path) -> None:
    with ZipFile(trained) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    with ZipFile(trained, "w", ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    result = cli("test", "--ckpt_path", trained, f"--data.root={pictures}")
    assert result.failed(1, "checkpoint-damaged", str(trained))
