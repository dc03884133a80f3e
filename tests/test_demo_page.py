"""The page to try a network, in a browser: what is dropped, clicked and read."""

import io
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import chromium, hosts_asked, needs_chromium
from PIL import Image
from playwright.sync_api import Page, expect
from running import RUN, run, start
from serving import bomb, picture
from torch import Tensor

from lit_cifar import LitClassifier
from lit_cifar.data.synthetic import draw

pytestmark = [pytest.mark.browser, pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of a running demo of a network that was trained on the drawn stand-ins, and its checkpoint."""
    folder = tmp_path_factory.mktemp("demo")
    words = ["--data.dataset=drawn", "--data.val_size=1000", "--data.batch_size=64", "--trainer.max_epochs=2"]
    words += ["--model.optimizer=SGD", "--model.optimizer.lr=0.03", "--model.optimizer.momentum=0.9"]
    run("fit", *words, "--trainer.default_root_dir", folder)
    checkpoint = folder / RUN / "checkpoints" / "best.ckpt"
    process = start("demo", "--port=0", "--ckpt_path", checkpoint)
    assert process.stdout is not None
    (address,) = re.findall(r"Open (\S+) ", process.stdout.readline())
    yield address, checkpoint
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_no_request_leaves_this_machine(demo: tuple[str, Path], tmp_path: Path) -> None:
    with chromium(tmp_path) as page:
        page.goto(demo[0])
        page.locator("#images img").first.click()
        page.locator("#classes li").first.wait_for()
    assert hosts_asked(tmp_path) == {"127.0.0.1"}
    with chromium(tmp_path / "control") as page:  # the log does tell of others
        page.goto(demo[0])
        page.goto("data:text/html,<img src='http://elsewhere.invalid/x.png'>")
        page.wait_for_timeout(500)
    assert hosts_asked(tmp_path / "control") == {"127.0.0.1", "elsewhere.invalid"}


@pytest.fixture(scope="module")
def page(demo: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The demo in Chromium, whose console must stay empty."""
    said: list[str] = []
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        page.on("console", lambda message: said.append(message.text))
        page.goto(demo[0])
        page.locator("body[data-ready]").wait_for()
        yield page
    assert [text for text in said if "status of 400" not in text] == []  # Chromium's own line on a refused picture


def give(page: Page, event: str, content: bytes, name: str = "picture.png") -> None:
    """Drops or pastes a file."""
    page.evaluate(
        """([kind, bytes, name]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name));
            const event = kind === "drop" ? new DragEvent("drop", {dataTransfer: data, cancelable: true, bubbles: true})
                                          : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
            document.getElementById("drop").dispatchEvent(event);
        }""",
        [event, list(content), name],
    )


def shown(page: Page) -> dict[str, str]:
    """The classes and percentages on the page, in their order."""
    items = page.locator("#classes li")
    return {item.locator(".name").inner_text(): item.locator(".percent").inner_text() for item in items.all()}


def expected(checkpoint: Path, image: Image.Image | Tensor) -> dict[str, str]:
    classifier = LitClassifier.load_from_checkpoint(checkpoint)
    values = classifier.predict(image)[0]
    order = values.argsort(descending=True, stable=True).tolist()
    return {classifier.classes[i]: f"{float(values[i]) * 100:.1f} %" for i in order}


def answered(page: Page, act: Any) -> None:
    with page.expect_response("**/predict"):
        act()
    page.wait_for_timeout(300)


@pytest.mark.parametrize("way", ["drop", "paste", "choose"])
def test_a_picture_shows_the_ten_probabilities(page: Page, demo: tuple[str, Path], tmp_path: Path, way: str) -> None:
    content = picture(side={"drop": 300, "paste": 77, "choose": 32}[way])
    if way == "choose":
        (tmp_path / "a.png").write_bytes(content)
        answered(page, lambda: page.locator("#file").set_input_files(tmp_path / "a.png"))
    else:
        answered(page, lambda: give(page, way, content))
    assert shown(page) == expected(demo[1], Image.open(io.BytesIO(content)))
    assert len(shown(page)) == 10
    expect(page.locator("#map")).to_be_visible()
    top = next(iter(shown(page)))
    expect(page.locator("#map-caption")).to_have_text(f"Where it looked: the clear parts speak for {top}")


def test_a_photo_of_the_camera_is_looked_at(page: Page) -> None:
    page.locator("#camera").click()
    page.locator("#camera", has_text="Take it").wait_for()
    answered(page, page.locator("#camera").click)
    expect(page.locator("#message")).to_be_hidden()
    expect(page.locator("#drop")).to_be_visible()


def test_what_is_no_picture_is_refused_in_the_page_and_the_next_one_is_shown(page: Page) -> None:
    answered(page, lambda: give(page, "drop", b"no picture", "notes.txt"))
    expect(page.locator("#message")).to_have_text(re.compile("^This is not a picture"))
    answered(page, lambda: give(page, "drop", bomb(9000, 9000)))
    expect(page.locator("#message")).to_have_text(re.compile("^The picture has more than 50 million pixels"))
    page.evaluate("() => look(new Blob([new Uint8Array(21 << 20)]))")
    expect(page.locator("#message")).to_have_text(re.compile("^The file is larger than 20 MB"))
    answered(page, lambda: give(page, "drop", picture()))
    expect(page.locator("#message")).to_be_hidden()


def test_the_gallery_is_filtered_by_class_and_mistake_and_clicked(page: Page, demo: tuple[str, Path]) -> None:
    _, test = draw()
    chosen = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))[:1000]
    images, labels = test.images[chosen], test.labels[chosen]
    predicted = LitClassifier.load_from_checkpoint(demo[1]).predict(images).argmax(1)
    wrong, deer = predicted != labels, labels == test.classes.index("deer")
    assert 0 < int((wrong & deer).sum()) < int(wrong.sum())
    expect(page.locator("#note")).to_have_text(re.compile("synthetic images, on which this network was trained"))
    expect(page.locator("#images button")).to_have_count(48)
    page.locator("#more").click()
    expect(page.locator("#images button")).to_have_count(96)
    page.get_by_label("mistakes only").check()
    expect(page.locator("#count")).to_have_text(re.compile(rf"^{int(wrong.sum())} images?$"))
    page.get_by_label("Class").select_option("deer")
    found = (wrong & deer).nonzero().flatten()
    expect(page.locator("#count")).to_have_text(re.compile(rf"^{len(found)} images?$"))
    captions = [text.split() for text in page.locator("#images button").all_inner_texts()]
    assert captions == [["deer", "✗", test.classes[predicted[i]]] for i in found.tolist()][:48]
    answered(page, page.locator("#images button").first.click)
    assert shown(page) == expected(demo[1], images[found[0]])


@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_is_wider_than_the_window(page: Page, tmp_path: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    answered(page, lambda: give(page, "drop", picture()))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for bar in page.locator("#classes .track").all():
        box = bar.bounding_box()
        assert box is not None and box["width"] > 80
    page.screenshot(path=tmp_path / f"{width}.png", full_page=True)
