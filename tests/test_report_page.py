"""Every case of a report, on its figures and its page."""

import base64
import io
import re
from hashlib import sha256
from html import unescape
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from browsing import chromium, needs_chromium
from drawing import Page, described, some_images
from PIL import Image
from torch import Tensor

from lit_cifar.data.image_set import CIFAR10_CLASSES
from lit_cifar.evaluation.confidence import RANKED
from lit_cifar.evaluation.wording import isolated
from lit_cifar.nets.tutorial import Net
from lit_cifar.report import charts, figures
from lit_cifar.report.page import render_page
from lit_cifar.report.settings import changed_settings
from lit_cifar.runs.card import import_path


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
        "confused": figures.confused_pairs(images, report["confused_pairs"], "Pairs"),
        "mistakes": figures.predictions(images, mistakes, "Mistakes"),
        "reliability": charts.reliability(report, "Reliability"),
        "uncertain": figures.predictions(images, report["uncertain_images"], "Uncertain"),
    }
    for name, figure in drawn.items():
        figures.save(figure, tmp_path / f"{name}.png")
    rendered = render_page(report, images, logits, "the folder data")
    shown = Page(rendered)
    assert len(rendered) < 2_000_000
    assert all(name in shown.text for name in names)
    assert ("no mistakes" in shown.text) == (not mistakes)
    assert "nan" not in shown.text.lower()


def plain(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def rows_of(rendered: str, section: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    table = rendered.partition(f'id="{section}"')[2].partition("</table>")[0]
    body = table.partition("<tbody>")[2]
    return [[plain(f"<{cell}") for cell in re.split(r"<(?=t[hd][ >])", row)[1:]] for row in body.split("</tr>")[:-1]]


LOGITS, LABELS = torch.tensor([[9.0, 0.0], [0.0, 4.0], [1.0, 0.0], [0.0, 3.0]]), torch.tensor([1, 1, 1, 0])


def test_the_page_shows_each_ranked_image_with_what_was_predicted_what_is_true_and_all_probabilities() -> None:
    report, images = described(LOGITS, LABELS, ["cat", "<b>"]), some_images(4)
    rendered = render_page(report, images, LOGITS, "the folder data")
    shown = [values for tag, values in Page(rendered).tags if tag == "img"]
    places = [0, 2, 3, 0, 3, 2, 2, 3, 1, 0]  # pairs: <b> taken for cat, cat for <b>; mistakes; least confident
    names = ["<b>", "<b>", "<b>", "cat"]  # the true classes
    assert [values["alt"] for values in shown] == [f"Test image {i}, of class {names[i]}" for i in places]
    for values, i in zip(shown, places, strict=True):
        png = base64.b64decode((values["src"] or "").removeprefix("data:image/png;base64,"))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), images[i].permute(1, 2, 0))
    captions = re.findall(r"<summary( class=\"wrong\")?.*?>(.*?)</summary>", rendered, re.DOTALL)
    assert [(bool(wrong), plain(text)) for wrong, text in captions if "Test image" in text][-4:] == [
        (True, f"✗ predicted {isolated('cat')} (73.1 %) actually {isolated('<b>')}"),
        (True, f"✗ predicted {isolated('<b>')} (95.3 %) actually {isolated('cat')}"),
        (False, f"✓ predicted {isolated('<b>')} (98.2 %)"),
        (True, f"✗ predicted {isolated('cat')} (>99.9 %) actually {isolated('<b>')}"),
    ]
    tables = re.findall(r"<caption>Probabilities</caption><tbody>(.*?)</table>", rendered)
    assert plain(tables[0]) == "cat >99.9 % <b> 0.0 %"
    assert plain(tables[1]) == "cat 73.1 % <b> 26.9 %"  # 1 / (1 + e^-1)


def test_a_cell_of_the_confusion_matrix_leads_to_the_images_of_the_pair() -> None:
    guesses = torch.tensor([0, 0, 1, 1, 1, 2, 0])
    report = described(torch.eye(3)[guesses] * 5, torch.tensor([0, 0, 0, 0, 1, 2, 2]), ["a", "b", "c"])
    rendered = render_page(report, some_images(7), torch.eye(3)[guesses] * 5, "the folder data")
    assert rows_of(rendered, "confusion") == [
        ["a", "50.0 %, 2 of 4", "50.0 %, 2 of 4", "0"],
        ["b", "0", "100 %, 1 of 1", "0"],
        ["c", "50.0 %, 1 of 2", "0", "50.0 %, 1 of 2"],
    ]
    page = Page(rendered)
    targets = [values["href"] for tag, values in page.tags if tag == "a" and "pair-" in (values["href"] or "")]
    assert targets == ["#pair-1", "#pair-2"]
    headings = re.findall(r'id="pair-(\d)">(.*?)</h3>', rendered)
    assert [(number, " ".join(plain(text).split())) for number, text in headings] == [
        ("1", "a taken for b : 2 of 4"),
        ("2", "c taken for a : 1 of 2"),
    ]
    most = re.findall(r'--a:([\d.]+)"', rendered)
    assert most == ["0.6", "0.6"]  # right predictions are not shaded


def test_of_many_classes_the_most_confused_ones_are_shown_and_the_others_folded_away() -> None:
    names = [f"class {i}" for i in range(100)]
    labels = torch.arange(300) % 100
    guesses = torch.where(labels == 7, 42, labels)
    report = described(torch.eye(100)[guesses] * 9, labels, names)
    rendered = render_page(report, some_images(300), torch.eye(100)[guesses] * 9, "the folder data")
    assert rows_of(rendered, "confusion") == [
        ["class 7", "0", "100 %, 3 of 3", "0 %, 0 of 3"],
        ["class 42", "0", "100 %, 3 of 3", "0 %, 0 of 3"],
    ]
    regions = [values for _, values in Page(rendered).tags if values.get("role") == "region"]
    assert regions and all(values["tabindex"] == "0" and values["aria-label"] for values in regions)


def test_a_share_of_almost_all_or_almost_none_is_not_called_all_or_none() -> None:
    labels, guesses = torch.zeros(3001, dtype=torch.int64), torch.zeros(3001, dtype=torch.int64)
    guesses[0] = 1
    rendered = render_page(
        described(torch.eye(2)[guesses], labels, ["a", "b"]), some_images(3001), torch.eye(2)[guesses], ""
    )
    assert rows_of(rendered, "confusion")[0] == ["a", ">99.9 %, 3,000 of 3,001", "<0.1 %, 1 of 3,001"]


def test_epochs_of_a_long_training_are_written_out() -> None:
    report = described(LOGITS, LABELS, ["cat", "dog"])
    report |= {"epochs": 20_000, "steps": 40_000, "checkpoint_epoch": 12_345, "chosen_by": "validation accuracy"}
    report["curves"] = {"loss/val": [[2, 2.0], [24_691, 0.5], [40_000, 1.0]], "loss/train": [[2, 2.0], [40_000, 1.0]]}
    text = Page(render_page(report, some_images(4), LOGITS, "CIFAR-10")).text
    assert "the lowest is 0.5, after epoch 12,345.5." in text and "chosen: epoch 12,345" in text
    assert "(epoch 12,345.5, step 24,691)" in text and "e+0" not in text


def test_the_table_of_the_page_has_a_row_of_counts_and_scores_for_each_class() -> None:
    logits = torch.eye(3)[torch.tensor([0, 0, 1, 1, 1])]
    report = described(logits, torch.tensor([0, 0, 0, 0, 1]), ["a", "b", "c"])
    rendered = render_page(report, some_images(5), logits, "the folder data")
    assert rows_of(rendered, "classes") == [
        ["a", "4", "50.0 % 15.0–85.0", "100.0 %", "66.7 %"],
        ["b", "1", "100.0 % 20.7–100.0", "33.3 %", "50.0 %"],
        ["c", "0", "–", "–", "–"],
    ]
    assert re.findall(r'"width: ([\d.]+)%"', rendered) == ["50.0", "100.0", "0"]


def test_the_page_is_read_by_heading_row_and_column_and_only_its_own_script_may_run() -> None:
    report = described(LOGITS, LABELS, ["cat", "dog"])
    report |= {"epochs": 2, "steps": 20, "checkpoint_epoch": 1, "chosen_by": "validation accuracy"}
    report["curves"] = {
        "loss/train": [[5, 2.0], [10, 1.0], [15, None], [20, 0.5]],
        "loss/val": [[10, 1.5], [20, 1.75]],
        "lr": [[10, 0.1], [20, 0.05]],
    }
    rendered = render_page(report, some_images(4), LOGITS, "CIFAR-10", "tutorial/version_3")
    page = Page(rendered)
    assert "tutorial/version_3" in page.text and "after epoch 1 of 2" in " ".join(page.text.split())
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert [tag for tag, _ in page.tags].count("main") == 1
    assert all(values["scope"] in ("row", "col") for tag, values in page.tags if tag == "th")
    ids = {values["id"] for _, values in page.tags if "id" in values}
    links = [values["href"] or "" for tag, values in page.tags if tag == "a"]
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    labels = [values["aria-label"] or "" for tag, values in page.tags if tag == "svg"]
    assert "Training loss goes from 2 to 0.5. Validation loss goes from 1.5 to 1.75." in labels
    assert "Learning rate goes from 0.1 to 0.05." in labels
    assert "training loss not a number (epoch 1.5, step 15)\nvalidation loss 1.5 (epoch 1, step 10)" in page.text
    assert "chosen: epoch 1" in page.text
    (script,) = re.findall(r"<script>(.*?)</script>", rendered, re.DOTALL)
    policy = next(values["content"] or "" for tag, values in page.tags if "http-equiv" in values)
    assert f"script-src 'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy


def test_settings_that_differ_from_the_defaults_of_their_classes_are_listed() -> None:
    net = {"class_path": import_path(Net), "init_args": {"num_classes": 3}}
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}}
    loss = "torch.nn.functional.cross_entropy"
    config = {
        "seed_everything": 3,
        "data": {"root": "/data", "batch_size": 4, "flip": True, "normalize": [[0.5] * 3, [0.25] * 3]},
        "model": {"net": net, "optimizer": optimizer, "loss": loss, "sides": [], "slice_size": 0},
        "trainer": {"max_epochs": 2, "max_steps": -1, "enable_progress_bar": False, "logger": None},
    }
    assert changed_settings(yaml.safe_dump(config)) == [
        ("data.flip", "true", "false"),
        ("data.normalize", "[[0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]", "half"),
        ("model.net", "Net", "–"),
        ("model.net.num_classes", "3", "10"),
        ("model.optimizer.lr", "0.1", "0.001"),
        ("trainer.max_epochs", "2", "none"),
    ]


@pytest.mark.slow
@pytest.mark.browser
@needs_chromium
def test_the_page_works_by_keyboard_without_its_script_on_a_phone_and_prints_on_five_sheets(tmp_path: Path) -> None:
    logits, labels = some_logits(1000, 10)
    report = described(logits, labels, list(CIFAR10_CLASSES))
    path = tmp_path / "report.html"
    path.write_text(render_page(report, some_images(1000), logits, "CIFAR-10"), encoding="utf-8")
    with chromium(tmp_path / "chromium") as page:
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 844})
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width
        page.click("#classes ~ table button:text('F1')")
        shown = "[...document.querySelectorAll('#classes ~ table tbody td:last-child')].map(cell => cell.dataset.value)"
        values = [float(value) for value in page.evaluate(shown)]
        assert values == sorted(values, reverse=True)
        assert page.get_attribute("#classes ~ table th:last-child", "aria-sort") == "descending"
        page.evaluate("document.querySelector('script').remove()")  # what follows needs none
        small = page.evaluate("document.querySelector('.images img').width")
        page.focus(".images summary >> nth=0")
        page.keyboard.press("Enter")
        assert page.is_visible(".images table >> nth=0")
        assert page.evaluate("document.querySelector('.images img').width") > 2 * small
        page.focus("#confusion ~ table a >> nth=0")
        page.keyboard.press("Enter")
        assert page.evaluate("document.querySelector(':target').tagName") == "H3"
        for sheet in ("A4", "Letter"):
            printed = page.pdf(format=sheet)
            assert 1 < len(re.findall(rb"/Type\s*/Page\b", printed)) <= 5
