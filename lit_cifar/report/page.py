"""report.html: a run on one page that can be mailed, made from report.json's values, with pictures and recipe in it.

The page asks nothing of the network and runs nothing: its Content-Security-Policy allows inline style and pictures of
its own alone. Images are 32 × 32 PNGs that the browser enlarges without smoothing: 3 kB each.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from lit_cifar.data.pictures import data_url, png
from lit_cifar.evaluation.metrics import percent
from lit_cifar.report import tables


def render(report: dict[str, Any], data: str, images: Tensor, figures: dict[str, Path], config: str) -> str:
    """The page, as HTML.

    Args:
        report: content of report.json.
        data: what to call the data set.
        images: the test images, uint8 `[N, 3, H, W]`.
        figures: PNGs to embed, by name: confusion, reliability, and loss where it trained.
        config: content of config.yaml; may be empty.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "duration": tables.duration, "plural": tables.plural}
    environment.globals["picture"] = lambda image: data_url(png(images[image]))
    embedded = {name: data_url(path.read_bytes()) for name, path in figures.items()}
    return environment.get_template("page.html.jinja").render(report=report, data=data, figures=embedded, config=config)


def _percent(share: float | None) -> str:
    return "–" if share is None else percent(share)
