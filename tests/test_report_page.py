"""Every case of a report, on its figures and its page."""

import base64
import io
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import Page, described, some_images
from PIL import Image
from torch import Tensor

from lit_cifar.evaluation.confidence import RANKED
from lit_cifar.report import charts, figures
from lit_cifar.report.page import render_page

PICTURES = dict.fromkeys(("confusion", "reliability"), Path(__file__))


def some_logits(count: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, classes, generator=generator) * 3, torch.arange(count) % classes


@pytest.mark.parametrize(
    ("case", "count", "classes"),
    [
        ("as usual", 60, 10),
        ("two classes", 20, 2),
        ("a hundred classes", 20, 100),
        ("more classes than a figure has rows", 20, 120),
        ("a class without images", 20, 3),
        ("a class that is never predicted", 20, 3),
        ("no mistakes", 20, 3),
        ("nothing but mistakes", 20, 3),
        ("fewer images than asked for", 2, 3),
        ("some NaN", 20, 3),
        ("nothing but NaN", 20, 3),
        ("quite sure", 20, 3),
    ],
)
def test_numbers_figures_and_page_stand_every_case(case: str, count: int, classes: int, tmp_path: Path) -> None:
    logits, labels = some_logits(count, classes)
    if case == "a class without images":
        labels[labels == 1] = 0
    elif case == "a class that is never predicted":
        logits[:, 1] = -50
    elif case == "no mistakes":
        logits[torch.arange(count), labels] = 50
    elif case == "nothing but mistakes":
        logits[torch.arange(count), labels] = -50
    elif case == "some NaN":
        logits[::5, 1] = float("nan")
    elif case == "nothing but NaN":
        logits[:] = float("nan")
    elif case == "quite sure":
        logits[:, 0] = 1e6
    names = [f"class {i}" for i in range(classes)]
    report = described(logits, labels, names)
    known = int(logits.isfinite().all(1).sum())
    assert sum(b["images"] for b in report["calibration"]) == known == count - report["without_probability"]
    assert len(report["uncertain_images"]) == min(RANKED, known)
    mistakes = report["confident_mistakes"]
    assert all(entry["class"] != entry["predicted"] for entry in mistakes)
    assert (not mistakes) == (case in ("no mistakes", "nothing but NaN"))
    absent = {"a class without images": "class_recall", "a class that is never predicted": "class_precision"}
    for key in ("class_recall", "class_precision"):
        if case in (*absent, "no mistakes", "nothing but mistakes"):
            expected = [None] if absent.get(case) == key else []
            assert [value for value in report[key].values() if value is None] == expected

    images = torch.zeros(count, 3, 32, 32, dtype=torch.uint8)
    drawn = {
        "classes": charts.per_class(report, "Classes"),
        "confusion": charts.confusion(report["confusion_matrix"], names, "Confusion"),
        "mistakes": figures.predictions(images, mistakes, "Mistakes", framed=False),
        "reliability": charts.reliability(report, "Reliability"),
        "uncertain": figures.predictions(images, report["uncertain_images"], "Uncertain"),
    }
    paths = {name: figures.save(figure, tmp_path / f"{name}.png") for name, figure in drawn.items()}
    rendered = render_page(report, "the folder data", images, {n: paths[n] for n in ("confusion", "reliability")}, "")
    shown = Page(rendered)
    assert len(rendered) < 2_000_000
    assert all(name in shown.text for name in names)
    assert ("no mistakes" in shown.text) == (not mistakes)
    assert "nan" not in shown.text.lower()


def test_the_page_shows_the_images_of_its_rankings_with_their_classes_and_frames_wrong_predictions() -> None:
    logits = torch.tensor([[9.0, 0.0], [0.0, 4.0], [1.0, 0.0], [0.0, 3.0]])
    report = described(logits, torch.tensor([1, 1, 1, 0]), ["cat", "<b>"])
    images = some_images(4)
    rendered = render_page(report, "the folder data", images, PICTURES, "")
    tags = Page(rendered).tags
    shown = [values for tag, values in tags if tag == "img" and (values["alt"] or "").startswith("Test image")]
    mistakes, uncertain = [0, 3, 2], [2, 3, 1, 0]
    assert [values["alt"] for values in shown] == [f"Test image {i}" for i in mistakes + uncertain]
    for values, i in zip(shown, mistakes + uncertain, strict=True):
        png = base64.b64decode((values["src"] or "").removeprefix("data:image/png;base64,"))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), images[i].permute(1, 2, 0))
    frames = [values.get("class") for tag, values in tags if tag == "figure"]
    assert frames == [None, None, None, "wrong", "wrong", None, "wrong"]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", rendered, re.DOTALL)
    plain = [" ".join(unescape(re.sub(r"<[^>]*>", "", caption)).split()) for caption in captions]
    assert plain[0] == "cat (>99.9 %) actually <b>"
    assert plain[-2] == "<b> (98.2 %)"


def test_the_table_of_the_page_has_a_row_of_counts_and_scores_for_each_class() -> None:
    guesses = torch.tensor([0, 0, 1, 1, 1])
    report = described(torch.eye(3)[guesses], torch.tensor([0, 0, 0, 0, 1]), ["a", "b", "c"])
    rendered = render_page(report, "the folder data", some_images(5), PICTURES, "")
    rows = re.findall(r"<tr><td>(.*?)</tr>", rendered, re.DOTALL)
    cells = [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in row.split("<td>")] for row in rows]
    assert cells == [
        ["a", "4", "50.0 % 15.0–85.0", "100.0 %", "66.7 %"],
        ["b", "1", "100.0 % 20.7–100.0", "33.3 %", "50.0 %"],
        ["c", "0", "–", "–", "–"],
    ]
    assert re.findall(r'"width: ([\d.]+)%"', rendered) == ["50.0", "100.0", "0"]
