"""`python -m lit_cifar show`: a labelled grid of training images, as the network sees them but in their own colours."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lit_cifar.cli.arguments import check_numbers
from lit_cifar.cli.help import SHOW
from lit_cifar.cli.parser import Parser, RecipeAction
from lit_cifar.cli.recipes import Given
from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.loader import BatchLoader
from lit_cifar.errors import UsageError
from lit_cifar.report import figures, tables

COLUMNS = 8
LARGEST_COUNT = 64
EXAMPLE = Augmentation(flip=True, crop=4, cutout=8)  # if the recipe augments nothing


def main(words: list[str]) -> None:
    """Writes the PNG and prints its labels, row by row."""
    parser = Parser(prog="python -m lit_cifar show", description="Write a labelled grid of training images to a PNG.")
    parser.given, parser.essentials = Given(words), SHOW
    for file, recipe in parser.given.recipes.items():
        seed = {"seed": recipe["seed_everything"]} if "seed_everything" in recipe else {}
        parser.given.recipes[file] = {"data": seed | recipe.get("data", {})}
    parser.add_argument("--config", action=RecipeAction, help="Recipe whose images and augmentation are shown.")
    parser.add_argument("--output", type=Path, default=Path("show.png"), help="PNG to write.")
    parser.add_argument("--count", type=int, default=32, help=f"Number of images, up to {LARGEST_COUNT}.")
    parser.add_argument("--augmented", action="store_true", help="Show each image, then how it looks in 7 epochs.")
    parser.add_class_arguments(CIFAR10DataModule, "data")
    parser.set_defaults({"data.dataset": "auto"})
    config = parser.parse_args(words)
    check_numbers(config)
    if not 1 <= config.count <= LARGEST_COUNT:
        raise UsageError("value-out-of-range", f"--count {config.count} must be between 1 and {LARGEST_COUNT}")
    if config.output.is_dir() or config.output.suffix.lower() != ".png":
        raise UsageError("output-refused", f"--output {config.output} must be a PNG file, such as show.png")
    parser.make(config)  # refuses a wrong val_size, too
    config.data.val_size = 0  # all of them are shown, however few there are
    data: CIFAR10DataModule = parser.make(config).data
    tables.print_drawn_box(data.images)
    loader = data.train_dataloader()
    indices = loader.order()[: (config.count // COLUMNS or 1) if config.augmented else config.count]
    title, headings = f"Training images of {data.title}", []
    if config.augmented:
        images, names = _in_seven_epochs(loader, indices)
        title += "\nAugmented: each row is one image, and its label is repeated only where it changes."
        headings = ["original", *(f"epoch {epoch}" for epoch in range(1, COLUMNS))]
    else:
        loader.augmentation = Augmentation()
        images, labels = loader.take(indices)
        names = _names_of(labels, data.classes)
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    restored = ((images * std + mean) * 255).round().clamp(0, 255).byte()
    grid = figures.image_grid(restored, names, title, COLUMNS, headings=headings)
    path = figures.save(grid, config.output, "--output")
    names = [name.replace("\n", " ") for name in names]
    for row in range(0, len(names), COLUMNS):
        print("  ".join(name.ljust(max(map(len, names))) for name in names[row : row + COLUMNS]).rstrip())
    print(f"Written: {path}")


def _names_of(labels: Tensor, classes: Sequence[str]) -> list[str]:
    """Returns the class of each image by int64 `[N]`, or by float32 `[N, C]` the percentages of each in a mixture."""
    names = [tables.printable(name) for name in classes]
    if labels.ndim == 1:
        return [names[label] for label in labels.tolist()]
    found = []
    for shares in labels.mul(100).round().int():
        most = shares.argsort(descending=True, stable=True)[: int((shares > 0).sum())].tolist()
        parts = [f"{shares[label]} % {names[label]}" for label in most]
        found.append(",\n".join(parts) if len(parts) > 1 else names[most[0]])
    return found


def _in_seven_epochs(loader: BatchLoader, indices: Tensor) -> tuple[Tensor, list[str]]:
    """Returns images and names row by row: the original first, and after it only names that differ from its own."""
    augmentation = loader.augmentation
    if augmentation == Augmentation():
        augmentation = EXAMPLE
        print("The recipe augments nothing; these are flip, crop 4 and cutout 8, as an example.")
    loader.augmentation = Augmentation()
    columns = [loader.take(indices)]
    loader.augmentation = augmentation
    for epoch in range(COLUMNS - 1):
        loader.set_epoch(epoch)
        columns.append(loader.take(indices))
    images = torch.stack([images for images, _ in columns], 1).flatten(0, 1)
    rows = zip(*(_names_of(labels, loader.classes) for _, labels in columns), strict=True)
    return images, [name if not i or name != row[0] else "" for row in rows for i, name in enumerate(row)]
