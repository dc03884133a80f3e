"""The page's script, where the server answers what it never should, or is gone: seen in a browser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import chromium, needs_chromium
from playwright.sync_api import Page, Route, expect
from serving import page_of, picture, serving
from test_demo_page import give

from lit_cifar.deploy.demo.gallery import Gallery
from lit_cifar.deploy.demo.server import BUSY
from lit_cifar.nets.tutorial import Net

pytestmark = [pytest.mark.browser, pytest.mark.slow, needs_chromium]
expect.set_options(timeout=60_000)
GONE = "The server does not answer. Is it still running?"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page of an untrained network and sixty test images; no error of its script may go unsaid."""
    torch.manual_seed(0)
    images, labels = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8), torch.arange(60) % 10
    app = page_of(Net(), Gallery("Test images", images, labels, labels.roll(1), torch.full((60,), 0.5)))
    errors: list[str] = []
    with serving(app) as port, chromium(tmp_path_factory.mktemp("chromium")) as page:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}")
        page.locator("body[data-ready]").wait_for()
        yield page
    assert errors == []


@pytest.fixture
def message(page: Page) -> Iterator[None]:
    """A page that shows a result, which an error must hide; afterwards the page must work again."""
    for _ in range(2):
        page.unroute_all()
        page.reload()
        page.locator("body[data-ready]").wait_for()
        give(page, "drop", {"a.png": picture()})
        expect(page.locator("#result")).to_be_visible()
        expect(page.locator("#message")).to_be_hidden()
        if not _:
            yield


def look(page: Page, folder: Path, name: str) -> None:
    """Nothing is wider than the window; with pictures for a person to look at."""
    for width in (360, 1400):
        for scheme in ("light", "dark"):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.screenshot(path=folder / f"{name}-{width}-{scheme}.png")


UNREADABLE = "The server's answer is unreadable (status {}). Reload the page."


@pytest.mark.usefixtures("message")
@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (200, "<html>a proxy's page", UNREADABLE.format(200)),
        (200, "", UNREADABLE.format(200)),
        (200, "null", UNREADABLE.format(200)),
        (200, "[1, 2]", UNREADABLE.format(200)),
        (200, '{"classes": [{"name": "cat", "proba', UNREADABLE.format(200)),
        (500, "Internal Server Error", UNREADABLE.format(500)),
        (502, "<html>Bad gateway", UNREADABLE.format(502)),
        (503, json.dumps({"error": BUSY}), BUSY),
        (503, "Service Unavailable", BUSY),  # uvicorn's answer to too many connections
    ],
)
def test_an_answer_that_cannot_be_read_is_told_and_hides_the_old_result(
    page: Page, tmp_path: Path, status: int, body: str, sentence: str
) -> None:
    page.route(re.compile("/predict"), lambda route: route.fulfill(status=status, body=body))
    give(page, "drop", {"a.png": picture()})
    expect(page.locator("#message")).to_have_text(sentence)
    expect(page.locator("#result")).to_be_hidden()
    look(page, tmp_path, f"answer-{status}")


@pytest.mark.usefixtures("message")
def test_a_server_that_is_gone_is_told(page: Page, tmp_path: Path) -> None:
    page.route(re.compile("/predict"), lambda route: route.abort())
    give(page, "drop", {"a.png": picture()})
    expect(page.locator("#message")).to_have_text(GONE)
    expect(page.locator("#result")).to_be_hidden()
    look(page, tmp_path, "gone")


def test_a_server_that_goes_in_the_middle_of_its_answer_is_told(page: Page) -> None:
    """One that serves the page, and half of an answer."""
    app = page_of(Net())

    async def half(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/predict":
            return await app(scope, receive, send)
        head = [(b"content-length", b"5000"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b'{"classes": [', "more_body": True})
        return None  # uvicorn closes the connection

    with serving(half) as port:
        another = page.context.new_page()
        another.goto(f"http://127.0.0.1:{port}")
        another.locator("body[data-ready]").wait_for()
        give(another, "drop", {"a.png": picture()})
        expect(another.locator("#message")).to_have_text(GONE)
        another.close()


@pytest.mark.usefixtures("message")
def test_a_map_that_fails_leaves_the_class_whose_map_is_shown_selected(page: Page) -> None:
    page.route(re.compile("/predict"), lambda route: route.abort())
    page.locator(".class input").nth(2).click()
    expect(page.locator("#message")).to_have_text(GONE)
    expect(page.locator(".class input").nth(0)).to_be_checked()
    expect(page.locator("#result")).to_be_visible()
    page.unroute_all()
    page.locator(".class input").nth(2).click()
    expect(page.locator("#message")).to_be_hidden()
    expect(page.locator(".class input").nth(2)).to_be_checked()


@pytest.mark.usefixtures("message")
def test_an_old_result_cannot_be_used_while_another_is_awaited(page: Page) -> None:
    page.route(re.compile("/images/1.png"), lambda route: None)  # never answered
    page.locator("#images button").nth(1).click()
    expect(page.locator(".class input").nth(2)).to_be_disabled()
    page.locator("#images button").nth(0).click()
    expect(page.locator(".class input").nth(2)).to_be_enabled()


@pytest.mark.usefixtures("message")
def test_a_camera_without_a_picture_is_told(page: Page, tmp_path: Path) -> None:
    page.evaluate("() => { HTMLCanvasElement.prototype.toBlob = (call) => call(null); }")
    page.locator("#camera").click()
    page.locator("#take").click()
    expect(page.locator("#message")).to_have_text(re.compile("^The camera gave no picture"))
    expect(page.locator("#result")).to_be_hidden()
    look(page, tmp_path, "camera")


@pytest.mark.usefixtures("message")
def test_an_image_of_the_gallery_that_fails_is_told_and_leaves_its_place(page: Page, tmp_path: Path) -> None:
    def refuse(route: Route) -> None:
        number = int(route.request.url.rpartition("/")[2].partition(".")[0])
        if number == 1:
            route.fulfill(status=404, json={"error": "The gallery has no such image. Reload the page."})
        elif number == 2:
            route.abort()
        elif number == 3:
            route.fulfill(status=200, body="no image", content_type="text/html")
        else:
            route.continue_()

    page.route("**/images/*.png", refuse)
    page.reload()
    expect(page.locator("#images .lost")).to_have_count(3)
    buttons = page.locator("#images button")
    expect(buttons).to_have_count(48)
    for index, sentence in (
        (1, "The gallery has no such image. Reload the page."),
        (2, GONE),
        (3, re.compile("^test image is not an image")),
    ):
        buttons.nth(index).click()
        expect(page.locator("#message")).to_have_text(sentence)
    look(page, tmp_path, "gallery")
    buttons.nth(0).click()
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#message")).to_be_hidden()


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (200, "no JSON", UNREADABLE.format(200)),
        (200, "{}", UNREADABLE.format(200)),
        (
            421,
            json.dumps({"error": "This server is not to be called by that name."}),
            "This server is not to be called by that name.",
        ),
        (None, "", GONE),
    ],
)
def test_a_page_that_cannot_begin_says_why(
    page: Page, tmp_path: Path, status: int | None, body: str, sentence: str
) -> None:
    page.unroute_all()

    def answer(route: Route) -> None:
        if status is None:
            route.abort()
        else:
            route.fulfill(status=status, body=body)

    page.route("**/about", answer)
    page.reload()
    expect(page.locator("#message")).to_have_text(sentence)
    look(page, tmp_path, "start")
