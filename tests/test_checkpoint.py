"""Checkpoints: what goes on from them, which of them `best` and `last` mean, and how they are written."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import Cli, paint_pictures, refused
from pytorch_lightning import Callback
from running import differences, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_cifar.errors import UsageError
from lit_cifar.runs.checkpoint import RunCheckpoints, find_checkpoint, read_checkpoint
from lit_cifar.runs.folder import new_version

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


def test_last_goes_on_in_the_same_run_folder(cli: Cli, trained: Path, pictures: Path, tmp_path: Path) -> None:
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}")
    left = trained.with_name(".last.ckpt.1.part")  # by a run that was killed while it wrote
    left.mkdir()
    result = cli("fit", *root, *FIT, "--trainer.max_epochs=3", "--ckpt_path=last")
    assert result.code == 0, result.err
    assert not left.exists()
    assert "Finished training: 3 epochs, 42 steps" in result.out
    assert [path.name for path in trained.parents[2].iterdir()] == ["version_0"]
    assert result.err == ""


def test_a_finished_run_that_is_resumed_shows_its_test_once(trained: Path, pictures: Path, tmp_path: Path) -> None:
    folder = trained.parents[1]
    before = EventAccumulator(str(folder)).Reload()
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}")
    run("fit", *root, *FIT, "--trainer.max_epochs=1", "--ckpt_path=last")
    after = EventAccumulator(str(folder)).Reload()
    for tag in before.Tags()["scalars"]:
        points = [[(event.step, event.value) for event in events.Scalars(tag)] for events in (before, after)]
        # a resumed run's clock goes on while it begins
        assert len(points[0]) == len(points[1]) == 1 if tag == "fit_seconds" else points[0] == points[1], tag
    assert [len(after.Images(tag)) for tag in after.Tags()["images"]] == [1] * 9


@pytest.mark.slow
def test_an_epoch_that_max_steps_cut_short_is_finished_when_the_run_goes_on(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    words = ("fit", f"--data.root={pictures}", *FIT, "--resume=auto")
    runs = {"whole": [28], "parts": [5, 5, 14, 20, 28]}
    states = []
    for name, ends in runs.items():
        root = f"--trainer.default_root_dir={tmp_path / name}"
        for end in ends:
            result = cli(*words, root, f"--trainer.max_steps={end}", "--trainer.max_epochs=2")
            assert result.code == 0, result.err
        path = tmp_path / name / "lightning_logs" / "tutorial" / "version_0" / "checkpoints" / "last.ckpt"
        states.append(torch.load(path, weights_only=True))
    assert "2 epochs, 28 steps" in result.out
    for part in ("state_dict", "optimizer_states", "loops"):
        assert differences(states[0][part], states[1][part]) == []


def test_a_run_folder_that_was_moved_keeps_its_best_and_its_scores(
    cli: Cli, trained: Path, pictures: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "lightning_logs", moved / "lightning_logs")
    last = moved / trained.relative_to(tmp_path)
    before = best_state(last)
    result = cli("fit", f"--data.root={pictures}", f"--trainer.default_root_dir={moved}", *FIT, f"--ckpt_path={last}")
    assert result.code == 0
    assert result.err == ""
    assert best_state(last) == before | {
        "dirpath": str(last.parent),
        "best_model_path": str(last.with_name("best.ckpt")),
    }


def best_state(last: Path) -> dict[str, object]:
    """What the checkpoint remembers of the best epoch, and of the newest."""
    (state,) = (
        state for key, state in torch.load(last, weights_only=True)["callbacks"].items() if key.startswith("Best")
    )
    keys = ("best_model_score", "current_score", "dirpath", "best_model_path")
    return {key: state[key] for key in keys}


def test_resume_auto_begins_where_there_is_nothing_to_go_on_from(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}")
    assert "2 epochs, 28 steps" in cli("fit", *root, *FIT, "--resume=auto").out
    assert "3 epochs, 42 steps" in cli("fit", *root, *FIT, "--resume=auto", "--trainer.max_epochs=3").out


@pytest.mark.slow
def test_a_recipe_may_say_where_to_go_on_and_config_yaml_repeats_the_run_from_its_beginning(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    net = {"class_path": "lit_cifar.nets.tutorial.Net", "init_args": {"num_classes": 3}}
    loggers: dict[str, dict[str, bool]] = {"logged": {}, "alone": {"logger": False}}
    for name, logger in loggers.items():
        trainer = {"max_epochs": 1, "log_every_n_steps": 2, "default_root_dir": str(tmp_path / name)} | logger
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump({"resume": "auto", "trainer": trainer, "model": {"net": net}}))
        words = ("fit", f"--config={recipe}", f"--data.root={pictures}", "--data.val_size=6")
        assert "1 epoch, 14 steps" in cli(*words).out
        result = cli(*words, "--trainer.max_epochs=2")
        assert "2 epochs, 28 steps" in result.out, result.err
    version = tmp_path / "logged" / "lightning_logs" / "logged" / "version_0"
    assert [path.name for path in version.parent.iterdir()] == ["version_0"]
    again = cli("fit", f"--config={version / 'config.yaml'}", "--trainer.max_epochs=1")
    assert "1 epoch, 14 steps" in again.out, again.err
    assert (version.parent / "version_1").exists()


def test_validate_says_of_how_many_images_it_speaks(cli: Cli, trained: Path, pictures: Path, tmp_path: Path) -> None:
    words = ("validate", f"--data.root={pictures}", f"--ckpt_path={trained}", f"--trainer.default_root_dir={tmp_path}")
    limited = cli(*words, "--data.eval_batch_size=2", "--trainer.limit_val_batches=1")
    assert "on the 2 validation images" in limited.out, limited.err
    assert " bird " not in limited.out  # held-out images come in the order of the classes
    runs = len(list(trained.parents[2].iterdir()))
    nothing = cli(*words, "--data.val_size=0")
    assert nothing.failed(2, "validation-empty", "--data.val_size")
    assert len(list(trained.parents[2].iterdir())) == runs


class Interrupts(Callback):
    """Ctrl-C."""

    def on_test_batch_end(self, *_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_a_test_in_one_line(cli: Cli, trained: Path, pictures: Path, tmp_path: Path) -> None:
    words = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}", f"--ckpt_path={trained}")
    try:
        result = cli("test", *words, "--trainer.callbacks=test_checkpoint.Interrupts")
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which Lightning switches off
    assert result.failed(130, "interrupted", "Ctrl-C")


def test_without_a_name_the_newest_run_counts_whatever_its_recipe(trained: Path, tmp_path: Path) -> None:
    best = trained.with_name("best.ckpt")
    assert find_checkpoint(None, tmp_path).path == find_checkpoint("best", tmp_path).path == best
    later = tmp_path / "lightning_logs" / "speedrun" / "version_0" / "checkpoints"  # nothing held out, so no best.ckpt
    later.mkdir(parents=True)
    shutil.copy(trained, later)
    os.utime(later / "last.ckpt", (time.time() + 9, time.time() + 9))
    assert find_checkpoint(None, tmp_path).path == find_checkpoint("last", tmp_path).path == later / "last.ckpt"
    with refused(UsageError, "checkpoint-missing", "speedrun/version_0", "best.ckpt", "--ckpt_path last"):
        find_checkpoint("best", tmp_path)


def test_a_part_of_the_test_images_is_predicted_where_only_a_part_is_asked_for(
    cli: Cli, trained: Path, pictures: Path, tmp_path: Path
) -> None:
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}", f"--ckpt_path={trained}")
    result = cli("predict", *root, "--data.eval_batch_size=5", "--trainer.limit_predict_batches=2")
    assert result.code == 0, result.err
    (written,) = tmp_path.glob("lightning_logs/tutorial/*/predictions.csv")
    assert len(written.read_text().splitlines()) == 1 + 10


def test_a_checkpoint_is_on_the_disk_before_it_takes_its_name(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the order of the system calls, since no test can cut the power."""
    calls: list[tuple[str, int]] = []

    def fsync(file: int, before: Callable[[int], None] = os.fsync) -> None:
        before(file)
        calls.append(("written through", os.fstat(file).st_ino))

    def replace(path: Path, target: Path, before: Callable[[Path, Path], Path] = Path.replace) -> Path:
        calls.append((f"named {target.name}", path.stat().st_ino))
        return before(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}")
    assert cli("fit", *root, *FIT, "--trainer.max_epochs=1").code == 0
    for name in ("best.ckpt", "last.ckpt"):
        named = [at for at, (what, _) in enumerate(calls) if what == f"named {name}"]
        assert named
        assert all(("written through", calls[at][1]) in calls[:at] for at in named)


def test_a_checkpoint_that_was_read_already_is_not_taken_for_another(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.ckpt"
    torch.save(torch.load(trained, weights_only=True) | {"global_step": 77}, other)
    checkpoints = RunCheckpoints(read_checkpoint(trained))
    assert checkpoints.load_checkpoint(other)["global_step"] == 77


def test_the_next_run_folder_comes_after_the_highest_number(tmp_path: Path) -> None:
    for name in ("version_0", "version_3", "version_old"):
        (tmp_path / name).mkdir()
    assert new_version(tmp_path) == "version_4"
    assert (tmp_path / "version_4").is_dir()
