"""TensorBoard on a run, as a user sees it in a browser."""

import io
import re
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
from running import RUN, run

pytestmark = [pytest.mark.browser, pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Page]]:
    """What a short run on drawn images printed, and TensorBoard on it."""
    folder = tmp_path_factory.mktemp("tensorboard")
    words = ["--data.dataset=drawn", "--data.val_size=1000", "--data.batch_size=64", "--trainer.max_epochs=2"]
    words += ["--trainer.log_every_n_steps=20", "--model.optimizer=SGD", "--model.optimizer.lr=0.03"]
    printed = run("fit", *words, "--model.optimizer.momentum=0.9", "--trainer.default_root_dir", folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--host=127.0.0.1", f"--port={port}"]
    server = subprocess.Popen([*command, f"--logdir={(folder / RUN).parent}"], stderr=subprocess.DEVNULL)
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
                if b"version_0" in answer.read():
                    return
        except OSError:
            pass  # not yet listening
        time.sleep(0.5)
    raise AssertionError("TensorBoard shows no run")


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
    for group, name in (("train", "loss"), ("train", "accuracy"), ("val", "loss"), ("val", "accuracy")):
        _open_group(page, group)
        card = page.locator("tf-scalar-card:visible").filter(has_text=f"tag: {group}/{name}")
        card.scroll_into_view_if_needed()
        expect(card.locator("svg").first).to_be_visible()
        for _ in range(60):  # until it is drawn, on a busy machine for seconds
            pixels = np.asarray(Image.open(io.BytesIO(card.screenshot())).convert("RGB")).astype(int)
            of_the_run = np.abs(pixels - (255, 112, 67)).max(2) < 25  # TensorBoard's orange
            across = np.flatnonzero(of_the_run.any(0))
            if len(across) > 50:  # of 300 pixels: a loss of 1 to 1.3 lies above what TensorBoard shows
                break
            page.wait_for_timeout(500)
        assert len(across) > 50, f"{group}/{name} has no curve"


def test_the_images_tab_shows_confusion_matrix_and_image_grids(report: tuple[str, Page]) -> None:
    _, page = report
    _open_tab(page, "images")
    for tag in ("confusion", "predictions", "training images"):
        _open_group(page, tag)
        loader = page.locator("tf-image-loader:visible").filter(has_text=f"tag: {tag}")
        picture = loader.locator("img")
        picture.scroll_into_view_if_needed()
        page.wait_for_function("image => image.complete && image.naturalWidth > 500", arg=picture.element_handle())
        shown = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("L"))
        assert shown.std() > 10, f"{tag} is blank"


def test_the_hparams_tab_shows_hyperparameters_with_the_final_accuracy(report: tuple[str, Page]) -> None:
    printed, page = report
    _open_tab(page, "hparams")
    page.locator(".table-cell", has_text="version_0").wait_for()
    cells = [text.strip() for text in page.locator("tf-hparams-table-view .table-cell").all_inner_texts()]
    names = [text for text in cells[: cells.index("version_0")] if text]
    row = dict(zip(names, cells[cells.index("version_0") :], strict=False))
    shown = {name: row[name] for name in ("batch_size", "epochs", "lr", "net", "optimizer")}
    assert shown == {"batch_size": "64.000", "epochs": "2.0000", "lr": "0.030000", "net": "Net", "optimizer": "SGD"}
    (accuracy,) = re.findall(r"on the 2,000 test images: (\S+) %", printed)
    # Half a digit of the printed one apart at most, rounded up or down:
    assert float(row["hp/test_accuracy"]) * 100 == pytest.approx(float(accuracy), abs=0.051)
