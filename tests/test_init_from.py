"""`--init_from`: a new training from a checkpoint's weights."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import Cli, checkpoint, paint_pictures

STILL = ("--data.val_size=4", "--model.optimizer.lr=0", "--trainer.max_steps=1", "--model.optimizer.momentum=0")


def trained(root: Path) -> dict[str, torch.Tensor]:
    (path,) = root.glob("lightning_logs/tutorial/*/checkpoints/last.ckpt")
    content = torch.load(path, weights_only=True)
    assert content["global_step"] == 1
    weights: dict[str, torch.Tensor] = content["state_dict"]
    return weights


@pytest.mark.parametrize("classes", [("red", "green", "blue"), ("red", "green")])
def test_a_new_training_starts_from_the_weights_with_a_new_head_for_other_classes(
    cli: Cli, runs: Path, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    pictures, source = paint_pictures(tmp_path / "pictures", classes), checkpoint(runs)
    words = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}", *STILL)
    result = cli("fit", *words, f"--model.net.num_classes={len(classes)}", f"--init_from={source}")
    assert (result.code, result.err) == (0, "")
    assert f"weights of {source}" in result.out
    assert ("fc3 is new" in result.out) is (len(classes) != 3)
    before, after = torch.load(source, weights_only=True)["state_dict"], trained(tmp_path)
    taken = {
        name for name in before if before[name].shape == after[name].shape and torch.equal(before[name], after[name])
    }
    head = set() if len(classes) == 3 else {"net.fc3.weight", "net.fc3.bias"}
    assert taken == before.keys() - head
    (config,) = tmp_path.glob("lightning_logs/tutorial/*/config.yaml")
    assert yaml.safe_load(config.read_text())["init_from"] == str(source)

    more = ("--resume=auto", "--trainer.max_steps=2")  # it is in config.yaml still
    assert cli("fit", *words, f"--model.net.num_classes={len(classes)}", *more).code == 0
    assert yaml.safe_load(config.read_text())["init_from"] == str(source)


@pytest.mark.parametrize(
    ("words", "error", "names"),
    [
        (["--resume=auto"], "value-invalid", ["--init_from", "--resume auto"]),
        (["--ckpt_path=last"], "value-invalid", ["--init_from", "--ckpt_path"]),
        (["--model.net=lit_cifar.nets.speedrun.SpeedrunNet"], "network-unfit", ["--init_from", "SpeedrunNet", "conv1"]),
        (["--init_from=nowhere.ckpt"], "checkpoint-missing", ["--init_from nowhere.ckpt"]),
    ],
)
def test_weights_that_do_not_fit_and_two_beginnings_are_refused(
    cli: Cli, runs: Path, tmp_path: Path, words: list[str], error: str, names: list[str]
) -> None:
    known = (f"--data.root={runs / 'pictures'}", f"--trainer.default_root_dir={tmp_path}", "--data.val_size=6")
    result = cli("fit", *known, "--model.net.num_classes=3", f"--init_from={checkpoint(runs)}", *words)
    assert result.failed(2, error, *names)
    assert not (tmp_path / "lightning_logs").exists()
