"""report.json, the pictures and the page that a test leaves."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import CLASSES, Cli, paint_pictures
from drawing import Page
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import LearningRateFinder
from pytorch_lightning.tuner import lr_finder
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from lit_cifar.evaluation.confidence import RANKED
from lit_cifar.nets.tutorial import Net
from lit_cifar.report.finders import BETA, Finders
from lit_cifar.report.run_report import in_order
from lit_cifar.training.classifier import LitClassifier

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
    for name in PNGS:
        assert (run_folder(tmp_path) / f"{name}.png").stat().st_size > 0
    shown = read_page(run_folder(tmp_path))
    assert not {"link", "iframe", "object", "i"} & {tag for tag, _ in shown.tags}
    values = [value or "" for _, attributes in shown.tags for key, value in attributes.items() if key in SOURCES]
    sources = [value for value in values if not re.fullmatch(r"width: ?[\d.]+%|--a:[\d.]+|#[\w-]+", value)]
    pairs = [entry for pair in report["confused_pairs"] for entry in pair["images"]]
    assert len(sources) == len(pairs) + len(report["confident_mistakes"]) + len(report["uncertain_images"])
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


def test_shares_of_batches_from_several_devices_are_put_in_the_order_of_the_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = torch.arange(7)[:, None]  # batches of 4 and 3 on two devices
    shares = [[rows[0:2], rows[4:6]], [rows[2:4], rows[6:7]]]
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda found, _: found.__setitem__(slice(2), shares))
    for here in shares:
        assert torch.equal(in_order(cast(Trainer, SimpleNamespace(world_size=2)), here), rows)


def test_lightning_s_bar_while_a_learning_rate_is_searched_is_put_back_after_an_error_too() -> None:
    bar = lr_finder.tqdm  # type: ignore[attr-defined]
    trainer, module = SimpleNamespace(callbacks=[]), LitClassifier(Net())
    for end in (
        lambda finders: finders.on_fit_start(SimpleNamespace(callbacks=[], loggers=[]), module),
        lambda finders: finders.on_exception(trainer, module, RuntimeError()),
    ):
        finders = Finders()
        finders.setup(trainer, module, "fit")
        assert lr_finder.tqdm is not bar  # type: ignore[attr-defined]
        end(finders)
        assert lr_finder.tqdm is bar  # type: ignore[attr-defined]


def test_the_learning_rate_is_a_tenth_of_that_with_the_smallest_loss(capsys: pytest.CaptureFixture[str]) -> None:
    rates, losses = [1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.3, 2.2, 1.5, 2.0, 9.0]
    means, mean = [], 0.0
    for i, loss in enumerate(losses):  # as Lightning averages them
        mean = BETA * mean + (1 - BETA) * loss
        means.append(mean / (1 - BETA ** (i + 2)))
    finder, module = LearningRateFinder(), LitClassifier(Net())
    finder.optimal_lr = cast(Any, SimpleNamespace(results={"lr": rates, "loss": means}))
    Finders().on_fit_start(SimpleNamespace(callbacks=[finder], loggers=[], is_global_zero=True), module)
    assert module.lr == pytest.approx(1e-3)
    assert "0.001" in capsys.readouterr().out
