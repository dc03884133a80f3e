"""report.html: a run on one page that can be mailed, made from the values of report.json, pictures and recipe.

The page loads nothing from the network and runs no script: its Content-Security-Policy allows only inline style and
inline pictures. Images are 32 × 32 PNGs of 3 kB each, which the browser enlarges without smoothing.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from lit_cifar.data.pictures import data_url, png
from lit_cifar.evaluation.metrics import percent
from lit_cifar.report import tables


def render(report: dict[str, Any], data: str, images: Tensor, figures: dict[str, Path], config: str) -> str:
    """Returns the page of a report on a data set of this title, with the content of config.yaml.

    Images are all test images, uint8 `[N, 3, H, W]`; figures are PNGs by name: confusion, reliability and perhaps loss.
    """
    options: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, **options)
    environment.filters |= {"duration": tables.duration, "plural": tables.plural}
    environment.filters["percent"] = lambda share: "–" if share is None else percent(share)
    environment.globals["picture"] = lambda image: data_url(png(images[image]))
    embedded = {name: data_url(path.read_bytes()) for name, path in figures.items()}
    template = environment.get_template("report.html.jinja")
    return template.render(report=report, data=data, figures=embedded, config=config)
