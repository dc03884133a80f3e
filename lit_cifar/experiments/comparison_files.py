"""What a comparison leaves in its folder: compare.json with every number, and what is drawn from it.

compare.json and compare.csv are written after each run, so that a comparison that is killed loses nothing.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lit_cifar.data.files import write_whole
from lit_cifar.experiments import comparison_charts, comparison_page
from lit_cifar.experiments.comparison import Run, conclusions, summarize
from lit_cifar.experiments.variants import Variant, differing
from lit_cifar.report import figures

VERSION = 1
LARGEST = 1_000_000_000  # bytes of a compare.json
FIGURES = ("val_accuracy", "test_accuracy", "epochs", "train_seconds", "test_seconds")
BUDGETS = ("trainer.max_epochs", "trainer.max_steps")  # keys that say how long a training is


@dataclass
class Record:
    """A comparison and its runs so far."""

    folder: Path
    seeds: int
    variants: Sequence[Variant]
    settings: Sequence[Mapping[str, Any]]
    """Of each variant."""
    data: Sequence[Mapping[str, Any]]
    """What each variant trains on."""
    runs: list[Run] = field(default_factory=list)
    state: str = "running"

    def as_dict(self) -> dict[str, Any]:
        """Returns the content of compare.json."""
        keys, order = differing(self.settings), {variant.name: i for i, variant in enumerate(self.variants)}
        variants = [
            {
                "name": variant.name,
                "folder": f"runs/{variant.folder}",
                "words": list(variant.words),
                "differs": {key: settings.get(key) for key in keys},
                "settings": settings,
                "data": data,
            }
            for variant, settings, data in zip(self.variants, self.settings, self.data, strict=True)
        ]
        statistics = summarize([variant.name for variant in self.variants], self.runs)
        runs = sorted(self.runs, key=lambda run: (run.seed, order[run.variant]))
        return {
            "version": VERSION,
            "name": self.folder.name,
            "state": self.state,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "judged_by": "val_accuracy",
            "seeds": list(range(self.seeds)),
            "variants": variants,
            "statistics": statistics,
            "conclusions": conclusions(statistics, variants),
            "runs": [asdict(run) for run in runs],
        }

    def write(self) -> dict[str, Any]:
        """Writes compare.json and compare.csv."""
        content = self.as_dict()
        write_whole(self.folder / "compare.json", json.dumps(content, indent=1) + "\n")
        write_whole(self.folder / "compare.csv", _table(content))
        return content

    def draw(self) -> tuple[dict[str, Any], list[Path]]:
        """Writes everything; returns the content of compare.json, and the paths."""
        content = self.write()
        png = figures.save(self._chart(content), self.folder / "compare.png")
        page = comparison_page.render(content, png.read_bytes())
        write_whole(self.folder / "compare.html", page)
        return content, [self.folder / f"compare.{suffix}" for suffix in ("html", "png", "csv", "json")]

    def _chart(self, content: Mapping[str, Any]) -> Any:
        data = self.data[0]["title"] if len({each["title"] for each in self.data}) == 1 else "different data sets"
        budget = next((key for key in BUDGETS if len({variant.varied.get(key) for variant in self.variants}) > 1), None)
        if budget is None:
            return comparison_charts.intervals(content["statistics"], self.runs, f"Validation accuracy on {data}")
        lines: dict[str, list[tuple[str, str]]] = {}
        for variant in self.variants:
            others = [f"{key.rpartition('.')[2]}={value}" for key, value in variant.varied.items() if key != budget]
            unit = budget.rpartition("_")[2]  # epochs or steps
            label = f"{variant.varied[budget]} {unit[:-1] if variant.varied[budget] == '1' else unit}"
            lines.setdefault(", ".join([variant.recipe, *others]), []).append((variant.name, label))
        return comparison_charts.budgets(content["statistics"], self.runs, lines, f"Accuracy against time on {data}")


def _table(content: Mapping[str, Any]) -> str:
    """Returns compare.csv: a row for each run."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    differs = {variant["name"]: variant["differs"] for variant in content["variants"]}
    keys = [*content["variants"][0]["differs"]]
    writer.writerow(["variant", *keys, "seed", "state", *FIGURES, "folder", "code"])
    for run in content["runs"]:
        settings = [differs[run["variant"]][key] for key in keys]
        row = [run[name] for name in ("seed", "state", *FIGURES, "folder", "code")]
        writer.writerow([run["variant"], *settings, *row])
    return text.getvalue()


def holds_another(folder: Path, variants: Sequence[Variant], settings: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether the folder has a comparison with variants that this one lacks, which would be overwritten."""
    path = folder / "compare.json"
    if not path.exists():
        return False
    now = {f"runs/{variant.folder}": _plain(each) for variant, each in zip(variants, settings, strict=True)}
    try:
        if path.stat().st_size > LARGEST:
            return True
        before = json.loads(path.read_text(encoding="utf-8"))
        return any(now.get(each["folder"]) != each["settings"] for each in before["variants"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # damaged, or not ours
        return True


def _plain(settings: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(settings))
