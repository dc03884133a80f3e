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
from lit_cifar.evaluation.wording import isolated

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
        page.locator(".class").first.wait_for()
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


def give(page: Page, event: str, files: dict[str, bytes]) -> None:
    """Drops or pastes files."""
    page.evaluate(
        """([kind, files]) => {
            const data = new DataTransfer();
            for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name));
            const event = kind === "drop" ? new DragEvent("drop", {dataTransfer: data, cancelable: true, bubbles: true})
                                          : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
            document.getElementById("drop").dispatchEvent(event);
        }""",
        [event, [(name, list(content)) for name, content in files.items()]],
    )


def shown(page: Page) -> dict[str, str]:
    """The classes and percentages on the page, in their order."""
    rows = [row.inner_text().split() for row in page.locator(".class").all()]
    return {name: f"{number} {sign}" for name, *_, number, sign in rows}


def expected(checkpoint: Path, image: Image.Image | Tensor) -> dict[str, str]:
    classifier = LitClassifier.load_from_checkpoint(checkpoint)
    values = classifier.predict(image)[0]
    order = values.argsort(descending=True, stable=True).tolist()
    return {classifier.classes[i]: f"{float(values[i]) * 100:.1f} %" for i in order}


def answered(page: Page, act: Any) -> None:
    with page.expect_response(re.compile("/predict")):
        act()
    page.wait_for_timeout(300)


@pytest.mark.parametrize("way", ["drop", "paste", "choose"])
def test_a_picture_shows_the_ten_probabilities(page: Page, demo: tuple[str, Path], tmp_path: Path, way: str) -> None:
    content = picture(side={"drop": 300, "paste": 77, "choose": 32}[way])
    if way == "choose":
        (tmp_path / "a.png").write_bytes(content)
        answered(page, lambda: page.locator("#file").set_input_files(tmp_path / "a.png"))
    else:
        answered(page, lambda: give(page, way, {"a.png": content}))
    assert shown(page) == expected(demo[1], Image.open(io.BytesIO(content)))
    assert len(shown(page)) == 10
    expect(page.locator("#verdict")).to_have_text(re.compile(r"^predicted \W\w+\W \(\d"))
    expect(page.locator("#preview-caption")).to_have_text(re.compile(r"^a\.png: (\d+)\s×\s\1\spixels$"))


def test_the_map_of_each_class_is_shown_when_it_is_chosen_by_the_keyboard(page: Page) -> None:
    answered(page, lambda: give(page, "drop", {"a.tif": picture(kind="TIFF")}))
    seen = []
    page.locator(".class input").first.focus()
    for name in list(shown(page))[1:]:
        answered(page, lambda: page.keyboard.press("ArrowDown"))
        expect(page.locator("#map-caption")).to_have_text(re.compile(f" supports? {name}( more)?$"))
        seen.append(page.locator("#map").get_attribute("src"))
    assert len({*seen}) > 3
    page.locator("#clear").click()
    expect(page.locator("#result")).to_be_hidden()


def test_a_photo_is_taken_or_not_by_the_keyboard_and_the_camera_stops(page: Page) -> None:
    page.evaluate("""() => {
        const given = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wish) => (window.given = await given(wish));
    }""")
    for key in ("Escape", "Enter"):
        page.locator("#camera").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#take")).to_be_focused()
        if key == "Enter":
            answered(page, lambda: page.keyboard.press("Enter"))
        else:
            page.keyboard.press(key)
        expect(page.locator("#viewfinder")).to_be_hidden()
        expect(page.locator("#camera")).to_be_focused()
        assert page.evaluate("window.given.getTracks().every((track) => track.readyState === 'ended')")
    expect(page.locator("#preview-caption")).to_have_text(re.compile("^photo: "))
    page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError'); } }"
    )
    page.locator("#camera").click()
    expect(page.locator("#message")).to_have_text(re.compile("^No camera"))


def test_what_is_no_picture_is_refused_in_the_page_and_the_next_one_is_shown(page: Page) -> None:
    answered(page, lambda: give(page, "drop", {"notes.txt": b"no picture"}))
    expect(page.locator("#message")).to_have_text("notes.txt is not an image. Use PNG, JPEG, WEBP, GIF, BMP or TIFF.")
    answered(page, lambda: give(page, "drop", {"a.png": bomb(9000, 9000)}))
    expect(page.locator("#message")).to_have_text(re.compile("^a.png has more than 50 million pixels"))
    large = [{"name": "b.png", "mimeType": "image/png", "buffer": bytes(21 << 20)}]
    page.locator("#file").set_input_files(large)  # type: ignore[arg-type]
    expect(page.locator("#message")).to_have_text(re.compile("^b.png is larger than 20 MB"))
    answered(page, lambda: give(page, "drop", {"c.png": picture()}))
    expect(page.locator("#message")).to_be_empty()


def test_several_files_give_a_table_with_errors_whose_rows_open_results(page: Page, demo: tuple[str, Path]) -> None:
    name = "<b>" + "long" * 30 + ".png"
    give(
        page,
        "drop",
        {name: picture(), "IMG_1.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "c.bmp": picture(90, "BMP")},
    )
    expect(page.locator("#several-title")).to_have_text("3 files")
    names = [row.inner_text() for row in page.locator("#files th").all()]
    assert names == [name, "IMG_1.heic", "c.bmp"]
    best, *others = expected(demo[1], Image.open(io.BytesIO(picture()))).items()
    cells = [cell.inner_text().replace("\xa0", " ") for cell in page.locator("#files tr").first.locator("td").all()]
    assert cells == [*best, ", ".join(f"{other} {value}" for other, value in others[:2])]
    expect(page.locator("#files tr").nth(1)).to_contain_text("HEIC")
    page.locator("#files button").nth(1).focus()
    answered(page, lambda: page.keyboard.press("Enter"))
    expect(page.locator("#preview-caption")).to_have_text("c.bmp: 90 × 90 pixels")
    assert page.locator("[aria-current]").inner_text().startswith("c.bmp")
    answered(page, lambda: give(page, "drop", {"d.png": picture()}))
    expect(page.locator("#several")).to_be_hidden()


def test_the_gallery_is_filtered_sorted_and_says_whether_the_prediction_is_right(
    page: Page, demo: tuple[str, Path]
) -> None:
    _, test = draw()
    chosen = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))[:1000]
    images, labels = test.images[chosen], test.labels[chosen]
    sure, predicted = LitClassifier.load_from_checkpoint(demo[1]).predict(images).max(1)
    wrong, deer = predicted != labels, labels == test.classes.index("deer")
    assert 0 < int((wrong & deer).sum()) < int(wrong.sum())
    expect(page.locator("#note")).to_have_text(re.compile("synthetic images, on which this network was trained"))
    expect(page.locator("#images button")).to_have_count(48)
    page.locator("#more").click()
    expect(page.locator("#images button")).to_have_count(96)
    expect(page.locator("#images button").nth(48)).to_be_focused()
    page.get_by_label("mistakes only").check()
    expect(page.locator("#count")).to_have_text(re.compile(rf"^{int(wrong.sum())} images?$"))
    page.get_by_label("Actually").select_option("deer")
    page.get_by_label("Sort").select_option("most confident first")
    found = (wrong & deer).nonzero().flatten()
    found = found[sure[found].argsort(descending=True, stable=True)]
    expect(page.locator("#count")).to_have_text(re.compile(rf"^{len(found)} images?$"))
    captions = [text.split() for text in page.locator("#images button").all_inner_texts()]
    said = [
        [
            "✗",
            "predicted",
            isolated(test.classes[predicted[i]]),
            f"({float(sure[i]) * 100:.1f}",
            "%)",
            "actually",
            isolated("deer"),
        ]
        for i in found.tolist()
    ]
    assert captions == said[:48]
    answered(page, page.locator("#images button").first.click)
    assert shown(page)["deer"] == expected(demo[1], images[found[0]])["deer"]
    expect(page.locator("#verdict")).to_have_text(re.compile("^✗ predicted .*actually .deer.: wrong$"))
    expect(page.locator("#images button[aria-current]")).to_have_count(1)
    guess = test.classes[predicted[found[0]]]
    page.locator("#predicted").select_option(guess)
    expect(page.locator("#images button[aria-current]")).to_have_count(1)
    page.locator("#predicted").select_option("deer")
    expect(page.locator("#count")).to_have_text("No image is like this.")
    page.get_by_label("mistakes only").uncheck()
    answered(page, page.locator("#images button").first.click)
    expect(page.locator("#verdict")).to_have_text(re.compile("^✓ predicted .deer. .*actually .deer.: right$"))


def test_a_phone_is_told_nothing_of_dropping(page: Page) -> None:
    assert "Drop" in page.locator("#drop").inner_text()
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    expect(page.locator("#drop")).not_to_contain_text("Drop", use_inner_text=True)
    expect(page.locator("#drop")).to_contain_text("Choose pictures", use_inner_text=True)
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_on_a_phone_the_verdict_of_an_image_of_the_gallery_comes_into_sight(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 664})
    for index in (0, 40):
        answered(page, page.locator("#images button").nth(index).click)
        box = page.locator("#verdict").bounding_box()
        assert box is not None and box["y"] >= 0 and box["y"] + box["height"] < 664 * 0.45


@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    give(page, "drop", {"a.png": picture(), "b" * 80: b"no picture"})
    expect(page.locator("#several-title")).to_have_text("2 files")
    answered(page, page.locator("#files button").click)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for bar in page.locator("#classes .track").all():
        box = bar.bounding_box()
        assert box is not None and box["width"] > 80
