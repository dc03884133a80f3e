"""Checkpoints made to run code, to reach outside or to fill memory: nothing of it happens."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli, checkpoint

from lit_cifar import LitClassifier
from lit_cifar.errors import UserError
from lit_cifar.nets.tutorial import Net

PLACES = ("state_dict", "callbacks", "optimizer_states", "lr_schedulers", "loops", "hyper_parameters", "lit_cifar")
INSIDE_THE_CARD = ("recipe", "net", "classes", "optimizer")


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.command = f"touch {proof}"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


class Evil:
    """Makes checkpoints of a good one, and tells whether any of them has run its code."""

    def __init__(self, good: Path, folder: Path) -> None:
        self.good, self.path, self.proof = good, folder / "evil.ckpt", folder / "executed"
        self.payload = Payload(self.proof)

    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = torch.load(self.good, weights_only=True)
        return content

    def save(self, content: Any, **options: Any) -> Path:
        torch.save(content, self.path, **options)
        return self.path

    def in_place(self, place: str) -> Path:
        content = self.content()
        if isinstance(content.get(place), dict):
            content[place]["payload"] = self.payload
        else:
            content[place] = [self.payload]
        return self.save(content)

    def in_card(self, key: str) -> Path:
        content = self.content()
        content["lit_cifar"]["card"][key] = self.payload
        return self.save(content)

    def net(self, class_path: str, **init_args: Any) -> Path:
        content = self.content()
        content["lit_cifar"]["card"]["net"] = {"class_path": class_path, "init_args": init_args}
        return self.save(content)


@pytest.fixture
def evil(runs: Path, tmp_path: Path) -> Evil:
    return Evil(checkpoint(runs), tmp_path)


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
COMMANDS = ("fit", "validate", "test", "predict", "predict PATH", "export", "demo")


def refused(cli: Cli, command: str, path: Path, runs: Path, *more: str) -> str:
    """What a command says of a checkpoint that it must refuse."""
    own_flags = {
        "predict PATH": (str(runs / "pictures" / "test" / "bird"), f"--output={path.parent / 'predictions'}"),
        "export": (f"--output={path.parent / 'model.pt2'}", "--format=torch"),
        "demo": ("--port=0",),
    }
    words = own_flags.get(command, (f"--data.root={runs / 'pictures'}", f"--trainer.default_root_dir={path.parent}"))
    result = cli(command.split()[0], *words, "--ckpt_path", path, *more)
    assert result.code in (1, 2), result.out
    assert result.err.startswith("lit_cifar: ")
    assert result.err.count("\n") == 1
    assert "\x1b" not in result.err
    return result.err


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


FUNCTIONS = (
    "os.system",
    "torch.hub.load",
    "torch.nn.init.ones_",
    "torch.nn.functional.handle_torch_function",
    "torch.nn.parallel.data_parallel",
    "torchvision.models.get_model",
    "torchvision.models.segmentation.fcn_resnet50",
    "torchvision.models._api.import_module",
    "torch.nn.modules.__builtins__",
    "torch.nn..Linear",
    "torch.nn." + "x" * 5000 + ".Net",
    "torch.nn.\0.Net",
    "torch.nn.\x1b]0;a title\x07.Net",
    "\x1b[2Jos.system",
)


@pytest.mark.parametrize("class_path", FUNCTIONS, ids=lambda path: ascii(path[:40]))
def test_what_is_no_network_is_not_called(cli: Cli, runs: Path, evil: Evil, class_path: str) -> None:
    refused(cli, "test", evil.net(class_path), runs)
    refused(cli, "predict PATH", evil.path, runs)


def test_a_function_of_torchvision_s_that_downloads_and_unpickles_is_not_called(
    cli: Cli, runs: Path, evil: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(evil.path.parent / "hub"))
    weights = evil.path.parent / "weights.pt"
    torch.save(evil.payload, weights)
    path = evil.net("torchvision.models._api.load_state_dict_from_url", url=weights.as_uri())
    for command in COMMANDS[1:]:
        assert "[network-untrusted]" in refused(cli, command, path, runs)
    assert not evil.proof.exists()


ARGUMENTS: dict[str, Any] = {
    "norm_layer": "a_module_of_theirs.Net",
    "block": {"class_path": "a_module_of_theirs.Net"},
    "layers": [["a_module_of_theirs.Net"]],
    "num_classes": "{class_path: a_module_of_theirs.Net}",
    "weights": "DEFAULT",
}


@pytest.fixture
def their_module(evil: Evil, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that does its worst where it is imported."""
    (evil.path.parent / "a_module_of_theirs.py").write_text(
        f"from pathlib import Path\nPath({str(evil.proof)!r}).touch()\n"
        "from torch.nn import Identity as Net, functional\nloss = functional.cross_entropy\n"
    )
    monkeypatch.syspath_prepend(evil.path.parent)


@pytest.mark.usefixtures("their_module")
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_of_a_network_that_name_code_are_not_followed(cli: Cli, runs: Path, evil: Evil, name: str) -> None:
    path = evil.net("torchvision.models.resnet18", **{name: ARGUMENTS[name]})
    for command in ("test", "predict PATH"):
        assert "[network-untrusted]" in refused(cli, command, path, runs)
    assert not evil.proof.exists()


@pytest.mark.usefixtures("their_module")
def test_the_code_that_a_checkpoint_names_is_not_imported_where_the_user_names_a_network(
    cli: Cli, runs: Path, evil: Evil
) -> None:
    path = evil.net("a_module_of_theirs.Net")
    refused(cli, "fit", path, runs)
    root = (f"--data.root={runs / 'pictures'}", f"--trainer.default_root_dir={evil.path.parent}")
    words = ("--model.net=lit_cifar.nets.tutorial.Net", "--model.net.num_classes=3")
    result = cli("test", *root, "--ckpt_path", path, *words)
    assert result.code == 0, result.err
    assert not evil.proof.exists()


class Own(Net):
    """A network that the user names, and trusts."""

    def __init__(self, num_classes: int = 10, layer: type | None = None, other: Any = None, **more: Any) -> None:
        super().__init__(num_classes)
        assert not more


@pytest.mark.usefixtures("their_module")
@pytest.mark.parametrize(
    "arguments",
    [
        {"layer": "a_module_of_theirs.Net"},
        {"other": {"class_path": "a_module_of_theirs.Net"}},
        {"other": ["{class_path: a_module_of_theirs.Net}"]},
        {"other": "class_path: a_module_of_theirs.Net"},
        {"unknown": "a_module_of_theirs.Net"},
        {"layer": "test_no_code.os.system"},
        {"layer": "torch.hub.load"},
        {"layer": "torch.nn.functional.handle_torch_function"},
    ],
)
def test_a_network_that_the_user_trusts_does_not_make_a_checkpoint_s_arguments_trusted(
    cli: Cli, runs: Path, evil: Evil, arguments: dict[str, Any]
) -> None:
    path = evil.net("test_no_code.Own", num_classes=3, **arguments)
    for command in ("test", "predict PATH"):
        (name,) = arguments
        said = refused(cli, command, path, runs, "--model.net=test_no_code.Own")
        assert "[network-untrusted]" in said
        assert name in said
    assert not evil.proof.exists()


@pytest.mark.usefixtures("their_module")
def test_hyperparameters_in_a_checkpoint_do_not_choose_the_model(cli: Cli, runs: Path, evil: Evil) -> None:
    path = evil.save(evil.content() | {"hyper_parameters": {"loss": "a_module_of_theirs.loss"}})
    root = (f"--data.root={runs / 'pictures'}", f"--trainer.default_root_dir={evil.path.parent}")
    result = cli("validate", *root, "--ckpt_path", path)
    assert result.code == 0, result.err
    assert not evil.proof.exists()


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
