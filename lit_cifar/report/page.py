"""report.html: a run on one page that can be mailed, read on a phone and printed. It loads nothing from the network.

An image is enlarged, with all its probabilities, by `<details>`, and charts are SVG: only sorting needs the script.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from torch import Tensor

from lit_cifar.data.pictures import picture_url
from lit_cifar.evaluation.wording import isolated, judged_on_page, percent
from lit_cifar.report import page_charts, pages
from lit_cifar.report.settings import Setting
from lit_cifar.report.tables import how_chosen
from lit_cifar.runs.card import UNCHANGED

MOST_AT_ONCE = 20  # classes of a confusion matrix; of more, those that are confused most are shown
CONFUSED = 10  # of those
MOST = 250  # classes of the folded matrix: 62,500 cells
MOST_CHANCES = 100  # rows of an image's probabilities
SHOWN = 0.0005  # what is less is 0.0 %, and not listed if there are many classes
LONGEST = 50  # letters of a folder's name in the title
SHADE = 0.6  # of a cell with the most confusions: darker, its text would have too little contrast


class Cell(NamedTuple):
    """A cell of the confusion matrix."""

    text: str
    kind: str = ""
    shade: float = 0
    title: str = ""
    images: str = ""
    pair: int = 0
    """Which of the most confused pairs it is, from 1; 0 for none."""


class Matrix(NamedTuple):
    """A confusion matrix as a table."""

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]


class Confusion(NamedTuple):
    """The confusion matrix as the page shows it."""

    main: Matrix | None
    is_part: bool
    whole: Matrix | None
    """Folded away, if `main` is a part of it."""


def render_page(
    report: dict[str, Any],
    images: Tensor,
    logits: Tensor,
    data: str,
    run: str = "",
    settings: Sequence[Setting] = (),
    config: str = "",
) -> str:
    """Returns report.html of a report.

    Args:
        report: Content of report.json.
        images: All test images, uint8 `[N, 3, H, W]`; the browser enlarges them without smoothing.
        logits: Those of the images, `[N, C]`.
        data: Title of the data set.
        run: Name of the run folder.
        settings: Those of the training.
        config: Content of config.yaml.
    """
    curves, reliability, confusion = page_charts.curves(report), page_charts.reliability(report), _confusion(report)
    if report["dataset"] == "folder" and Path(report["data_root"]).name:
        name = Path(report["data_root"]).name  # the path stands below, and would break here
        data = f"the folder {name if len(name) <= LONGEST else name[:LONGEST] + '…'}"
    side = images.shape[-1]
    sections = {
        "training": ("Training", curves),
        "classes": ("Classes", True),
        "confusion": ("Confusion matrix", True),
        "pairs": ("Confused pairs", report["confused_pairs"]),
        "mistakes": ("Mistakes", True),
        "uncertain": ("Least confident", True),
        "calibration": ("Calibration", reliability),
        "settings": ("Settings", True),
        "hardware": ("Hardware", True),
    }
    return pages.render(
        Path(__file__).with_name("report.html.jinja"),
        {"how_chosen": how_chosen},
        report=report,
        data=data,
        run=run,
        tested=sum(map(sum, report["confusion_matrix"])),
        curves=curves,
        reliability=reliability,
        confusion=confusion,
        sections=[(name, title) for name, (title, is_there) in sections.items() if is_there],
        changed=settings,
        config=config,
        side=side * max(1, 96 // side),
        unchanged=UNCHANGED,
        judged=judged_on_page,
        picture=lambda image: picture_url(images[image]),
        chances=lambda image: _chances(logits[image], list(report["class_f1"])),
    )


def _chances(logits: Tensor, classes: Sequence[str]) -> Markup:
    """Returns a table of an image's probabilities, the highest first; of many classes, without those with 0.0 %."""
    found = sorted(zip(logits.double().softmax(0).tolist(), classes, strict=True), key=lambda pair: -pair[0])
    shown = found if len(classes) <= MOST_AT_ONCE else [each for each in found if each[0] >= SHOWN][:MOST_CHANCES]
    rows = []  # HTML ends their elements by itself, and there are thousands
    for share, name in shown:
        bar = f'<span class="bar" style="width:{share * 100:.1f}%"></span>'
        rows.append(f'<tr><th scope="row">{escape(name)}<td>{percent(share)}<td>{bar}')
    if len(shown) < len(found):
        rest = found[len(shown)][0]
        rows.append(f"<tr><td colspan=3>{len(found) - len(shown):,} more, each at most {percent(rest)}")
    return Markup(f"<table><caption>Probabilities</caption><tbody>{''.join(rows)}</table>")


def _confusion(report: dict[str, Any]) -> Confusion:
    """Returns the confusion matrix in per cent of each row; of many classes, those confused most."""
    classes, counts = list(report["class_f1"]), report["confusion_matrix"]
    pairs = {(pair["class"], pair["predicted"]): i for i, pair in enumerate(report["confused_pairs"], 1)}
    if len(classes) <= MOST_AT_ONCE:
        return Confusion(_matrix(classes, counts, [*range(len(classes))], pairs), False, None)
    shown: list[int] = []
    for pair in pairs:
        new = [i for i in map(classes.index, pair) if i not in shown]
        shown += new if len(shown) + len(new) <= CONFUSED else []
    whole = None
    if len(classes) <= MOST:
        cells = [
            [Cell(str(n) if n else "", "own" if i == j else "") for j, n in enumerate(row)]
            for i, row in enumerate(counts)
        ]
        whole = Matrix(classes, [*zip(classes, cells, strict=True)])
    return Confusion(_matrix(classes, counts, sorted(shown), pairs) if shown else None, True, whole)


def _matrix(
    classes: Sequence[str], counts: Sequence[Sequence[int]], shown: Sequence[int], pairs: dict[tuple[str, str], int]
) -> Matrix:
    """Returns the rows and columns of some classes; the other columns become one."""
    is_part = len(shown) < len(classes)
    shares = [[n / (sum(counts[i]) or 1) for n in counts[i]] for i in shown]
    most = max((row[j] for i, row in zip(shown, shares, strict=True) for j in shown if i != j), default=0) or 1
    rows = []
    for i, row in zip(shown, shares, strict=True):
        total, actual, cells = sum(counts[i]), isolated(classes[i]), []
        for j in shown:
            if not total:
                cells.append(Cell("–", "zero"))
                continue
            n, name = counts[i][j], classes[j]
            title = f"{actual} predicted correctly" if i == j else f"{actual} taken for {isolated(name)}"
            shade = 0 if i == j else round(SHADE * row[j] / most, 3)
            kind, pair = "own" if i == j else "" if n else "zero", pairs.get((classes[i], name), 0)
            count = f"{n:,} of {total:,}"
            cells.append(
                Cell(_per_cent(row[j]), kind, shade, f"{title}: {count}" if n else "", count if n else "", pair)
            )
        if is_part:
            n = total - sum(counts[i][j] for j in shown)
            cells.append(Cell(_per_cent(n / total) if total else "–", "zero", 0, "", f"{n:,} of {total:,}"))
        rows.append((classes[i], cells))
    return Matrix([classes[j] for j in shown] + (["others"] if is_part else []), rows)


def _per_cent(share: float) -> str:
    """Returns a share in per cent, short: `0`, `<0.1`, `4.3`, `>99.9`, `100`."""
    return f"{share:.0%}"[:-1] if share in (0, 1) else "<0.1" if share < SHOWN else percent(share)[:-2]
