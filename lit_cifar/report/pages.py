"""What all pages share: the template's environment, the style, and the script that sorts tables.

A page is one file. Its Content-Security-Policy lets it load nothing, and run no script but the one in it.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lit_cifar.evaluation.wording import interval, percent
from lit_cifar.report.tables import duration, plural

HERE = Path(__file__).parent
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(template: Path, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """Returns a page from a template, which may include what lies beside this file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # 0.05 s

    options: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader([template.parent, HERE]), undefined=StrictUndefined, **options)
    environment.filters |= {"duration": duration, "plural": plural, "interval": lambda bounds: interval(*bounds)}
    environment.filters["percent"] = lambda share: "–" if share is None else percent(share)
    environment.filters |= filters
    script = (HERE / "sorting.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values |= {"policy": Markup(POLICY), "script": script, "digest": digest}
    return environment.get_template(template.name).render(**values)
