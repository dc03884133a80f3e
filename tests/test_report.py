"""report.json, the pictures and the page that a test leaves."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CLASSES, Cli, paint_pictures
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from lit_cifar.evaluation.confidence import RANKED, describe, read_answers
from lit_cifar.evaluation.metrics import class_scores
from lit_cifar.report import charts, figures, html

NASTY = '[bold]<b>&"x :car:'
PNGS = ("classes", "confusion", "mistakes", "predictions", "reliability", "uncertain")


def run_folder(root: Path) -> Path:
    return root / "lightning_logs" / "tutorial" / "version_0"


def fit(cli: Cli, pictures: Path, out: Path, *more: str) -> dict[str, Any]:
    """Trains on the pictures for a few steps; report.json, which is JSON to every reader, without NaN."""
    words = [
        "--data.val_size=6",
        "--model.net.init_args.num_classes=3",
        "--trainer.max_steps=10",
        "--trainer.log_every_n_steps=5",
        *more,
    ]
    result = cli("fit", "--data.root", pictures, "--trainer.default_root_dir", out, *words)
    assert result.code == 0, result.err
    assert f"on the folder {pictures}:" in result.out
    report = strict_json(run_folder(out) / "report.json")
    assert all(name in result.out for name in report["class_accuracy"])
    return report


def strict_json(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    return content


class Page(HTMLParser):
    """What a browser would find in a page: its tags with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(folder: Path) -> Page:
    path = folder / "report.html"
    assert 0 < path.stat().st_size < 2_000_000
    return Page(path.read_text(encoding="utf-8"))


def test_the_numbers_follow_from_the_probabilities_that_predict_writes(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    views = "--model.test_time_augmentation=flip"
    report = fit(cli, pictures, tmp_path, views, "--model.optimizer.lr=0.01")
    checkpoint = run_folder(tmp_path) / "checkpoints" / "last.ckpt"
    words = ("--ckpt_path", checkpoint, "--data.root", pictures, "--trainer.default_root_dir", tmp_path / "p", views)
    assert cli("predict", *words).code == 0
    with (run_folder(tmp_path / "p") / "predictions.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    classes = header[3:]
    labels = torch.tensor([classes.index(row[1]) for row in rows])
    probabilities = torch.tensor([[float(value) for value in row[3:]] for row in rows], dtype=torch.float64)
    predicted = probabilities.argmax(1)

    def entry(i: int) -> tuple[int, str, str]:
        return i, classes[labels[i]], classes[predicted[i]]

    surest = probabilities.amax(1).argsort(descending=True, stable=True).tolist()
    wrong = [i for i in surest if labels[i] != predicted[i]]
    assert wrong
    found = [(e["image"], e["class"], e["predicted"]) for e in report["confident_mistakes"]]
    assert found == [entry(i) for i in wrong[:RANKED]]
    assert [e["probability"] for e in report["confident_mistakes"]] == pytest.approx(
        [float(probabilities[i].max()) for i in wrong[:RANKED]], abs=2e-6
    )
    least = [e["probability"] for e in report["uncertain_images"]]
    assert least == pytest.approx(sorted(probabilities.amax(1).tolist())[:RANKED], abs=2e-6)
    matrix = [[0] * 3 for _ in classes]
    for label, guess in zip(labels.tolist(), predicted.tolist(), strict=True):
        matrix[label][guess] += 1
    assert report["confusion_matrix"] == matrix
    accuracies = {name: row[i] / sum(row) for i, (name, row) in enumerate(zip(classes, matrix, strict=True))}
    assert report["class_accuracy"] == pytest.approx(accuracies)
    loss = -probabilities[torch.arange(len(labels)), labels].log().mean()
    assert report["test_loss"] == pytest.approx(float(loss), abs=1e-4)
    assert report["calibration_error"] == pytest.approx(
        float(multiclass_calibration_error(probabilities, labels, 3, 15)), abs=1e-5
    )
    for key, metric in (
        ("precision", multiclass_precision),
        ("recall", multiclass_recall),
        ("f1", multiclass_f1_score),
    ):
        values = [value or 0 for value in report[f"class_{key}"].values()]
        assert values == pytest.approx(metric(predicted, labels, 3, average="none").tolist())


SOURCES = ("src", "href", "srcset", "data", "action", "poster", "background", "style")


def test_the_page_needs_nothing_but_itself_and_names_of_any_characters_are_text_in_it(cli: Cli, tmp_path: Path) -> None:
    pictures = paint_pictures(tmp_path / "a <i>&amp;'\"")
    for split in ("train", "test"):
        (pictures / split / CLASSES[2]).rename(pictures / split / NASTY)
    report = fit(cli, pictures, tmp_path)
    for name in (*PNGS, "loss"):
        assert (run_folder(tmp_path) / f"{name}.png").stat().st_size > 0
    shown = read_page(run_folder(tmp_path))
    assert not {"script", "link", "iframe", "object", "i"} & {tag for tag, _ in shown.tags}
    values = [value or "" for _, attributes in shown.tags for key, value in attributes.items() if key in SOURCES]
    sources = [value for value in values if not re.fullmatch(r"width: [\d.]+%", value)]
    assert len(sources) == 3 + len(report["confident_mistakes"]) + len(report["uncertain_images"])
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"url\(|@import", shown.text)
    assert NASTY in report["class_f1"]
    for text in (NASTY, str(pictures), report["device_name"], report["versions"]["torch"]):
        assert text in shown.text
    assert f"{report['test_accuracy'] * 100:.1f} %" in shown.text
    assert (run_folder(tmp_path) / "config.yaml").read_text() in shown.text


def test_a_net_that_diverged_still_gets_its_report(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    report = fit(cli, pictures, tmp_path, "--model.optimizer.lr=1e30", "--trainer.max_steps=1")
    assert report["without_probability"] == 24
    assert report["calibration_error"] is report["test_loss"] is None
    assert report["confident_mistakes"] == report["uncertain_images"] == []
    assert "24 test images got no probability" in read_page(run_folder(tmp_path)).text


def test_an_output_folder_that_cannot_be_written_is_named(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ("--data.val_size=6", "--model.net.init_args.num_classes=3", "--trainer.max_steps=1")
    result = cli("fit", "--data.root", pictures, "--trainer.default_root_dir", tmp_path / "file", *words)
    assert result.failed(1, "not-writable", str(tmp_path / "file"), "--trainer.default_root_dir")


def described(logits: Tensor, labels: Tensor, names: list[str]) -> dict[str, Any]:
    """What a test on such images would put into report.json."""
    answers = read_answers(logits, labels)
    matrix = torch.zeros(len(names), len(names), dtype=torch.int64)
    for label, guess in zip(answers.labels.tolist(), answers.predicted.tolist(), strict=True):
        matrix[label, guess] += 1
    return (
        describe(answers, names)
        | class_scores(matrix, names)
        | {
            "confusion_matrix": matrix.tolist(),
            "recipe": "tutorial",
            "dataset": "folder",
            "data_root": "data",
            "net": "lit_cifar.nets.tutorial.Net",
            "parameters": 1,
            "epochs": 1,
            "steps": 1,
            "batch_size": 1,
            "seed": 0,
            "precision": "32-true",
            "device_name": "CPU",
            "train_seconds": 1.0,
            "test_seconds": 1.0,
            "images_per_second": None,
            "test_loss": 1.0,
            "test_accuracy": 0.5,
            "versions": {},
        }
    )


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
    rendered = html.render(report, "the folder data", images, {n: paths[n] for n in ("confusion", "reliability")}, "")
    shown = Page(rendered)
    assert len(rendered) < 2_000_000
    assert all(name in shown.text for name in names)
    assert ("no mistakes" in shown.text) == (not mistakes)
    assert "nan" not in shown.text.lower()
