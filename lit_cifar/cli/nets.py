"""`python -m lit_cifar nets`: our networks, their size and speed, and the accuracy that others published.

Parameters and multiplications are counted on torch's device `meta`, which has shapes but no numbers.
"""

import inspect
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lit_cifar.cli.net_arguments import nearest_net
from lit_cifar.cli.parser import Parser
from lit_cifar.errors import UsageError, reason, require
from lit_cifar.nets import NETS, Published
from lit_cifar.report.tables import plural

BATCH = 128
STEPS = 5  # of which the median counts, after one that is not measured; fewer if they take longer than this:
LONGEST = 20.0  # seconds a network
SIDES = (8, 224)  # pixels
ROW = "{:<11}{:>11}  {:>13}  {:>10}  {:>10}"
TIMM = "Timm       any network of timm by name: --model.net Timm --model.net.name resnet18"


def main(words: list[str]) -> None:
    """Prints the table, a line as soon as it is known."""
    parser = Parser(
        prog="python -m lit_cifar nets",
        description="List the networks that --model.net takes by name: parameters, multiplications for an image, and"
        " the accuracy that others published for them.",
    )
    add = parser.add_argument
    add("--net", type=str | None, metavar="NAME", help="Only this network.")
    add("--classes", type=int, default=10, metavar="N", help="Number of classes.")
    add("--image_size", type=int, default=32, metavar="N", help="Height and width of the images in pixels.")
    measured = f"Measure training here, in images a second: float32, batches of {BATCH}; takes minutes on a CPU."
    add("--measure", action="store_true", help=measured)
    config = parser.parse_args(words)
    if config.net not in (None, *NETS):
        sentence = f"--net {config.net}: there is no network of this name; {nearest_net(config.net)}"
        raise UsageError("network-unknown", sentence)
    require(config.classes >= 1, f"--classes {config.classes} must be at least 1")
    low, high = SIDES
    require(low <= config.image_size <= high, f"--image_size {config.image_size} must be between {low} and {high}")
    console, sources, notes = Console(markup=False, highlight=False), list[str](), list[str]()
    names = [config.net] if config.net else [*NETS]
    with Progress(console=console, transient=True, disable=not (config.measure and console.is_terminal)) as progress:
        bar = progress.add_task("Measuring", total=len(names) * (STEPS + 1))
        last = "  {:>9}" if config.measure else ""
        header = ROW.format("network", "parameters", "million mult.", "CIFAR-10", "CIFAR-100")
        console.print(header + last.format("images/s"))
        for name in names:
            progress.update(bar, description=name)
            if name == "Timm":
                console.print(TIMM)
                continue
            make = _maker(name, config.classes, config.image_size)
            size, note = _size(make, config.image_size)
            notes += [f"{name}: {note}"] if note else []
            accuracies = _accuracies(_class(name), sources)
            rate = ""
            if config.measure and not note:
                steps = list[float]()
                for seconds in _steps(make(), config.image_size, config.classes):
                    steps.append(seconds)
                    progress.advance(bar)
                progress.advance(bar, 1 + STEPS - len(steps))
                images = BATCH / median(steps[1:])
                rate = f"{images:,.1f}" if images < 100 else f"{images:,.0f}"
            console.print((ROW.format(name, *size, *accuracies) + last.format(rate)).rstrip())
    what = f"{plural(config.classes, 'class')}, {config.image_size}×{config.image_size} pixels"
    console.print(f"\n{what}. Accuracies in %, as published, not measured here:")
    for number, source in enumerate(sources, 1):
        console.print(f"[{number}] {source}")
    if config.measure:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        threads = plural(torch.get_num_threads(), "thread")
        where = f"a CPU with {threads}" if device is None else f"one device of {device.type}"
        how = f"forward, loss, backward and a step of SGD in float32, batches of {BATCH}, median of up to {STEPS} steps"
        console.print(f"images/s: {how}, on {where}.")
    for note in notes:
        console.print(note)


def _class(name: str) -> Any:
    return getattr(import_module(f"lit_cifar.nets.{NETS[name]}"), name)


def _maker(name: str, classes: int, side: int) -> Callable[[], nn.Module]:
    made = _class(name)
    size = {"image_size": side} if "image_size" in inspect.signature(made).parameters else {}
    return lambda: made(num_classes=classes, **size)


def _size(make: Callable[[], nn.Module], side: int) -> tuple[tuple[str, str], str]:
    """Returns parameters and millions of multiplications, and why they are unknown if they are."""
    parameters = "–"
    try:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            net = make().eval()
            parameters = f"{sum(weight.numel() for weight in net.parameters()):,}"
            net(torch.empty(1, 3, side, side))
    except (ValueError, RuntimeError) as error:
        return (parameters, "–"), f"can't take {side} pixels ({reason(error)})"
    return (parameters, f"{counter.get_total_flops() / 2e6:,.1f}"), ""


def _accuracies(made: Any, sources: list[str]) -> list[str]:
    """Returns the published accuracies on both data sets, with the numbers of their sources, which it adds to those."""
    published: dict[str, Published] = {each.dataset: each for each in getattr(made, "published", ())}
    found = []
    for dataset in ("CIFAR-10", "CIFAR-100"):
        known = published.get(dataset)
        if known and known.source not in sources:
            sources.append(known.source)
        found.append(f"{known.percent:.2f} [{sources.index(known.source) + 1}]" if known else "–")
    return found


def _steps(net: nn.Module, side: int, classes: int) -> Iterator[float]:
    """Trains, and yields the seconds of each step."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    net.to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    images = torch.randn(BATCH, 3, side, side, device=device)
    labels = torch.arange(BATCH, device=device) % classes
    start = time.perf_counter()
    for step in range(1 + STEPS):
        begun = time.perf_counter()
        if step > 1 and begun > start + LONGEST:
            return
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        yield time.perf_counter() - begun
