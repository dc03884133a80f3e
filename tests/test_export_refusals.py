"""What `export` can't do, it says in one sentence; and whatever lay there before stays."""

import builtins
import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SUFFIXES, Cli, Exported
from torch import Tensor

from lit_cifar.nets.tutorial import Net


def confused(logits: Tensor) -> Tensor:
    return logits.roll(1, 1)


def a_little_more(logits: Tensor) -> Tensor:
    return logits * 1.01


@pytest.mark.parametrize(
    ("name", "lie", "numbers"),
    [
        ("torch", confused, "for 24 of 24 images, .* up to 0\\.[0-9]+"),
        ("torch", a_little_more, "for 0 of 24 images, .* up to 0\\.00[0-9]+"),
        pytest.param("onnx", confused, "for 24 of 24 images, ", marks=pytest.mark.slow),
        pytest.param("onnx", a_little_more, "for 0 of 24 images, .* up to 0\\.00[0-9]+", marks=pytest.mark.slow),
    ],
)
def test_a_file_that_predicts_something_else_is_not_written(
    cli: Cli,
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    lie: Callable[[Tensor], Tensor],
    numbers: str,
) -> None:
    honest = Net.forward

    def forward(self: Net, images: Tensor) -> Tensor:
        logits = honest(self, images)
        return lie(logits) if torch.compiler.is_exporting() else logits

    monkeypatch.setattr(Net, "forward", forward)
    output = tmp_path / f"model{SUFFIXES[name]}"
    output.write_text("of yesterday")
    words = ("--ckpt_path", exported.checkpoint, "--format", name, "--output", output)
    result = cli("export", *words, "--data.root", exported.folder / "pictures")
    assert result.failed(1, "export-differs", str(output))
    assert re.search(numbers, result.err), result.err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of yesterday"]


@pytest.mark.parametrize(
    ("bias", "scale", "error", "names"),
    [
        (100, 1, [torch.nan, 0.0, 0.0], ["nan", " 0 of 24 images"]),
        (0, 0, [0.0, 1e-5, 0.0], ["e-06", " 24 of 24 images"]),
    ],
)
def test_a_file_is_not_written_if_only_its_probabilities_or_only_its_classes_are_wrong(
    cli: Cli,
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bias: int,
    scale: int,
    error: list[float],
    names: list[str],
) -> None:
    checkpoint = torch.load(exported.checkpoint, weights_only=True)
    checkpoint["state_dict"]["net.fc3.bias"][0] += bias  # 100: all are planes, and so says the argmax of a row of NaN
    checkpoint["state_dict"]["net.fc3.weight"] *= scale
    checkpoint["state_dict"]["net.fc3.bias"] *= scale
    torch.save(checkpoint, tmp_path / "odd.ckpt")
    honest = Net.forward

    def forward(self: Net, images: Tensor) -> Tensor:
        logits = honest(self, images)
        return logits + torch.tensor(error) if torch.compiler.is_exporting() else logits

    monkeypatch.setattr(Net, "forward", forward)
    words = ("--ckpt_path", tmp_path / "odd.ckpt", "--format=torch", "--output", tmp_path / "model.pt2")
    result = cli("export", *words, "--data.root", exported.folder / "pictures")
    assert result.failed(1, "export-differs", *names)
    assert not (tmp_path / "model.pt2").exists()


@pytest.mark.parametrize("name", ["torch", "safetensors"])
def test_a_network_that_computes_nan_is_not_exported(cli: Cli, exported: Exported, tmp_path: Path, name: str) -> None:
    checkpoint = torch.load(exported.checkpoint, weights_only=True)
    checkpoint["state_dict"]["net.fc3.bias"][1] = torch.nan  # so that both sides are NaN
    torch.save(checkpoint, tmp_path / "nan.ckpt")
    output = tmp_path / f"model{SUFFIXES[name]}"
    words = ("--ckpt_path", tmp_path / "nan.ckpt", "--format", name, "--output", output)
    assert cli("export", *words, "--data.root", exported.folder / "pictures").failed(1, "diverged", str(output))
    assert [path.name for path in tmp_path.iterdir()] == ["nan.ckpt"]


def test_weights_that_a_rebuilt_net_does_not_have_are_noticed(
    cli: Cli, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A net that keeps in a plain attribute what it has learned."""
    original, forward = Net.__init__, Net.forward
    learned = [torch.zeros(3), torch.tensor([9.0, 0.0, 0.0])]

    def init(self: Any, num_classes: int = 10) -> None:
        original(self, num_classes)
        self.learned = learned.pop()

    monkeypatch.setattr(Net, "forward", lambda self, images: forward(self, images) + self.learned)

    monkeypatch.setattr(Net, "__init__", init)
    output = tmp_path / "model.safetensors"
    words = ("--ckpt_path", exported.checkpoint, "--format=safetensors", "--output", output)
    result = cli("export", *words, "--data.root", exported.folder / "pictures")
    assert result.failed(1, "export-differs", str(output))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_run_is_not_written(
    cli: Cli, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, memory = Net.__init__, ["enough for one"]

    def init(self: Net, num_classes: int = 10) -> None:
        original(self, num_classes)
        if not memory:
            raise MemoryError("it needs 7 TB\nof memory")
        memory.clear()

    monkeypatch.setattr(Net, "__init__", init)
    output = tmp_path / "model.safetensors"
    words = ("--ckpt_path", exported.checkpoint, "--format=safetensors", "--output", output)
    result = cli("export", *words, "--data.root", exported.folder / "pictures")
    assert result.failed(1, "export-failed", str(output), "it needs 7 TB")
    assert list(tmp_path.iterdir()) == []


def test_a_net_that_torch_can_t_trace_is_refused_in_a_sentence(
    cli: Cli, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Net.forward

    def forward(self: Net, images: Tensor) -> Tensor:
        return honest(self, images) if images.mean() > 0 else honest(self, -images)

    monkeypatch.setattr(Net, "forward", forward)
    words = ("--ckpt_path", exported.checkpoint, "--format=torch", "--output", tmp_path / "model.pt2")
    result = cli("export", *words, "--data.root", exported.folder / "pictures")
    assert result.failed(1, "export-failed", "--format torch", "Net", "--format safetensors")
    assert logging.root.manager.disable == logging.NOTSET
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "package"),
    [("onnx", "onnx"), ("onnx", "onnxscript"), ("onnx", "onnxruntime"), ("safetensors", "safetensors")],
)
def test_without_the_extra_it_says_what_to_install(
    cli: Cli, exported: Exported, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = cli("export", "--ckpt_path", exported.checkpoint, "--format", name)
    assert result.failed(2, "package-missing", f"--format {name}", package, "pip install -e '.[export]'")


@pytest.mark.parametrize(
    ("words", "error", "name"),
    [
        (["--format=tflite"], "value-invalid", "onnx, torch or safetensors"),
        (["--fromat=onnx"], "flag-unknown", "--format"),
        (["--ckpt_path=gone.ckpt"], "checkpoint-missing", "gone.ckpt"),
        (["--ckpt_path=best"], "checkpoint-missing", "best.ckpt"),
        (["--output=folder"], "output-refused", "folder/model.onnx"),
        (["--output=folder.onnx"], "output-refused", "--output folder.onnx"),
        (["--output=gone/model.onnx"], "output-refused", "gone"),
        (["--output=model.pt2"], "output-refused", ".onnx"),
        (["--output=model"], "output-refused", ".onnx"),
        (["--format=safetensors", "--output=taken/a.safetensors"], "output-refused", "taken/config.json"),
        (["--model.net=my.Net"], "network-unknown", "--model.net my.Net"),
    ],
)
def test_bad_words_are_refused_in_one_sentence(
    cli: Cli,
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    error: str,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "folder.onnx", "taken"):
        Path(folder).mkdir()
    Path("taken/config.json").write_text('{"model_type": "bert"}')
    Path("net.ckpt").write_bytes(exported.checkpoint.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    result = cli("export", "--ckpt_path=net.ckpt", *words)
    assert result.failed(2, error, name)
    assert result.out == ""
    assert sorted(tmp_path.rglob("*")) == before


class Payload:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return builtins.open, ("executed", "w")


def cut(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"].pop("net.fc3.weight")


def without_classes(checkpoint: dict[str, Any]) -> None:
    del checkpoint["lit_cifar"]["card"]["classes"]


def odd_arguments(checkpoint: dict[str, Any]) -> None:
    checkpoint["lit_cifar"]["card"]["net"]["init_args"] = {"num_classes": "many"}


def payload(checkpoint: dict[str, Any]) -> None:
    checkpoint["lit_cifar"]["card"]["recipe"] = Payload()


def command(checkpoint: dict[str, Any]) -> None:
    checkpoint["lit_cifar"]["card"]["net"] = {"class_path": "os.system", "init_args": {"command": "touch executed"}}


@pytest.mark.parametrize(
    ("spoil", "code", "error", "name"),
    [
        (cut, 2, "network-unfit", "lit_cifar.nets.tutorial.Net"),
        (without_classes, 1, "checkpoint-damaged", "classes"),
        (odd_arguments, 2, "network-unfit", "lit_cifar.nets.tutorial.Net"),
        (payload, 2, "checkpoint-foreign", ""),
        (command, 2, "network-untrusted", "os.system"),
    ],
)
def test_a_damaged_or_malicious_checkpoint_is_refused(
    cli: Cli,
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[dict[str, Any]], None],
    code: int,
    error: str,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = torch.load(exported.checkpoint, weights_only=True)
    spoil(checkpoint)
    torch.save(checkpoint, "bad.ckpt")
    result = cli("export", "--ckpt_path=bad.ckpt")
    assert result.failed(code, error, "--ckpt_path bad.ckpt", name)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.ckpt"]


def test_half_a_checkpoint_is_refused(cli: Cli, exported: Exported, tmp_path: Path) -> None:
    half = tmp_path / "half.ckpt"
    half.write_bytes(exported.checkpoint.read_bytes()[:5000])
    assert cli("export", "--ckpt_path", half).failed(2, "checkpoint-foreign", f"--ckpt_path {half}")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder in which even root can't write")
def test_a_folder_that_can_t_be_written_is_named(cli: Cli, exported: Exported) -> None:
    words = ("--ckpt_path", exported.checkpoint, "--format=torch", "--output=/proc/model.pt2")
    result = cli("export", *words, "--data.root", exported.folder / "pictures")
    assert result.failed(1, "not-writable", "/proc/model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("name", SUFFIXES)
def test_a_full_disk_is_reported_and_the_file_before_it_stays(
    cli: Cli, exported: Exported, small_disk: Path, name: str
) -> None:
    output = small_disk / f"model{SUFFIXES[name]}"
    output.write_text("of yesterday")
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 100 * 1024))
    words = ("--ckpt_path", exported.checkpoint, "--format", name, "--output", output)
    result = cli("export", *words, "--data.root", exported.folder / "pictures")
    assert result.failed(1, "disk-full", str(small_disk), f"for {output.name}, which needs ")
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", output.name]
    assert output.read_text() == "of yesterday"
