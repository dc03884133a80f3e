"""How fast lit_cifar is, compared with another way to do the same, and with the code before a change.

    python tests/benchmarks/speed.py --against plain --data.root DIR
    python tests/benchmarks/speed.py --against step --data.root DIR --before ../checkout-of-the-last-release

Every measurement runs in a process of its own, and the sides take turns, so that a slow minute of the machine affects
all of them. Prints a line after each round, then medians and their ratios, and writes them all to a JSON file. Flags
that are not listed by --help, such as --trainer.max_epochs 1, are passed on to fit.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import median

from comparisons import COMPARISONS, HERE, Setting


def main() -> None:
    """Measures, prints, and writes the JSON file."""
    parser = argparse.ArgumentParser(
        description="Compare the speed of lit_cifar with another way to do the same, and with the code before.",
        epilog="Other flags, such as --trainer.max_epochs 1, are passed on to fit.",
        allow_abbrev=False,
    )
    recipe = HERE / "configs" / "tutorial.yaml"
    parser.add_argument("--against", choices=COMPARISONS, required=True, help="What to compare with.")
    parser.add_argument("--before", type=Path, help="Another checkout, whose code is measured in turns with this one.")
    parser.add_argument("--config", type=Path, default=recipe, help="The recipe (default: the tutorial's).")
    parser.add_argument("--rounds", type=_positive, default=5, help="Measurements of each side (default: 5).")
    parser.add_argument("--steps", type=_positive, default=1000, help="Steps of a measurement (default: 1000).")
    parser.add_argument("--data.root", dest="root", type=Path, default="data", help="Folder of the images.")
    parser.add_argument("--data.batch_size", dest="batch_size", type=_positive, default=0, help="Images in a batch.")
    parser.add_argument("--output", type=Path, default="speed.json", help="File to write (default: speed.json).")
    options, flags = parser.parse_known_args()
    if not options.config.is_file():
        parser.error(f"--config {options.config} does not exist")
    if options.before and not (options.before / "lit_cifar" / "__main__.py").is_file():
        parser.error(f"--before {options.before} is not a checkout of lit_cifar")
    root, recipe = options.root.resolve(), options.config.resolve()
    now = Setting(recipe, root, options.batch_size, options.steps, tuple(flags))

    comparison = COMPARISONS[options.against]
    sides: dict[str, Callable[[], float]] = {comparison.ours: lambda: comparison.measure_ours(now)}
    if options.before:
        before = replace(now, checkout=options.before.resolve())
        sides[f"{comparison.ours}, before"] = lambda: comparison.measure_ours(before)
    sides[comparison.other] = lambda: comparison.measure_other(now)

    values: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1, options.rounds + 1):
        for name, measure in sides.items():
            values[name].append(measure())
        latest = ", ".join(f"{name} {_figure(found[-1])}" for name, found in values.items())
        print(f"Round {number} of {options.rounds} ({comparison.unit}): {latest}", flush=True)
    medians = {name: median(found) for name, found in values.items()}
    for name, found in values.items():
        spread = f"{_figure(min(found))} to {_figure(max(found))}"
        print(f"{name:{max(map(len, sides))}}  median {_figure(medians[name])} ({spread}) {comparison.unit}")
    ratios = {f"{one} / {other}": medians[one] / medians[other] for one, other in combinations(sides, 2)}
    for name, ratio in ratios.items():
        print(f"Ratio of the medians, {name}: {ratio:.3f}")
    written = {"against": options.against, "recipe": str(options.config), "unit": comparison.unit, "values": values}
    options.output.write_text(json.dumps(written | {"medians": medians, "ratios": ratios}, indent=2) + "\n")
    print(f"Written: {options.output}")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def _figure(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
