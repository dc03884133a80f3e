"""Checkpoints made to run code, to reach outside or to fill memory: nothing of it happens."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import Cli
from evil import COMMANDS, Evil, evil, refused

from lit_cifar import LitClassifier
from lit_cifar.errors import UserError

PLACES = ("state_dict", "callbacks", "optimizer_states", "lr_schedulers", "loops", "hyper_parameters", "lit_cifar")
INSIDE_THE_CARD = ("recipe", "net", "classes", "optimizer")
__all__ = ["evil"]  # a fixture


def alone(evil: Evil) -> Path:
    return evil.save(evil.payload)


def raw_pickle(evil: Evil) -> Path:
    evil.path.write_bytes(pickle.dumps({"state_dict": {}, "lit_cifar": evil.payload}))
    return evil.path


def before_zip_files(evil: Evil) -> Path:
    return evil.save(evil.content() | {"hyper_parameters": evil.payload}, _use_new_zipfile_serialization=False)


def before_zip_files_with_a_zip_file_behind(evil: Evil) -> Path:
    old = before_zip_files(evil).read_bytes()
    evil.path.write_bytes(old + evil.good.read_bytes())
    return evil.path


def tar_file_of_2016(evil: Evil) -> Path:
    with tarfile.open(evil.path, "w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(evil.payload, protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return evil.path


def with_another(name: str) -> Callable[[Evil], Path]:
    """A good checkpoint in which a pickle lies that nothing should read."""

    def form(evil: Evil) -> Path:
        evil.path.write_bytes(evil.good.read_bytes())
        with zipfile.ZipFile(evil.path, "a") as file:
            folder = file.namelist()[0].split("/")[0]
            file.writestr(name.format(folder), pickle.dumps(evil.payload))
        return evil.path

    return form


def bomb(evil: Evil) -> Path:
    """3 GB of zeros for one of the tensors."""
    with zipfile.ZipFile(evil.good) as good, zipfile.ZipFile(evil.path, "w") as file:
        for entry in good.infolist():
            if entry.filename.endswith("/data/0"):
                with file.open(zipfile.ZipInfo(entry.filename), "w", force_zip64=True) as out:
                    out.write(good.read(entry))
                file.infolist()[-1].file_size = 3 * 2**30
            else:
                file.writestr(entry.filename, good.read(entry))
    return evil.path


FORMS: dict[str, Callable[[Evil], Path]] = {
    "alone": alone,
    "raw pickle": raw_pickle,
    "legacy": before_zip_files,
    "legacy before a zip": before_zip_files_with_a_zip_file_behind,
    "tar": tar_file_of_2016,
    "torchscript": with_another("{}/constants.pkl"),
    "another pickle": with_another("../../evil.pkl"),
    "data.pkl twice": with_another("other/data.pkl"),
    "bomb": bomb,
    **{place: partial(Evil.in_place, place=place) for place in PLACES},
    **{f"lit_cifar/{key}": partial(Evil.in_card, key=key) for key in INSIDE_THE_CARD},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_payload_in_any_place_of_a_checkpoint_is_not_run(cli: Cli, runs: Path, evil: Evil, form: str) -> None:
    path = FORMS[form](evil)
    assert str(path) in refused(cli, "test", path, runs)
    with pytest.raises(UserError):
        LitClassifier.load_from_checkpoint(path)
    assert not evil.proof.exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", ["hyper_parameters", "legacy"])
def test_no_command_runs_the_code_in_a_checkpoint(cli: Cli, runs: Path, evil: Evil, command: str, form: str) -> None:
    path = FORMS[form](evil)
    assert str(path) in refused(cli, command, path, runs)
    assert {file.name for file in evil.path.parent.iterdir()} - {"predictions"} <= {"evil.ckpt", ".lock"}


@pytest.mark.slow
def test_a_checkpoint_that_names_a_folder_for_its_best_deletes_nothing(cli: Cli, runs: Path, tmp_path: Path) -> None:
    root = (f"--data.root={runs / 'pictures'}", f"--trainer.default_root_dir={tmp_path}")
    words = ("fit", *root, "--data.val_size=6", "--model.net.init_args.num_classes=3")
    assert cli(*words, "--trainer.max_epochs=1").code == 0
    last = tmp_path / "lightning_logs" / "tutorial" / "version_0" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    for state in content["callbacks"].values():
        if "best_model_path" in state:
            state |= {"best_model_path": "/a/..", "best_model_score": torch.tensor(-1.0)}
    torch.save(content, last)
    before = {path.name for path in last.parents[1].iterdir()}
    result = cli(*words, "--trainer.max_epochs=2", "--ckpt_path=last")
    assert result.code == 0, result.err
    assert before <= {path.name for path in last.parents[1].iterdir()}


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop", "nothing", "/dev/zero", "empty", "sparse", "long"])
def test_what_is_no_file_or_endless_is_no_checkpoint(cli: Cli, runs: Path, evil: Evil, kind: str) -> None:
    path = {"/dev/zero": Path("/dev/zero"), "long": Path("x" * 3000)}.get(kind, evil.path)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind in ("empty", "sparse"):
        path.touch()
        os.truncate(path, 2**40 if kind == "sparse" else 0)
    for command in ("fit", "test", "predict PATH"):
        assert f"--ckpt_path {path} " in refused(cli, command, path, runs)
