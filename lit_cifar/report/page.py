"""report.html: a run on one page that can be mailed.

It loads nothing from the network and runs no script, as its Content-Security-Policy says.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from lit_cifar.data.pictures import data_url, png
from lit_cifar.evaluation.wording import interval, percent
from lit_cifar.report import tables
from lit_cifar.runs.card import UNCHANGED


def render_page(report: dict[str, Any], data: str, images: Tensor, pngs: dict[str, Path], config: str) -> str:
    """Returns report.html of a report on a data set of this title, with the content of config.yaml.

    Images are all test images, uint8 `[N, 3, H, W]`; the browser enlarges them without smoothing. Of the PNGs by name,
    the page shows confusion, reliability and, if it is there, loss.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # 0.02 s

    options: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, **options)
    environment.filters |= {"duration": tables.duration, "plural": tables.plural, "how_chosen": tables.how_chosen}
    environment.filters["interval"] = lambda bounds: interval(*bounds)
    environment.filters["percent"] = lambda share: "–" if share is None else percent(share)
    environment.globals["unchanged"] = UNCHANGED
    environment.globals["picture"] = lambda image: data_url(png(images[image]))
    environment.filters["embedded"] = lambda path: data_url(path.read_bytes())
    template = environment.get_template("report.html.jinja")
    side = images.shape[-1]
    side *= max(1, 96 // side)
    return template.render(report=report, data=data, figures=pngs, config=config, side=side)
