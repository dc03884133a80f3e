from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.loader import BatchLoader
from lit_cifar.report import figures


def test_show_writes_a_grid_and_prints_its_labels(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    result = cli("show", "--data.root", pictures, "--data.val_size=6", "--count=16", "--output", path)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert [len(line.split()) for line in lines[:2]] == [8, 8]
    assert set(" ".join(lines[:2]).split()) == {"plane", "car", "bird"}
    assert lines[2] == f"Written: {path}"
    with Image.open(path) as picture:
        assert min(picture.size) > 200


def test_show_restores_the_colours_whatever_the_normalisation(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    grids = []
    for name, mean, std in (("a", 0.5, 0.5), ("b", 0.1, 0.3)):
        values = [f"--data.normalize=[[{mean},{mean},{mean}],[{std},{std},{std}]]"]
        path = tmp_path / f"{name}.png"
        assert cli("show", "--data.root", pictures, "--data.val_size=0", "--output", path, *values).code == 0
        grids.append(np.asarray(Image.open(path)))
    assert np.array_equal(grids[0], grids[1])


def test_augmented_shows_each_image_then_seven_epochs_and_names_the_classes_of_mixtures(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = BatchLoader.take

    def mixed(loader: BatchLoader, indices: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = take(loader, indices)
        if loader.augmentation == Augmentation() or loader.epoch != 1:
            return images, labels
        one, other = (F.one_hot(each % 3, 3) for each in (labels, labels + 1))
        return images, 0.746 * one + 0.254 * other

    monkeypatch.setattr(BatchLoader, "take", mixed)
    drawn: list[Any] = []
    grid = figures.image_grid

    def noted(*arguments: Any, **named: Any) -> Any:
        drawn.append((arguments, named))
        return grid(*arguments, **named)

    monkeypatch.setattr(figures, "image_grid", noted)
    words = ("show", "--data.root", pictures, "--augmented", "--data.trivial_augment=true", "--data.jitter=0.1")
    result = cli(*words, "--output", tmp_path / "a.png")
    assert result.code == 0, result.err
    assert cli("show", "--data.root", pictures, "--count=4", "--output", tmp_path / "b.png").code == 0
    ((images, names, *_), named), ((plain, plain_names, *_), _) = drawn
    assert named["headings"] == ["original", *(f"epoch {epoch}" for epoch in range(1, 8))]
    assert torch.equal(images[::8], plain)
    assert names[::8] == plain_names
    for row, name in enumerate(plain_names):
        following = {"plane": "car", "car": "bird", "bird": "plane"}[name]
        mixture = f"75 % {name},\n25 % {following}"
        assert names[8 * row : 8 * row + 8] == [name, "", mixture, *[""] * 5]
        assert len(images[8 * row : 8 * row + 8].flatten(1).unique(dim=0)) > 2
    assert f"75 % {name}, 25 % {following}" in result.out


def test_show_takes_the_augmentation_of_a_recipe(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"trainer: {{max_epochs: 1}}\ndata: {{root: {pictures}, val_size: 6, flip: true}}\n")
    result = cli("show", "--config", recipe, "--augmented", "--output", tmp_path / "a.png")
    assert result.code == 0, result.err
    assert "The recipe augments nothing" not in result.out


def test_show_takes_the_seed_of_a_recipe(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    grids = []
    for seed in (0, 7, 7):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(f"seed_everything: {seed}\ndata: {{root: {pictures}, val_size: 6}}\n")
        assert cli("show", "--config", recipe, "--output", tmp_path / "a.png").code == 0
        grids.append((tmp_path / "a.png").read_bytes())
    assert grids[0] != grids[1] == grids[2]


def test_too_many_images_are_refused(cli: Cli, pictures: Path) -> None:
    result = cli("show", "--data.root", pictures, "--data.val_size=6", "--count=65")
    assert result.failed(2, "value-out-of-range", "--count 65", "64")


def test_a_wrong_key_of_a_recipe_is_named(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    for content, name in (("data: {crp: 1}\n", "data.crp"), ("data: {crop: x}\n", "data.crop")):
        recipe.write_text(content)
        assert cli("show", "--config", recipe).failed(2, "recipe-invalid", f"--config {recipe}", name)


def test_only_a_png_is_written_and_a_class_name_does_not_control_the_terminal(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        (pictures / split / "bird").rename(pictures / split / "b\x1b[2J")
    words = ("--data.root", pictures, "--data.val_size=0", "--output")
    assert cli("show", *words, tmp_path).failed(2, "output-refused", f"--output {tmp_path}", "show.png")
    assert cli("show", *words, tmp_path / "show.jpg").failed(2, "output-refused", "show.jpg", ".png")
    shown = cli("show", *words, tmp_path / "show.png")
    assert "b?[2J" in shown.out
    assert "\x1b" not in shown.out
