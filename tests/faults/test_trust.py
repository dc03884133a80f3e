"""What a checkpoint names, as its network or among the arguments, is followed only if it can be trusted."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli
from evil import COMMANDS, Evil, evil, refused

from lit_cifar.nets.tutorial import Net

__all__ = ["evil"]  # a fixture
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


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
@pytest.mark.parametrize("builder", ["lit_cifar.nets.timm.Timm", "timm.create_model"])
def test_a_network_of_timm_in_a_checkpoint_does_not_download_or_open_anything(
    cli: Cli, runs: Path, evil: Evil, monkeypatch: pytest.MonkeyPatch, builder: str
) -> None:
    import timm

    monkeypatch.setattr(timm, "create_model", lambda *_, **__: evil.proof.touch())
    name = "name" if builder.startswith("lit_cifar") else "model_name"
    weights = evil.path.parent / "weights.pt"
    torch.save(evil.payload, weights)
    for arguments in (
        {name: "hf-hub:timm/resnet18.a1_in1k"},
        {name: "hf_hub:timm/resnet18.a1_in1k"},
        {name: f"local-dir:{evil.path.parent}"},
        {name: str(evil.path.parent / "resnet18")},
        {name: "timm/resnet18"},
        {"pretrained": True},
        {"checkpoint_path": str(weights)},
        {"pretrained_cfg": {"file": str(weights)}},
        {"pretrained_cfg_overlay": {"url": weights.as_uri()}},
    ):
        path = evil.net(builder, **{name: "resnet18", **arguments})
        for words in ([], [f"--model.net={builder}"]):
            assert "[network-untrusted]" in refused(cli, "test", path, runs, *words)
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
        {"layer": "test_trust.os.system"},
        {"layer": "torch.hub.load"},
        {"layer": "torch.nn.functional.handle_torch_function"},
    ],
)
def test_a_network_that_the_user_trusts_does_not_make_a_checkpoint_s_arguments_trusted(
    cli: Cli, runs: Path, evil: Evil, arguments: dict[str, Any]
) -> None:
    path = evil.net("test_trust.Own", num_classes=3, **arguments)
    for command in ("test", "predict PATH"):
        (name,) = arguments
        said = refused(cli, command, path, runs, "--model.net=test_trust.Own")
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
