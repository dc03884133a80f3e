"""What `export` can't do, it says in one sentence; and whatever lay there before stays."""

import builtins
import re
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


def enlarged(logits: Tensor) -> Tensor:
    return logits * 1.01


@pytest.mark.parametrize(
    ("name", "lie", "numbers"),
    [
        ("torch", confused, "it gives 24 another class, and probabilities differ by up to 0.[0-9]+"),
        pytest.param("onnx", confused, "it gives 24 another class, .*", marks=pytest.mark.slow),
        pytest.param("torch", enlarged, "it gives 0 another class, and .* up to 0.00[0-9]+", marks=pytest.mark.slow),
        pytest.param("onnx", enlarged, "it gives 0 another class, and .* up to 0.00[0-9]+", marks=pytest.mark.slow),
    ],
)
def test_a_file_that_predicts_otherwise_is_not_written(
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
    assert result.code == 1
    assert re.search(rf"{output} was not written, .* of 24 images {numbers} \(allowed: 0.0001\)", result.err)
    assert result.err.count("\n") == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of yesterday"]


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
    assert result.code == 1
    assert f"{output} was not written" in result.err
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
    assert result.code == 1
    sentence = f"--output {output} was not written, for the file does not run (it needs 7 TB); try another --format"
    assert result.err == f"lit_cifar: {sentence}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_net_that_torch_can_t_trace_is_told_in_a_sentence(
    cli: Cli, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Net.forward

    def forward(self: Net, images: Tensor) -> Tensor:
        return honest(self, images) if images.mean() > 0 else honest(self, -images)

    monkeypatch.setattr(Net, "forward", forward)
    words = ("--ckpt_path", exported.checkpoint, "--format=torch", "--output", tmp_path / "model.pt2")
    result = cli("export", *words, "--data.root", exported.folder / "pictures")
    assert result.code == 1
    assert "--format torch: torch can't export Net (" in result.err
    assert "take --format safetensors" in result.err
    assert result.err.count("\n") == 1
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
    assert result.code == 2
    assert f"--format {name} needs the package {package}, which is not installed" in result.err
    assert "pip install -e '.[export]'" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--format=tflite"], 2, "--format: tflite is not a valid value; it takes 'onnx', 'torch', 'safetensors'"),
        (["--fromat=onnx"], 2, "there is no flag --fromat; did you mean --format?"),
        (["--ckpt_path=gone.ckpt"], 2, "--ckpt_path gone.ckpt does not exist"),
        (
            ["--ckpt_path=best"],
            2,
            "there is no intact best.ckpt in lightning_logs/*/version_*/checkpoints; train with",
        ),
        (["--output=folder"], 2, "--output folder is a folder; name a file in it, such as folder/model.onnx"),
        (["--output=folder.onnx"], 2, "--output folder.onnx is a folder"),
        (["--output=gone/model.onnx"], 2, "there is no folder gone; create it"),
        (["--output=model.pt2"], 2, "--output model.pt2 must end in .onnx, as files of --format onnx do"),
        (["--output=model"], 2, "--output model must end in .onnx"),
        (["--format=safetensors", "--output=taken/a.safetensors"], 2, "taken/config.json belongs to something else"),
        (
            ["--model.net=my.Net"],
            2,
            "--model.net my.Net can't be imported (No module named 'my'); start in the folder of its module",
        ),
    ],
)
def test_bad_words_are_told_in_one_sentence(
    cli: Cli,
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "folder.onnx", "taken"):
        Path(folder).mkdir()
    Path("taken/config.json").write_text('{"model_type": "bert"}')
    Path("net.ckpt").write_bytes(exported.checkpoint.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    result = cli("export", "--ckpt_path=net.ckpt", *words)
    assert result.code == code
    assert sentence in result.err
    assert result.err.count("\n") == 1
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
    ("spoil", "code", "sentence"),
    [
        (cut, 2, "is of a network lit_cifar.nets.tutorial.Net with other arguments or weights than this one's"),
        (without_classes, 1, "is damaged: its classes can't be what was written; use another checkpoint"),
        (odd_arguments, 2, "is of a network lit_cifar.nets.tutorial.Net with other arguments or weights than this"),
        (payload, 2, "holds more than tensors, numbers and strings, and is not opened"),
        (command, 2, "asks for the network os.system"),
    ],
)
def test_a_damaged_or_malicious_checkpoint_is_refused(
    cli: Cli,
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[dict[str, Any]], None],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = torch.load(exported.checkpoint, weights_only=True)
    spoil(checkpoint)
    torch.save(checkpoint, "bad.ckpt")
    result = cli("export", "--ckpt_path=bad.ckpt")
    assert result.code == code
    assert f"--ckpt_path bad.ckpt {sentence}" in result.err.replace(" is not a checkpoint of lit_cifar: it", "")
    assert result.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.ckpt"]


def test_half_a_checkpoint_is_refused(cli: Cli, exported: Exported, tmp_path: Path) -> None:
    half = tmp_path / "half.ckpt"
    half.write_bytes(exported.checkpoint.read_bytes()[:5000])
    result = cli("export", "--ckpt_path", half)
    assert result.code == 2
    assert f"--ckpt_path {half} is not a checkpoint of lit_cifar, or only a part of one" in result.err


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder in which even root can't write")
def test_a_folder_that_can_t_be_written_is_named(cli: Cli, exported: Exported) -> None:
    words = ("--ckpt_path", exported.checkpoint, "--format=torch", "--output=/proc/model.pt2")
    result = cli("export", *words, "--data.root", exported.folder / "pictures")
    assert result.code == 1
    assert "/proc/model.pt2 can't be written (No such file or directory); mend that, or name" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SUFFIXES)
def test_a_full_disk_is_told_and_the_file_before_it_stays(
    cli: Cli, exported: Exported, small_disk: Path, name: str
) -> None:
    output = small_disk / f"model{SUFFIXES[name]}"
    output.write_text("of yesterday")
    (small_disk / "filler").write_bytes(bytes((4096 - 100) * 1024))
    words = ("--ckpt_path", exported.checkpoint, "--format", name, "--output", output)
    result = cli("export", *words, "--data.root", exported.folder / "pictures")
    assert result.code == 1
    assert f"{small_disk} is full (No space left on device): {output.name} needs " in result.err
    assert result.err.count("\n") == 1
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", output.name]
    assert output.read_text() == "of yesterday"
