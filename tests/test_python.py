"""What is trained on the command line predicts pictures in Python."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import Cli, checkpoint, refused
from PIL import Image

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.data.image_files import TO_32, read_picture
from lit_cifar.data.pictures import to_pixels
from lit_cifar.errors import UsageError
from lit_cifar.nets.speedrun import SpeedrunNet
from lit_cifar.nets.tutorial import Net


def test_a_loaded_checkpoint_predicts_images_arrays_and_tensors_alike(runs: Path) -> None:
    classifier = LitClassifier.load_from_checkpoint(checkpoint(runs))
    assert classifier.classes == ("plane", "car", "bird")

    files = sorted((runs / "pictures" / "test").glob("*/*.png"), key=lambda path: (path.parent.name, path.name))
    images = [Image.open(file) for file in files]
    probabilities = classifier.predict(images)
    assert probabilities.shape == (24, 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(24))
    arrays = np.stack([np.array(image) for image in images])
    for same in (arrays, torch.from_numpy(arrays).permute(0, 3, 1, 2)):
        assert torch.equal(classifier.predict(same), probabilities)
    torch.testing.assert_close(classifier.predict(images[5]), probabilities[5:6])


MODES = ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "PA", "RGBa", "La", "RGBX")


def in_mode(mode: str) -> Image.Image:
    """A slanted ramp of 40x50 pixels, as far as a mode can tell it."""
    ramp = (np.add.outer(np.arange(50) * 3, np.arange(40) * 2)).astype(np.uint8)
    colours = Image.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], 2))
    if mode.startswith("I"):
        return Image.fromarray(ramp.astype(np.uint16) * 256).convert(mode)
    first = {"PA": "P", "RGBa": "RGBA", "La": "LA"}.get(mode)
    return (colours.convert(first) if first else colours).convert(mode)


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_any_mode_is_seen_in_its_colours(mode: str) -> None:
    image = in_mode(mode)
    assert image.mode == mode
    grey = mode in ("1", "L", "LA", "La") or mode.startswith("I")
    expected = in_mode("L" if grey and not mode.startswith("I") else "RGB")
    if mode.startswith("I"):
        expected = Image.fromarray((np.asarray(image).astype(np.int64) // 256).astype(np.uint8))
    pixels, should = (to_pixels(each, TO_32).float() for each in (image, expected))
    assert pixels.shape == (3, 32, 32)
    assert (pixels - should).abs().mean() < {"1": 60, "P": 12, "PA": 12}.get(mode, 3)  # few colours are dithered
    if mode not in ("1", "P", "PA"):
        assert (pixels - should).abs().max() < 20


@pytest.mark.parametrize("mode", ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "YCbCr", "LAB"))
def test_a_file_and_its_pil_image_give_the_same_pixels(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "a.tif"
    in_mode(mode).save(file)
    with Image.open(file) as image:
        assert image.mode == mode
        assert torch.equal(to_pixels(image, TO_32), torch.from_numpy(np.array(read_picture(file))).permute(2, 0, 1))


def test_grey_and_rgba_arrays_are_pictures_too() -> None:
    classifier = LitClassifier(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()))
    classifier.classes, classifier.mean, classifier.std = ("r", "g", "b"), (0.5,) * 3, (0.5,) * 3
    grey = np.full((20, 30), 128, np.uint8)
    red = np.full((20, 30, 4), (255, 0, 0, 255), np.uint8)
    torch.testing.assert_close(classifier.predict(grey), torch.full((1, 3), 1 / 3))
    assert classifier.predict([grey, red, Image.fromarray(red)])[:, 0].tolist() == pytest.approx(
        [1 / 3, 0.787, 0.787], abs=1e-3
    )
    red[..., 3] = 0  # which is white
    torch.testing.assert_close(classifier.predict(red), torch.full((1, 3), 1 / 3))
    assert classifier.predict([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (torch.zeros(3, 32, 32), r"uint8 \[3, H, W\], not torch.float32 \[3, 32, 32\]"),
        (np.zeros((32, 32, 3)), r"uint8 \[H, W\], \[H, W, 3\] or \[H, W, 4\], not float64 \[32, 32, 3\]"),
        (np.zeros((5, 32, 32), np.uint8), r"not uint8 \[5, 32, 32\]"),
        (np.zeros((0, 32, 3), np.uint8), r"not uint8 \[0, 32, 3\]"),
        (Image.new("F", (32, 32)), "bytes, not floating-point numbers"),
        ("cat.jpg", "not str; open a file first"),
        ([Path("cat.jpg")], "not [A-Z]\\w+Path; open a file first"),
    ],
)
def test_an_image_of_another_type_is_told_by_its_shape(image: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LitClassifier(torch.nn.Identity()).predict(image)


def test_a_network_made_in_python_is_loaded_with_its_arguments(pictures: Path, tmp_path: Path) -> None:
    model = LitClassifier(SpeedrunNet(3, (4, 8, 8), 3), lambda weights: torch.optim.SGD(weights, lr=0.001))
    data = CIFAR10DataModule(str(pictures), val_size=0, batch_size=20)
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = LitClassifier.load_from_checkpoint(tmp_path / "model.ckpt")
    assert isinstance(loaded.net, SpeedrunNet)
    assert loaded.net.depth == 3
    images = data.images.test.images
    torch.testing.assert_close(loaded.predict(images), model.predict(images))


def test_predicting_leaves_every_layer_in_its_mode_and_gives_ordinary_tensors() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(3072).eval(), torch.nn.Linear(3072, 2))
    classifier = LitClassifier(net).train()
    net[1].eval()
    classifier.classes, classifier.mean, classifier.std = ("a", "b"), (0.5,) * 3, (0.5,) * 3
    probabilities = classifier.predict(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert not probabilities.is_inference()
    assert [module.training for module in net] == [True, False, True]


def test_a_classifier_that_was_not_trained_refuses_to_predict() -> None:
    with refused(UsageError, "network-untrained"):
        LitClassifier(torch.nn.Flatten()).predict(torch.zeros(3, 32, 32, dtype=torch.uint8))


def test_a_checkpoint_of_a_loss_with_weights_is_tested_without_it(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    model = LitClassifier(Net(3), loss=torch.nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0])))
    trainer = pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(model, datamodule=CIFAR10DataModule(str(pictures), val_size=0, batch_size=20))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    root = (f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}")
    result = cli("test", "--ckpt_path", tmp_path / "model.ckpt", *root)
    assert result.code == 0, result.err
    assert "Accuracy of the network on the 24 test images" in result.out
