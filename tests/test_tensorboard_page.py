"""TensorBoard on a run, as a user sees it in a browser."""

import io
import itertools
import json
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
from browsing import chromium, needs_chromium
from PIL import Image
from playwright.sync_api import Page, expect
from running import run

pytestmark = [pytest.mark.browser, pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Page]]:
    """What two short runs on drawn images printed, and TensorBoard on them, opened as the last one says."""
    folder = tmp_path_factory.mktemp("tensorboard")
    words = ["--data.dataset=drawn", "--data.val_size=1000", "--data.batch_size=64", "--trainer.max_epochs=2"]
    words += ["--trainer.log_every_n_steps=20", "--model.optimizer=SGD", "--model.optimizer.lr=0.03"]
    words += ["--model.optimizer.momentum=0.9", f"--trainer.default_root_dir={folder}"]
    others = ["--recipe=other", "--data.mixup=0.2", "--trainer.max_epochs=1", "--model.optimizer.nesterov=true"]
    run("fit", *words, *others)
    printed = run("fit", *words)
    (command,) = re.findall("tensorboard (--logdir .*)", printed)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = [sys.executable, "-m", "tensorboard.main", "--host=127.0.0.1", f"--port={port}", *shlex.split(command)]
    server = subprocess.Popen(start, stderr=subprocess.DEVNULL)
    try:
        _wait_for_runs(f"http://127.0.0.1:{port}/data/runs", server)
        with chromium(folder) as page:
            page.goto(f"http://127.0.0.1:{port}/")
            yield printed, page
    finally:
        server.terminate()
        server.wait(30)


def _wait_for_runs(url: str, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(240):
        assert server.poll() is None, "TensorBoard has ended"
        try:
            with urllib.request.urlopen(url) as answer:
                if {*json.load(answer)} == {"other-drawn/version_0", "tutorial-drawn/version_0"}:
                    return
        except OSError:
            pass  # not yet listening
        time.sleep(0.5)
    raise AssertionError("TensorBoard does not show both runs")


def _open_tab(page: Page, name: str) -> None:
    page.locator("[role=tab]").filter(has_text=re.compile(rf"^\s*{name}\s*$", re.IGNORECASE)).click()


def _open_group(page: Page, name: str) -> None:
    """TensorBoard shows the first groups open, and the others closed."""
    heading = page.locator(f"button.heading:visible:has(.category-name[title='{name}'])")
    heading.wait_for()
    if not heading.locator("xpath=following-sibling::iron-collapse[contains(@class, 'opened')]").count():
        heading.click()


def test_the_scalars_tab_shows_the_curves(report: tuple[str, Page]) -> None:
    _, page = report
    _open_tab(page, "scalars")
    for group, name in itertools.product(("loss", "accuracy"), ("train", "val")):
        _open_group(page, group)
        card = page.locator("tf-scalar-card:visible").filter(has_text=f"tag: {group}/{name}")
        card.scroll_into_view_if_needed()
        expect(card.locator("svg").first).to_be_visible()
        for _ in range(60):  # until it is drawn, on a busy machine for seconds
            pixels = np.asarray(Image.open(io.BytesIO(card.screenshot())).convert("RGB")).astype(int)
            of_the_run = np.abs(pixels - (0, 119, 187)).max(2) < 25  # TensorBoard's blue, of the second run
            across = np.flatnonzero(of_the_run.any(0))
            if len(across) > 50:  # of 300 pixels: a loss of 1 to 1.3 lies above what TensorBoard shows
                break
            page.wait_for_timeout(500)
        assert len(across) > 50, f"{group}/{name} has no curve"


def test_the_images_tab_shows_confusion_matrix_and_image_grids(report: tuple[str, Page]) -> None:
    _, page = report
    _open_tab(page, "images")
    for tag in ("test/classes", "test/confusion", "train/images"):
        _open_group(page, tag.partition("/")[0])
        loaders = page.locator("tf-image-loader:visible").filter(has_text=f"tag: {tag}")
        loader = loaders.filter(has_text="tutorial-drawn/version_0")
        picture = loader.locator("img")
        picture.scroll_into_view_if_needed()
        page.wait_for_function("image => image.complete && image.naturalWidth > 500", arg=picture.element_handle())
        shown = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("L"))
        assert shown.std() > 10, f"{tag} is blank"


def test_the_hparams_tab_compares_two_runs_by_what_differs_and_their_results(report: tuple[str, Page]) -> None:
    printed, page = report
    _open_tab(page, "hparams")
    page.locator(".table-cell", has_text="version_0").first.wait_for()
    cells = [text.strip() for text in page.locator("tf-hparams-table-view .table-cell").all_inner_texts()]
    runs = [cells.index(f"{name}-drawn/version_0") for name in ("other", "tutorial")]
    names = [text for text in cells[: runs[0]] if text]
    other, row = (dict(zip(names, cells[i:], strict=False)) for i in runs)
    differing = {"epochs": ("1.0000", "2.0000"), "mixup": ("0.20000", "0.0000"), "recipe": ("other", "tutorial")}
    assert {name: (other[name], row[name]) for name in differing} == differing
    (accuracy,) = re.findall(r"on the 2,000 test images: (\S+) %", printed)
    # Half a digit of the printed one apart at most, rounded up or down:
    assert float(row["accuracy/test"]) * 100 == pytest.approx(float(accuracy), abs=0.051)
    assert 0 < float(row["accuracy/val"]) <= 1
    assert float(row["fit_seconds"]) > 0
    named = {name.strip() for name in page.locator("tf-hparams-query-pane paper-checkbox").all_inner_texts()}
    assert {"optimizer.nesterov", "optimizer.momentum", "net", "precision", "loss/test"} <= named
    assert not any(name.startswith(("hp", "test_class")) for name in named)
