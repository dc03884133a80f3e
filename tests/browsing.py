"""Chromium without a window, on pages that this machine serves."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera that films a test card
    "--use-fake-ui-for-media-stream",
]


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """A page of a new Chromium, which writes to `folder / "netlog.json"` whatever it asks the network for."""
    folder.mkdir(exist_ok=True)
    flags = [*FLAGS, f"--log-net-log={folder / 'netlog.json'}"]
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(folder / "profile"),
            executable_path=CHROMIUM,
            args=flags,
            viewport={"width": 1400, "height": 900},
            timeout=120_000,
        )
        context.set_default_timeout(60_000)
        try:
            yield context.pages[0]
        finally:
            context.close()


def hosts_asked(folder: Path) -> set[str | None]:
    """Every host that pages asked for anything, from Chromium's network log.

    What Chromium asks on its own account (whether there is an update, whether someone is signed in) has no origin.
    """
    log = json.loads((folder / "netlog.json").read_text())
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    requests = [event.get("params", {}) for event in log["events"] if event["type"] == start]
    urls = [r["url"] for r in requests if r.get("initiator", "not an origin") != "not an origin"]
    return {urlsplit(url).hostname for url in urls if not url.startswith(("data:", "blob:"))}
