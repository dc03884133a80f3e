"""Networks that people bring are tried in training mode, with as few images as will occur, and get `num_classes`."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Cli, Result
from torch import Tensor, nn

Fit = Callable[..., Result]
TIMM = ("--model.net=timm.create_model", "--model.net.model_name=test_resnet", "--model.net.drop_rate=0.1")


class Small(nn.Module):
    def __init__(self, num_classes: int = 10, width: int = 4) -> None:
        super().__init__()
        self.num_classes, self.width = num_classes, width
        self.hidden, self.head = nn.Linear(3072, width), nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        return self.head(self.hidden(images.flatten(1)))


class Pair(Small):
    """Returns another output while training, as GoogLeNet does."""

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.hidden(images.flatten(1))
        return (self.head(x), x) if self.training else self.head(x)


class Named(Small):
    """Returns a dict while training, as torchvision's networks for segmentation do."""

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        logits = self.head(self.hidden(images.flatten(1)))
        return {"out": logits} if self.training else logits


class FailsInTraining(Small):
    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("needs two crops of each image")
        return self.head(self.hidden(images.flatten(1)))


class Normed(Small):
    """Batch normalization of single numbers, which can't take a batch of one."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.norm = nn.BatchNorm1d(self.width)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.hidden(images.flatten(1))))


class Asserts(Small):
    """Asserts the size of its images, as timm's vision transformers do."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[2] == 224, "images must be 224 pixels high"
        return self.head(self.hidden(images.flatten(1)))


class Squeezes(Small):
    """Drops the dimension of the images if there is only one."""

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(images.flatten(1)).squeeze()) if self.training else self.head(images[:, 0, 0, :4])


@pytest.fixture
def fit(cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """`fit(*flags)` on 54 images of three classes, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    words = ("--trainer.max_epochs=1", "--data.val_size=6", "--data.batch_size=9", "--trainer.logger=false")
    return lambda *flags: cli("fit", f"--data.root={pictures}", *words, *flags)


def classes_of(path: str | Path) -> int:
    """The number of classes that a network was made with."""
    checkpoint = torch.load(path, weights_only=True)
    return int(checkpoint["lit_cifar"]["card"]["net"]["init_args"]["num_classes"])


@pytest.mark.parametrize(
    ("net", "names"),
    [("Pair", ["tuple of 2"]), ("Named", ["dict of 1"]), ("FailsInTraining", ["two crops"]), ("Asserts", ["224"])],
)
def test_a_network_that_can_only_be_evaluated_is_refused_before_anything_is_written(
    fit: Fit, net: str, names: list[str]
) -> None:
    assert fit(f"--model.net=test_networks.{net}").failed(2, "network-unfit", "--model.net", net, *names)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("net", ["Normed", "Squeezes"])
def test_a_network_that_fails_with_one_image_is_refused_if_the_last_batch_has_one(fit: Fit, net: str) -> None:
    result = fit(f"--model.net=test_networks.{net}", "--data.batch_size=53")
    assert result.failed(2, "network-unfit", net, "single image", "54", "53", "--data.batch_size", "52")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--data.batch_size=53", "--trainer.limit_train_batches=1"],
        ["--data.batch_size=53", "--trainer.limit_train_batches=0.5"],
        ["--data.batch_size=53", "--trainer.overfit_batches=1"],
        ["--data.batch_size=53", "--trainer.fast_dev_run=true"],
        ["--data.batch_size=52"],
        ["--data.batch_size=100"],
        ["--data.batch_size=9", "--model.slice_size=4"],  # 3 + 3 + 3
    ],
)
def test_it_trains_if_no_batch_has_one(fit: Fit, words: list[str]) -> None:
    assert fit("--model.net=test_networks.Normed", *words).code == 0


def test_a_slice_of_one_image_is_refused(fit: Fit) -> None:
    result = fit("--model.net=test_networks.Normed", "--data.batch_size=3", "--model.slice_size=2")
    assert result.failed(2, "network-unfit", "Normed", "slice", "3")


@pytest.mark.parametrize(
    ("net", "batch", "words"),
    [
        ("Normed", 3, ["--model.sync_batchnorm=false"]),  # shares of 2 and 1
        ("Normed", 53, []),
        ("Squeezes", 3, []),  # whatever is synchronised
    ],
)
def test_a_share_of_one_image_is_refused_unless_it_is_normalised_with_others(
    fit: Fit, net: str, batch: int, words: list[str]
) -> None:
    two = ["--trainer.devices=2", "--trainer.accelerator=cpu"]
    result = fit(f"--model.net=test_networks.{net}", f"--data.batch_size={batch}", *two, *words)
    assert result.failed(2, "network-unfit", net, "single image", "--data.batch_size")
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_a_share_of_one_image_is_normalised_with_those_of_the_other_process(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from running import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    words = ["--data.val_size=6", "--data.batch_size=3", "--trainer.devices=2", "--trainer.accelerator=cpu"]
    run("fit", f"--data.root={pictures}", "--trainer.max_epochs=1", "--model.net=test_networks.Normed", *words)


@pytest.mark.parametrize(
    "words",
    [
        ["--model.net=test_networks.Small"],
        ["--model.net=test_networks.Small", "--model.net.width=5"],
        ["--model.net=torchvision.models.squeezenet1_1"],  # whose signature doesn't show it
        ["--config=mine.yaml"],
        [],  # the tutorial's
    ],
)
def test_the_number_of_classes_comes_from_the_data(fit: Fit, words: list[str]) -> None:
    Path("mine.yaml").write_text("model:\n  net:\n    class_path: test_networks.Small\n    init_args: {width: 5}\n")
    result = fit(*words, "--trainer.limit_train_batches=1")
    assert result.code == 0, result
    (path,) = Path().glob("checkpoints/last.ckpt")
    assert classes_of(path) == 3


@pytest.mark.parametrize("form", ["flag", "init_args", "recipe"])
def test_a_number_of_classes_that_is_set_is_kept(fit: Fit, form: str) -> None:
    Path("mine.yaml").write_text("model: {net: {class_path: test_networks.Small, init_args: {num_classes: 4}}}\n")
    net = "--model.net=test_networks.Small"
    words = {
        "flag": [net, "--model.net.num_classes=4"],
        "init_args": [net, "--model.net.init_args.num_classes", "4"],
        "recipe": ["--config=mine.yaml"],
    }[form]
    assert fit(*words).failed(2, "network-classes", "4 outputs", "3 classes", "num_classes 3")


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
def test_a_network_of_timm_trains_and_is_tested(fit: Fit, cli: Cli, pictures: Path) -> None:
    assert fit(*TIMM).code == 0
    assert classes_of("checkpoints/last.ckpt") == 3
    result = cli("test", f"--data.root={pictures}", "--ckpt_path=checkpoints/last.ckpt", "--trainer.logger=false")
    assert result.code == 0, result


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
def test_a_network_of_timm_is_resumed_and_exported_and_predicts(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = (f"--data.root={pictures}", "--data.val_size=6", "--data.batch_size=18")
    assert cli("fit", *data, *TIMM, "--trainer.max_epochs=1").code == 0
    last = "lightning_logs/tutorial/version_0/checkpoints/last.ckpt"
    steps = torch.load(last, weights_only=True)["global_step"]
    assert cli("fit", *data, *TIMM, "--trainer.max_epochs=2", "--ckpt_path=last").code == 0
    assert torch.load(last, weights_only=True)["global_step"] == 2 * steps
    assert cli("predict", next(pictures.glob("test/bird/*"))).code == 0
    assert len(Path("predictions/predictions.csv").read_text().splitlines()) == 2
    assert cli("export", "--format=safetensors", "--output=net.safetensors").code == 0
    assert Path("net.safetensors").stat().st_size
