"""`runs` lists what was trained, whatever lies in the run folders; `fit` leaves run.json there."""

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from browsing import chromium, needs_chromium
from conftest import Cli

NASTY = '<script>alert("x")</script>\x1b[31m'
SETTINGS = {
    **{"recipe": "tutorial", "dataset": "cifar10", "seed": 0, "batch_size": 4, "augmentation": {"flip": False}},
    "net": {"class_path": "lit_cifar.nets.tutorial.Net", "init_args": {"num_classes": 10}},
    "optimizer": {"class_path": "torch.optim.sgd.SGD", "init_args": {"lr": 0.001}},
}
STATE = {
    **{"version": 1, "state": "finished", "step": 100, "epochs": 2, "seconds": 3.5, "note": None},
    **{"started": "2026-01-02T03:04:05+00:00", "updated": "2026-01-02T03:04:09+00:00"},
    **{"val_accuracy": [[50, 0.5], [100, 0.25]], "card": SETTINGS},
}
REPORT = {
    **{"steps": 100, "train_seconds": 4.5, "epochs": 2, "seed": 0, "dataset": "cifar10", "test_accuracy": 0.9},
    **{"net": "lit_cifar.nets.tutorial.Net", "val_accuracy": 0.4, "test_accuracy_interval": [0.894, 0.906]},
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes run.json, of a state with changes, and perhaps report.json into the next run folder of a recipe."""
    monkeypatch.chdir(tmp_path)

    def call(state: dict[str, Any] | None = None, report: dict[str, Any] | None = None, recipe: str = "a") -> Path:
        runs = tmp_path / "lightning_logs" / recipe
        folder = runs / f"version_{len([*runs.glob('*')])}"
        folder.mkdir(parents=True)
        if state is not None:
            (folder / "run.json").write_text(json.dumps(STATE | state), encoding="utf-8")
        if report is not None:
            (folder / "report.json").write_text(json.dumps(REPORT | report), encoding="utf-8")
        return folder

    return call


def rows(cli: Cli, *words: str | Path) -> list[dict[str, str]]:
    result = cli("runs", "--csv", *words)
    assert result.code == 0, result.err
    return [*csv.DictReader(io.StringIO(result.out))]


def test_a_row_says_what_run_json_and_report_json_say(cli: Cli, write: Write) -> None:
    write({"note": "without jitter"}, {})
    write({"started": "2026-01-03T00:00:00+00:00", "state": "interrupted", "step": 70})
    first, second = rows(cli)
    assert (first["recipe"], first["version"]) == ("a", "0")
    known = (first["dataset"], first["net"], first["note"], first["state"], first["started"])
    assert known == ("cifar10", "Net", "without jitter", "finished", "2026-01-02T03:04:05+00:00")
    assert (first["val_accuracy"], first["test_accuracy"], first["test_low"]) == ("0.4", "0.9", "0.894")
    assert (second["val_accuracy"], second["test_accuracy"], second["seconds"]) == ("0.5", "", "3.5")  # the best so far
    table = cli("runs").out.splitlines()
    assert [line.split()[:2] for line in table] == [["recipe", "version"], ["a", "0"], ["a", "1"]]
    assert "90.00  89.4–90.6" in table[1] and "interrupted at step 70" in table[2]


def test_a_report_of_before_a_run_was_resumed_is_not_shown(cli: Cli, write: Write) -> None:
    write({"step": 150, "state": "interrupted"}, {})
    assert rows(cli)[0]["test_accuracy"] == ""


def test_runs_of_version_0_2_are_known_by_their_report_or_configuration(cli: Cli, write: Write) -> None:
    matrix = {"confusion_matrix": [[8, 2], [0, 10]], "test_accuracy_interval": None}
    (write(None, matrix) / "checkpoints").mkdir()
    write(None, {})  # that of `test`
    stopped = write(None)
    (stopped / "checkpoints").mkdir()
    config = "seed_everything: 3\ndata: {dataset: drawn}\nmodel: {net: {class_path: x.Y}}\n"
    (stopped / "config.yaml").write_text(config)
    found = {row["version"]: row for row in rows(cli)}
    assert [found[version]["state"] for version in "012"] == ["finished", "test", "interrupted"]
    z, share, total = 1.959964, 0.9, 20  # Wilson's interval as a textbook has it
    center, spread = share + z**2 / (2 * total), z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    assert float(found["0"]["test_low"]) == pytest.approx((center - spread) / (1 + z**2 / total), abs=1e-6)
    assert (found["2"]["dataset"], found["2"]["net"], found["2"]["seed"]) == ("drawn", "Y", "3")


DAMAGED: dict[str, Any] = {
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "nested too deeply": b"[" * 200_000,
    "a list": b"[]",
    "too large": b" " * 5_000_000,
    "no keys": b"{}",
    "another version": {"version": 2},
    "a state that is a list": {"state": ["finished"]},
    "a step below 0": {"step": -1},
    "an infinite number": {"epochs": math.inf},
    "a time that is none": {"started": "yesterday"},
    "a note that is a number": {"note": 5},
    "an accuracy above 1": {"val_accuracy": [[1, 2]]},
    "a huge number": {"val_accuracy": [[10**400, 0.5]]},
    "a card without a network": {"card": {}},
    "a card of 20,000 settings": {"card": SETTINGS | {"augmentation": {str(i): i for i in range(20_000)}}},
}


def test_damaged_runs_are_listed_as_such_with_the_reason(cli: Cli, write: Write, tmp_path: Path) -> None:
    for content in DAMAGED.values():
        if isinstance(content, bytes):
            (write() / "run.json").write_bytes(content)
        else:
            write(content)
    os.mkfifo(write() / "run.json")
    (write() / "run.json").mkdir()
    (write() / "run.json").symlink_to("/dev/zero")
    write()
    write({}, {"test_accuracy": "high"})
    (write() / "config.yaml").write_text("a: &a {b: *a}\n")
    runs = tmp_path / "lightning_logs"
    (runs / "a" / "version_100").symlink_to("version_100")
    (runs / "loop").symlink_to("..")
    write({"note": NASTY})
    *damaged, whole = sorted(rows(cli), key=lambda row: row["state"])
    assert len(damaged) == len(DAMAGED) + 7
    assert {row["state"] for row in damaged} == {"damaged"}
    assert all(row["problem"] for row in damaged)
    assert whole["note"] == NASTY.replace("\x1b", "?")
    assert cli("runs", "--html").code == 0


def test_conditions_and_order_take_columns_and_settings(cli: Cli, write: Write) -> None:
    rates = (0.1, 0.001, 0.01)
    for version, rate in enumerate(rates):
        optimizer = {"class_path": "torch.optim.sgd.SGD", "init_args": {"lr": rate}}
        write({"card": SETTINGS | {"optimizer": optimizer, "seed": version}}, {"test_accuracy": rate * 5})
    write({"card": None})

    def versions(*words: str) -> list[str]:
        return [row["version"] for row in rows(cli, *words)]

    assert versions("--sort", "model.optimizer.lr") == ["1", "2", "0", "3"]
    assert versions("--sort", "-lr") == ["0", "2", "1", "3"]  # what has none comes last, either way
    assert versions("--where", "lr=1e-3") == ["1"]
    assert versions("--where", "model.optimizer.init_args.lr>=0.01", "--where", "seed!=0") == ["2"]
    assert versions("--where", "test_accuracy>5%") == versions("--where", "test_accuracy>0.05") == ["0"]
    assert versions("--where", "net=Net", "--where", "optimizer=torch.optim.SGD", "--where", "flip=false") == [*"012"]
    assert versions("--where", "state=diverged") == []
    assert cli("runs", "--where", "data.datset=x").failed(2, "setting-unknown", "data.datset", "data.dataset")
    assert cli("runs", "--sort", "accuracies").failed(2, "setting-unknown", "accuracies")
    assert cli("runs", "--where", "dataset").failed(2, "value-invalid", "dataset")
    assert cli("runs", "--where", "test_accuracy>54").failed(2, "value-out-of-range", "test_accuracy>54")


def test_a_setting_that_no_card_has_is_read_from_config_yaml(cli: Cli, write: Write) -> None:
    for epochs in (2, 4):
        (write({}) / "config.yaml").write_text(f"trainer:\n  max_epochs: {epochs}\n", encoding="utf-8")
    assert [row["version"] for row in rows(cli, "--where", "trainer.max_epochs=4")] == ["1"]
    difference = cli("runs", "--diff", "a/version_0", "version_1").out
    assert re.search(r"^trainer\.max_epochs +2 +4", difference, re.MULTILINE)
    assert "batch_size" not in difference
    assert cli("runs", "--diff", "a/version_0", "a/version_7").failed(2, "runs-missing", "a/version_7")


def test_a_folder_is_searched_for_all_lightning_logs_below_it(cli: Cli, write: Write, tmp_path: Path) -> None:
    write({})
    inner = tmp_path / "comparisons" / "x" / "lr=0.1" / "lightning_logs" / "a"
    inner.parent.mkdir(parents=True)
    shutil.copytree(tmp_path / "lightning_logs" / "a", inner)
    assert len(rows(cli)) == 1
    below = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("version_0")}
    assert {row["folder"] for row in rows(cli, ".")} == below
    assert len(rows(cli, inner)) == len(rows(cli, inner / "version_0")) == 1
    assert cli("runs", "--diff", "a/version_0", "a/version_0", ".").failed(2, "value-invalid", "comparisons")
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        assert cli("runs", folder).failed(2, "runs-missing", folder)


def test_a_narrow_terminal_gets_fewer_columns_and_never_a_wrapped_line(
    cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({"state": "interrupted", "note": "long " * 50}, {})
    write({"version": 2})
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the output for a terminal's
    for width in (140, 80, 40):
        monkeypatch.setenv("COLUMNS", str(width))
        header, first, *_ = cli("runs").out.splitlines()
        assert len(header) <= width and len(first) <= width
        assert ("when" in header) is (width == 140)
        assert "version is 2" in cli("runs").out


def test_the_page_is_escaped_and_only_its_own_script_may_run(cli: Cli, write: Write, tmp_path: Path) -> None:
    write({"note": NASTY}, {})
    assert cli("runs", "--html", "page.html").code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in page
    assert "&lt;script&gt;alert" in page and "\x1b" not in page
    assert re.findall(r'points="([^"]*)"', page) == ["48.0,12.0 95.0,17.5"]
    assert not re.search(r'(src|href)="', page)
    assert cli("runs", "--html=lightning_logs").failed(2, "output-refused", "lightning_logs")


@pytest.mark.slow
@pytest.mark.browser
@needs_chromium
def test_the_page_sorts_and_fits_a_phone_and_a_screen(cli: Cli, write: Write, tmp_path: Path) -> None:
    for accuracy in (0.2, 0.9, 0.5):
        write({"note": "of many words " * 30, "state": "interrupted"}, {"test_accuracy": accuracy})
    write({"state": "diverged"})
    assert cli("runs", "--html").code == 0
    with chromium(tmp_path / "chromium") as page:
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            page.goto((tmp_path / "runs.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width
            for order in (["90.00", "50.00", "20.00", "–"], ["20.00", "50.00", "90.00", "–"]):
                page.click("text=test %")
                cells = "[...document.querySelectorAll('td[data-title=\"test %\"]')].map(cell => cell.textContent)"
                assert page.evaluate(cells) == order


def test_no_torch_is_imported_to_list_runs(write: Write, tmp_path: Path) -> None:
    write({}, {})
    code = "import sys; from lit_cifar.cli.commands import run; run(['runs']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=tmp_path)


@pytest.mark.slow
def test_a_thousand_runs_are_listed_in_three_seconds(write: Write, tmp_path: Path) -> None:
    first = write({}, {"confusion_matrix": [[100] * 10] * 10})
    for i in range(1, 1000):
        shutil.copytree(first, first.with_name(f"version_{i}"))
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "lit_cifar", "runs"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert time.perf_counter() - begun < 3
    assert done.stdout.count("\n") == 1001
