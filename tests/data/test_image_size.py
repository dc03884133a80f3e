"""Pictures of any size become squares of `image_size`, normalized by the numbers that a run was trained with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import Cli, refused
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.data.image_files import Resize, Scaling
from lit_cifar.data.image_folder import cache_name
from lit_cifar.data.pictures import to_pixels
from lit_cifar.data.sources import open_images
from lit_cifar.deploy.demo.gallery import make_gallery
from lit_cifar.deploy.demo.looking import look
from lit_cifar.deploy.demo.reading import read
from lit_cifar.deploy.standalone import Standalone
from lit_cifar.errors import UsageError
from lit_cifar.runs.card import RunCard
from lit_cifar.runs.checkpoint import read_checkpoint

SIZES = ((48, 64), (300, 200), (20, 20), (90, 30))
QUIET: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


def paint(root: Path, brightness: int = 120, channels: int = 3) -> Path:
    """Pictures of two classes, in four sizes: of each 8 to train on and 4 to test."""
    generator = np.random.default_rng(brightness)
    for split, count in (("train", 8), ("test", 4)):
        for name in ("apple", "pear"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                width, height = SIZES[i % 4]
                pixels = generator.integers(0, brightness, (height, width, 3), dtype=np.uint8)
                pixels[..., channels:] = 7
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


class Patches(nn.Module):
    """A network of the user's own, which has to know the size of images."""

    def __init__(self, image_size: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        self.image_size, self.num_classes = image_size, num_classes
        self.pool, self.head = nn.AvgPool2d(4), nn.Linear(3 * (image_size // 4) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(images).flatten(1))
        return logits


def test_a_wide_picture_is_squeezed_cropped_or_padded() -> None:
    picture = torch.zeros(3, 10, 30, dtype=torch.uint8)
    picture[0, :, :10], picture[1, :, 10:20], picture[2, :, 20:] = 255, 255, 255  # red, green, blue
    squeezed, cropped, padded = (to_pixels(picture, Scaling(60, way)) for way in ("squeeze", "crop", "pad"))
    for x, channel in ((5, 0), (30, 1), (55, 2)):
        assert squeezed[:, 30, x].tolist() == [255 * (channel == each) for each in range(3)]
    assert cropped.flatten(1).float().mean(1).tolist() == [0, 255, 0]
    assert torch.equal(padded[:, 20:40], to_pixels(picture, Scaling(60))[:, :20])  # all rows are alike
    assert padded[:, :20].max() == padded[:, 40:].max() == 0


@pytest.mark.parametrize("way", ["squeeze", "crop", "pad"])
def test_a_tall_picture_is_scaled_as_torchvision_does(way: Resize) -> None:
    tall = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 120, 40), dtype=np.uint8))
    sizes = {"squeeze": [64, 64], "crop": [64, 64], "pad": [64, 21]}
    expected = v2.Resize(sizes[way], v2.InterpolationMode.BICUBIC)(tall[:, 40:80] if way == "crop" else tall)
    found = to_pixels(tall, Scaling(64, way))
    if way == "pad":
        assert not found[:, :, :21].any() and not found[:, :, 42:].any()
        found = found[:, :, 21:42]
    assert (found.int() - expected.int()).abs().max() <= 1


def test_each_size_and_way_has_a_cache_of_its_own_of_bytes(tmp_path: Path) -> None:
    root = paint(tmp_path / "fruit")
    scalings = Scaling(), Scaling(48), Scaling(48, "crop"), Scaling(224, "pad")
    opened = [open_images(root, scaling=scaling).train.images for scaling in scalings]
    assert [(images.shape[-1], images.dtype) for images in opened] == [
        (side, torch.uint8) for side in (32, 48, 48, 224)
    ]
    caches = sorted(path.name for path in root.glob("*.npz"))
    assert caches == sorted(map(cache_name, scalings))
    again = [open_images(root, scaling=scaling).train.images for scaling in scalings]
    assert all(map(torch.equal, opened, again))
    first = to_pixels(Image.open(root / "train" / "apple" / "1.png"), scalings[2])
    assert torch.equal(opened[2][1], first)


def test_data_means_all_pixels_of_the_images_that_are_not_held_out(tmp_path: Path) -> None:
    data = CIFAR10DataModule(str(paint(tmp_path / "fruit")), val_size=4, image_size=40, normalize="data")
    pixels = data.images.train.images[data.split()[0]].numpy().astype(np.float64) / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-12)
    assert data.std == pytest.approx(pixels.std((0, 2, 3)), abs=1e-12)
    images = torch.cat([images for images, _ in data.train_dataloader()])
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    assert (images.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_a_channel_without_contrast_and_images_of_a_fixed_size_are_refused(tmp_path: Path) -> None:
    flat = CIFAR10DataModule(str(paint(tmp_path / "flat", channels=2)), normalize="data")
    with refused(UsageError, "value-invalid", "--data.normalize data", "blue", "half"):
        flat.prepare_data()
    some: tuple[dict[str, Any], ...] = ({"dataset": "drawn"}, {"root": str(tmp_path / "nothing")})
    for options in some:
        with refused(UsageError, "value-invalid", "--data.image_size 64", "--model.sides"):
            CIFAR10DataModule(image_size=64, **options).prepare_data()
    assert not (tmp_path / "nothing").exists()


@pytest.mark.slow
def test_a_network_for_another_size_is_refused_and_others_are_named(cli: Cli, tmp_path: Path) -> None:
    words = ("--data.root", paint(tmp_path / "fruit"), "--trainer.default_root_dir", tmp_path / "runs")
    result = cli("fit", *words, "--data.image_size=64")
    assert result.failed(2, "network-unfit", "--data.image_size 64", "the network Net", "ResNet18", "SpeedrunNet")
    assert result.err.count(" Net") == 1
    assert not (tmp_path / "runs").exists()


def fit(cli: Cli, tmp_path: Path, *more: str) -> tuple[tuple[str | Path, ...], RunCard, Path]:
    """Trains `Patches` for an epoch; the words of the command line, and card and path of the checkpoint."""
    recipe = tmp_path / "fruit.yaml"
    data = {"image_size": 48, "resize": "pad", "normalize": "data", "crop": 40, "cutout": 96, "batch_size": 8}
    recipe.write_text(yaml.safe_dump({"data": data}))
    net, runs = f"{Patches.__module__}.Patches", tmp_path / "runs"
    words = ("--config", recipe, "--model.net", net, "--trainer.default_root_dir", runs)
    trained = cli("fit", *words, "--data.root", paint(tmp_path / "fruit"), "--trainer.max_epochs=1", *more)
    assert trained.code == 0, trained.err
    assert "48 × 48 pixels (pad), mean 0." in trained.out
    (checkpoint,) = runs.rglob("last.ckpt")
    return words, read_checkpoint(checkpoint).card, checkpoint


def test_a_trained_network_predicts_pictures_scaled_as_in_training(cli: Cli, tmp_path: Path) -> None:
    words, card, checkpoint = fit(cli, tmp_path, "--trainer.logger=false")
    assert (card.image_size, card.resize) == (48, "pad")
    assert card.net["init_args"] == {"image_size": 48, "num_classes": 2}
    classifier = LitClassifier.load_from_checkpoint(checkpoint, Patches(48, 2))
    assert isinstance(classifier.example_input_array, Tensor)
    assert classifier.example_input_array.shape == (1, 3, 48, 48)
    picture = np.array(Image.open(tmp_path / "fruit" / "test" / "pear" / "1.png"))
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
    pixels = (to_pixels(picture, Scaling(48, "pad")) / 255 - mean) / std
    expected = classifier.net(pixels[None]).softmax(1).detach()
    torch.testing.assert_close(classifier.predict(picture), expected)
    standalone = Standalone(classifier.net, card.mean, card.std, card.image_size, card.resize)
    torch.testing.assert_close(standalone(torch.from_numpy(picture)[None]).detach(), expected)
    further = (*words, "--data.root", tmp_path / "fruit", "--ckpt_path", checkpoint, "--data.resize=crop")
    assert cli("fit", *further).failed(2, "checkpoint-of-another-training", "--data.resize (pad, now crop)")


@pytest.mark.slow
def test_exported_files_and_the_demo_scale_pictures_as_in_training(cli: Cli, tmp_path: Path) -> None:
    root, runs = paint(tmp_path / "fruit"), ("--trainer.default_root_dir", tmp_path)
    net = ("--model.net=CCT", "--model.net.depth=1", "--model.net.width=32", "--model.net.heads=2")
    data = (f"--data.root={root}", "--data.image_size=64", "--data.resize=crop", "--data.batch_size=8")
    assert cli("fit", *net, *data, *runs, "--trainer.max_epochs=1").code == 0
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    classifier = LitClassifier.load_from_checkpoint(checkpoint)
    picture = root / "test" / "pear" / "1.png"
    expected = classifier.predict(Image.open(picture))[0]
    for name, suffix in (("torch", "pt2"), ("safetensors", "safetensors")):  # whose file is compared with predict
        output = tmp_path / f"model.{suffix}"
        exported = cli("export", data[0], *runs, "--ckpt_path", checkpoint, "--format", name, "--output", output)
        assert (exported.code, exported.err) == (0, "")
        assert "test images" in exported.out
    program = torch.export.load(tmp_path / "model.pt2").module()
    pixels = torch.from_numpy(np.array(Image.open(picture)))[None]
    torch.testing.assert_close(program(pixels)[0], expected)
    answer = look(classifier, read(picture.read_bytes(), picture.name, classifier.scaling), None, None)
    torch.testing.assert_close(torch.tensor([each["probability"] for each in answer["classes"]]), expected)
    gallery, _ = make_gallery(classifier, root)
    assert gallery and gallery.images.shape[1:] == (3, 64, 64)


@pytest.mark.slow
def test_the_report_of_a_test_on_other_images_has_the_numbers_of_the_training(cli: Cli, tmp_path: Path) -> None:
    words, card, checkpoint = fit(cli, tmp_path)
    other = paint(tmp_path / "other", 250)
    tested = cli("test", *words, "--data.root", other, "--ckpt_path", checkpoint)
    assert tested.code == 0, tested.err
    report = json.loads((checkpoint.parents[2] / "version_1" / "report.json").read_text())
    for key in ("image_size", "resize", "mean", "std"):
        assert report[key] == getattr(card, key)
    further = (*words, "--data.root", tmp_path / "fruit", "--ckpt_path", checkpoint, "--trainer.max_epochs=2")
    assert cli("fit", *further).code == 0


def test_in_python_a_trained_network_is_tested_with_its_own_numbers(tmp_path: Path) -> None:
    first, other = (
        CIFAR10DataModule(str(paint(tmp_path / str(brightness), brightness)), image_size=40, normalize="data")
        for brightness in (120, 250)
    )
    classifier, trainer = LitClassifier(Patches(40, 2)), Trainer(max_epochs=1, **QUIET)
    trainer.fit(classifier, datamodule=first)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.test(classifier, datamodule=other, verbose=False)
    assert (classifier.mean, other.mean) == (first.mean, first.mean)
    again = CIFAR10DataModule(str(tmp_path / "250"), image_size=40, normalize="data")
    Trainer(**QUIET).test(LitClassifier(Patches(40, 2)), datamodule=again, ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert again.mean == first.mean


def test_a_card_from_before_there_were_sizes_is_read(runs: Path) -> None:
    path = runs / "lightning_logs" / "tutorial" / "version_0" / "checkpoints" / "last.ckpt"
    card = read_checkpoint(path).card
    values = {name: value for name, value in card.as_dict().items() if name not in ("image_size", "resize")}
    assert RunCard.from_dict(values) == replace(card, image_size=32, resize="squeeze")
    for wrong in ({"image_size": 10**9}, {"image_size": "32"}, {"resize": "stretch"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RunCard.from_dict(values | wrong)
