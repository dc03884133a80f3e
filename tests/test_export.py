"""Files that `export` writes do as LitClassifier.predict does, wherever they run."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import SUFFIXES, Cli, Exported
from PIL import Image
from torch import Tensor

from lit_cifar import LitClassifier
from lit_cifar.data.image_files import TO_32, Scaling
from lit_cifar.data.pictures import to_pixels
from lit_cifar.deploy.standalone import resized

README = Path(__file__).parent.parent / "docs" / "export.md"
SIZES = [(1, 32, 32), (5, 32, 32), (2, 1, 1), (1, 1, 40), (3, 50, 20), (1, 33, 31), (2, 200, 300), (251, 16, 16)]


def opened(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A file as its own runtime runs it: probabilities of uint8 `[N, H, W, 3]`."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda pictures: np.asarray(session.run(None, {"pictures": pictures})[0])
    program = torch.export.load(path).module()
    return lambda pictures: program(torch.from_numpy(pictures)).detach().numpy()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def readme_script(mark: str) -> str:
    scripts = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (script,) = (script for script in scripts if mark in script)
    return str(script)


def python(script: str, folder: Path, *hidden: str) -> str:
    """What a script prints in a process of its own, in which some packages can't be imported."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({hidden}))\n"
    words = [sys.executable, "-c", hide + script]
    finished = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_a_file_takes_pictures_of_any_number_and_size_and_predicts_the_same(exported: Exported, name: str) -> None:
    classify = opened(exported.folder / f"model{SUFFIXES[name]}")
    classifier = LitClassifier.load_from_checkpoint(exported.checkpoint)
    for size in SIZES:
        pictures = noise(*size)
        np.testing.assert_allclose(
            classify(pictures), classifier.predict(pictures).numpy(), atol=2e-6, err_msg=f"{size}"
        )


def test_a_run_that_was_tested_with_more_views_is_exported_with_one(
    cli: Cli, exported: Exported, tmp_path: Path
) -> None:
    checkpoint = torch.load(exported.checkpoint, weights_only=True)
    checkpoint["lit_cifar"]["card"]["test_time_augmentation"] = "flip-shift"
    torch.save(checkpoint, tmp_path / "views.ckpt")
    result = cli("export", "--ckpt_path", tmp_path / "views.ckpt", "--format=torch", "--output", tmp_path / "model.pt2")
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("height", [1, 7, 31, 32, 33, 64, 500])
@pytest.mark.parametrize("width", [1, 5, 32, 40, 64, 333])
def test_pictures_are_resized_to_the_same_bytes_as_in_python(height: int, width: int) -> None:
    for scaling in (TO_32, Scaling(32, "crop"), Scaling(32, "pad"), Scaling(51, "squeeze"), Scaling(51, "pad")):
        for picture in (noise(height, width), noise(height, width) // 128 * 255):
            found = resized(torch.from_numpy(picture)[None], *scaling)[0]
            assert torch.equal(found, to_pixels(picture, scaling).double())


def test_the_onnx_file_runs_without_lit_cifar_and_torch(exported: Exported) -> None:
    printed = python(readme_script("model.onnx"), exported.folder, "lit_cifar", "torch")
    classifier = LitClassifier.load_from_checkpoint(exported.checkpoint)
    (probabilities,) = classifier.predict(Image.open(exported.folder / "picture.jpg"))
    expected = f"{classifier.classes[int(probabilities.argmax())]}: {float(probabilities.max()):.1%}\n"
    assert printed == expected


@pytest.mark.slow
def test_the_torch_file_runs_with_torch_alone(exported: Exported) -> None:
    script = "import torch; print(torch.export.load('model.pt2').module()(torch.zeros(7, 9, 8, 3).byte()).shape)"
    assert python(script, exported.folder, "lit_cifar", "pytorch_lightning", "onnx") == "torch.Size([7, 3])\n"


def test_the_safetensors_file_is_loaded_as_the_readme_says(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported.folder)
    names: dict[str, Any] = {}
    exec(readme_script("model.safetensors"), names)
    pictures = noise(4, 60, 50)
    expected = LitClassifier.load_from_checkpoint(exported.checkpoint).predict(pictures)
    torch.testing.assert_close(names["classify"](torch.from_numpy(pictures)), expected)


def test_each_file_carries_classes_recipe_network_and_normalisation(exported: Exported) -> None:
    in_torch = {"config.json": ""}
    torch.export.load(exported.folder / "model.pt2", extra_files=in_torch)
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx", providers=["CPUExecutionProvider"])
    in_onnx = session.get_modelmeta().custom_metadata_map
    beside = json.loads((exported.folder / "config.json").read_text())
    assert beside.pop("weights") == "model.safetensors"
    assert json.loads(in_torch["config.json"]) == beside
    assert {
        key: value if key in ("recipe", "resize", "dataset") else json.loads(value) for key, value in in_onnx.items()
    } == beside
    assert beside["net"] == {"class_path": "lit_cifar.nets.tutorial.Net", "init_args": {"num_classes": 3}}
    assert beside["classes"] == ["plane", "car", "bird"]
    assert (beside["recipe"], beside["mean"], beside["std"]) == ("tutorial", [0.5] * 3, [0.5] * 3)
    assert (beside["image_size"], beside["resize"]) == (32, "squeeze")
    assert beside["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_what_was_written_and_checked_is_said_and_nothing_else(exported: Exported) -> None:
    for name, suffix in SUFFIXES.items():
        lines = exported.out[name].splitlines()
        checkpoint = exported.checkpoint.relative_to(exported.folder)
        assert lines[0] == f"Checkpoint: {checkpoint}, Net, 3 classes"
        assert re.fullmatch(r"Checked on 24 test images in pictures: .* probabilities within (0|\de-0\d)", lines[1])
        size = (exported.folder / f"model{suffix}").stat().st_size
        assert lines[2] == f"Written: model{suffix}, {size:,} bytes"
        assert len(lines) == 3 + (name == "safetensors")
    assert exported.err == ""
    assert not list(exported.folder.glob("*.part"))


def test_the_newest_run_of_any_recipe_is_meant_by_best_and_last(
    cli: Cli, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "lightning_logs"
    for number, name in enumerate(("b/version_3", "a/version_0", "c/version_9")):
        for kind in ("best", "last"):
            checkpoint = runs / name / "checkpoints" / f"{kind}.ckpt"
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write_bytes(exported.checkpoint.read_bytes())
            os.utime(checkpoint, (number, number))
    (runs / "c/version_9/checkpoints/best.ckpt").write_bytes(b"cut short")
    monkeypatch.chdir(tmp_path)
    words = ("export", "--format=safetensors", "--data.root", exported.folder / "pictures")
    assert "c/version_9/checkpoints/last.ckpt" in cli(*words).out  # of the newest run, whose best is damaged
    assert "a/version_0/checkpoints/best.ckpt" in cli(*words, "--ckpt_path=best").out
    assert "c/version_9/checkpoints/last.ckpt" in cli(*words, "--ckpt_path=last").out
    found = cli(*words, "--trainer.default_root_dir", exported.folder)
    assert str(exported.checkpoint) in found.out


def test_drawn_images_check_where_no_others_lie(cli: Cli, exported: Exported, tmp_path: Path) -> None:
    words = ("--ckpt_path", exported.checkpoint, "--format=safetensors", "--output", tmp_path / "a.safetensors")
    result = cli("export", *words, "--data.root", tmp_path)
    assert result.code == 0, result.err
    assert f"Checked on 1,000 synthetic images, since {tmp_path} contains no images" in result.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "config.json"]  # no download


class Custom(torch.nn.Module):
    """A network of the user's own, with a dropout and a batch normalisation that must not act."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.BatchNorm1d(3072), torch.nn.Dropout(), torch.nn.Linear(3072, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


NETS = (
    "lit_cifar.nets.tutorial.Net",
    "lit_cifar.nets.speedrun.SpeedrunNet",
    "lit_cifar.nets.resnet.ResNet18",
    "torchvision.models.mobilenet_v3_small",
    "test_export.Custom",
)


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_every_net_is_exported_in_every_format(cli: Cli, pictures: Path, tmp_path: Path, net: str) -> None:
    data = f"--data.root={pictures}"
    fit = ("--data.val_size=0", "--data.batch_size=20", "--trainer.max_epochs=1", "--model.net", net)
    normalisation = ("--data.normalize=[[0.49,0.48,0.45],[0.25,0.24,0.26]]",)
    runs = f"--trainer.default_root_dir={tmp_path}"
    trained = cli("fit", data, runs, *fit, *normalisation, "--model.net.init_args.num_classes=3")
    assert trained.code == 0, trained.err
    checkpoint = tmp_path / "lightning_logs" / "tutorial" / "version_0" / "checkpoints" / "last.ckpt"
    own = Custom(3) if net == "test_export.Custom" else None
    classifier = LitClassifier.load_from_checkpoint(checkpoint, own)
    for name, suffix in SUFFIXES.items():
        output = tmp_path / f"model{suffix}"
        words = ("--ckpt_path=last", "--format", name, "--output", output, *(("--model.net", net) if own else ()))
        result = cli("export", data, runs, *words)
        assert result.code == 0, result.err
        assert "same predictions" in result.out
        assert result.err == ""
        if name != "safetensors":
            for size in ((1, 32, 32), (3, 47, 61)):
                expected = classifier.predict(noise(*size)).numpy()
                np.testing.assert_allclose(opened(output)(noise(*size)), expected, atol=1e-5)
