"""`python -m lit_cifar show`: a labelled grid of training images, as the network sees them but in their own colours."""

from pathlib import Path

import torch
from torch import Tensor

from lit_cifar.cli.parser import Parser, RecipeAction
from lit_cifar.cli.recipes import Given
from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.loader import BatchLoader
from lit_cifar.errors import UsageError
from lit_cifar.report import figures, tables
from lit_cifar.training.step import hard

COLUMNS = 8
LARGEST_COUNT = 64
EXAMPLE = Augmentation(flip=True, crop=4, cutout=8)  # if the recipe augments nothing


def main(words: list[str]) -> None:
    """Writes the PNG and prints its labels, row by row."""
    parser = Parser(prog="python -m lit_cifar show", description="Write a labelled grid of training images to a PNG.")
    parser.given = Given(words)
    for file, recipe in parser.given.recipes.items():
        seed = {"seed": recipe["seed_everything"]} if "seed_everything" in recipe else {}
        parser.given.recipes[file] = {"data": seed | recipe.get("data", {})}
    parser.add_argument("--config", action=RecipeAction, help="Recipe whose images and augmentation are shown.")
    parser.add_argument("--output", type=Path, default=Path("show.png"), help="PNG to write.")
    parser.add_argument("--count", type=int, default=32, help=f"Number of images, up to {LARGEST_COUNT}.")
    parser.add_argument("--augmented", action="store_true", help="Show each image in 8 epochs, augmented.")
    parser.add_class_arguments(CIFAR10DataModule, "data")
    parser.set_defaults({"data.dataset": "auto"})
    config = parser.parse_args(words)
    if not 1 <= config.count <= LARGEST_COUNT:
        raise UsageError("value-out-of-range", f"--count {config.count} must be between 1 and {LARGEST_COUNT}")
    if config.output.is_dir() or config.output.suffix.lower() != ".png":
        raise UsageError("output-refused", f"--output {config.output} must be a PNG file, such as show.png")
    config.data.val_size = 0  # all of them are shown, however few there are
    data: CIFAR10DataModule = parser.make(config).data
    tables.print_drawn_box(data.images)
    loader = data.train_dataloader()
    if config.augmented:
        images, labels = _in_eight_epochs(loader, data, min(config.count // COLUMNS or 1, len(loader.order())))
        title = f"Training images of {data.title}, augmented: each row is one image in eight epochs"
    else:
        loader.augmentation = Augmentation()
        images, labels = loader.take(loader.order()[: config.count])
        title = f"Training images of {data.title}"
    names = [tables.printable(data.classes[label]) for label in hard(labels).tolist()]
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    restored = ((images * std + mean) * 255).round().clamp(0, 255).byte()
    path = figures.save(figures.image_grid(restored, names, title, COLUMNS), config.output, "--output")
    width = max(map(len, names))
    for row in range(0, len(names), COLUMNS):
        print(" ".join(f"{name:{width}s}" for name in names[row : row + COLUMNS]))
    print(f"Written: {path}")


def _in_eight_epochs(loader: BatchLoader, data: CIFAR10DataModule, rows: int) -> tuple[Tensor, Tensor]:
    if loader.augmentation == Augmentation():
        loader.augmentation = EXAMPLE
        print("The recipe augments nothing; these are flip, crop 4 and cutout 8, as an example.")
    indices = loader.order()[:rows]
    epochs = []
    for epoch in range(COLUMNS):
        loader.set_epoch(epoch)
        epochs.append(loader.take(indices))
    images, labels = (torch.stack(parts, 1).flatten(0, 1) for parts in zip(*epochs, strict=True))
    return images, labels
