"""Twenty families of timm train, are tested, resumed and exported; and one does so through the command line."""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli, paint_pictures

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.deploy.export import check_images, export
from lit_cifar.nets.timm import Timm
from lit_cifar.training.callbacks.checkpoints import LastCheckpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm"),
]
FAMILIES: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "resnetv2_18": {"channels": (16, 16, 32, 32)},
    "regnetx_002": {},
    "densenet121": {"block_config": (2, 2, 2, 2)},
    "dla46x_c": {},
    "test_convnext": {"drop_path_rate": 0.1},
    "test_efficientnet": {},
    "mobilenetv3_small_050": {},
    "test_byobnet": {},
    "test_nfnet": {},
    "test_mambaout": {},
    "starnet_s050": {},
    "edgenext_xx_small": {},
    "test_coatnet": {},
    "test_vit": {},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "swin_tiny_patch4_window7_224": {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4)},
    "mixer_s16_224": {},
    "pvt_v2_b0": {},
    "xcit_nano_12_p8_224": {"depth": 2},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_and_is_tested_and_resumed_and_exported(
    name: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = Timm(name, num_classes=3, **FAMILIES[name])
    before = {key: weight.clone() for key, weight in net.named_parameters()}

    def fit(module: LitClassifier, steps: int, path: Path | None = None) -> Trainer:
        options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0}
        options |= {"limit_val_batches": 0, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(max_steps=steps, callbacks=[LastCheckpoint()], **options)
        data = CIFAR10DataModule(str(pictures), "folder", batch_size=4, val_size=6)
        trainer.fit(module, data, ckpt_path=path)
        return trainer

    optimizer = partial(torch.optim.SGD, lr=0.01)
    fit(LitClassifier(net, optimizer), 2)
    after = dict(net.named_parameters())
    assert all(weight.isfinite().all() for weight in after.values())
    assert sum(not torch.equal(before[key], after[key]) for key in before) > len(before) / 2

    last = tmp_path / "checkpoints" / "last.ckpt"
    loaded = LitClassifier.load_from_checkpoint(last)
    assert isinstance(loaded.net, Timm)
    assert loaded.net.name == name
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    (metrics,) = trainer.test(loaded, CIFAR10DataModule(str(pictures), "folder", batch_size=4), verbose=False)
    assert 0 <= metrics["accuracy/test"] <= 1

    resumed = fit(LitClassifier(Timm(name, num_classes=3, **FAMILIES[name]), optimizer), 3, last)
    assert resumed.global_step == 3
    loaded = LitClassifier.load_from_checkpoint(last)
    written, difference = export(loaded, "onnx", tmp_path / "net.onnx", check_images(loaded, pictures)[0])
    assert written[0].stat().st_size > 0
    assert difference < 1e-4


def test_all_commands_know_the_network_of_a_checkpoint(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = (f"--data.root={pictures}", "--data.val_size=6", "--data.batch_size=18")
    net = ("--model.net=lit_cifar.nets.timm.Timm", "--model.net.name=test_resnet", "--model.net.drop_path_rate=0.1")
    assert cli("fit", *data, *net, "--trainer.max_epochs=1").code == 0
    (run,) = Path("lightning_logs/tutorial").iterdir()
    last = run / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    assert content["lit_cifar"]["card"]["net"] == {
        "class_path": "lit_cifar.nets.timm.Timm",
        "init_args": {
            **{"name": "test_resnet", "stem": "cifar", "pretrained": False, "num_classes": 3, "image_size": 32},
            "drop_path_rate": 0.1,
        },
    }
    assert cli("fit", *data, "--trainer.max_epochs=2", "--ckpt_path=last").code == 0
    assert torch.load(last, weights_only=True)["global_step"] == 2 * content["global_step"]
    result = cli("fit", *data, "--trainer.max_epochs=3", "--ckpt_path=last", "--model.net.name=resnet18")
    assert result.failed(2, "checkpoint-of-another-training", "test_resnet", "resnet18")
    for words in (
        ("test", f"--data.root={pictures}", "--ckpt_path=best"),
        ("validate", f"--data.root={pictures}", "--ckpt_path=last"),
        ("predict", pictures / "test" / "bird"),
        ("export", "--format=onnx", "--output=net.onnx"),
        ("export", "--format=torch", "--output=net.pt2"),
        ("export", "--format=safetensors", "--output=net.safetensors"),
    ):
        result = cli(*words)
        assert result.code == 0, result
    two = paint_pictures(tmp_path / "two", ("red", "green"))
    result = cli("fit", f"--data.root={two}", "--data.val_size=4", "--trainer.max_steps=1", f"--init_from={last}")
    assert result.code == 0, result
    assert "net.fc is new" in result.out

    monkeypatch.chdir(two)
    result = cli("fit", *data, *net[:1], "--model.net.name=resnet1")
    assert result.failed(2, "network-unknown", "resnet1", "resnet18")
    assert not Path("lightning_logs").exists()
