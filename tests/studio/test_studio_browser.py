"""The studio in headless Chromium, with real clicks, as wide as a desktop and as a phone."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from xreal_synth.recipe.load import recipe_from_text
from xreal_synth.studio.making import BANK, Studio

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium here: apt-get install chromium", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is in the dev extra")
pytest.importorskip("gradio", reason="gradio is in the studio extra")

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
WAIT_MS = 60_000


@dataclass(frozen=True)
class Served:
    """A studio that runs: its address, the token it printed, and everything it said."""

    url: str
    token: str
    log: Path


@pytest.fixture(scope="module")
def served(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Listens beyond loopback, and so asks for a token of its own; ended as by Ctrl-C, it leaves nothing behind."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "tmp").mkdir()
    log = folder / "log"
    command = [
        sys.executable,
        "-m",
        "xreal_synth.cli.main",
        "studio",
        "--bundle",
        str(tiny_bundle),
        "--host",
        "0.0.0.0",
    ]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder / "tmp"), "COLUMNS": "200"}
    with log.open("w") as out:
        process = subprocess.Popen([*command, "--port", "0"], stdout=out, stderr=subprocess.STDOUT, env=environ)
    began = time.monotonic()
    try:
        found = None
        while found is None and process.poll() is None and time.monotonic() < began + 120:
            time.sleep(0.1)
            found = re.search(r"studio: http://0\.0\.0\.0:(\d+).*\ntoken: (\S+)\n", log.read_text())
        assert found, log.read_text()
        yield Served(f"http://127.0.0.1:{found[1]}", found[2], log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(30)
        finally:
            process.kill()
    assert code == 0
    said = log.read_text()
    assert "Traceback" not in said, said
    assert said.count(found[2]) == 1, "the token is printed once"
    assert list((folder / "tmp").iterdir()) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def entered(browser: Any, served: Served, size: dict[str, int]) -> Any:
    """A page of a fresh browser that knows the token, with the chest drawn; requests elsewhere fail the test."""
    context = browser.new_context(viewport=size, permissions=["clipboard-read", "clipboard-write"])
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.elsewhere = []
    page.on("request", lambda one: one.url.startswith((served.url, "data:", "blob:")) or page.elsewhere.append(one.url))
    page.goto(served.url)
    page.get_by_label("token").fill(served.token)
    page.get_by_role("button", name="Enter").click()
    page.wait_for_selector("#chest img")
    return page


def left(page: Any, size: dict[str, int]) -> None:
    """The page is no wider than the screen, loaded nothing from elsewhere, and shows no traceback."""
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert page.elsewhere == []
    assert "Traceback" not in page.content()
    page.context.close()


LOADED = "(image => image.complete && image.naturalWidth > 0)(document.querySelector('#chest img'))"
"""A click on a picture that is still loading has no place in it, and the page leaves it out."""
SETTLED = 1500
"""Milliseconds in which what a choice draws anew has come, so that it is not taken for what a click draws."""


def choose(page: Any, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option).click()
    page.wait_for_timeout(SETTLED)


def click_at(page: Any, x: float, y: float) -> None:
    """A click on the chest, at shares of the picture."""
    page.wait_for_function(LOADED)
    image = page.locator("#chest img")
    box = image.bounding_box()
    before = image.get_attribute("src")
    image.click(position={"x": x * box["width"], "y": y * box["height"]})
    page.wait_for_function("src => document.querySelector('#chest img').src !== src", arg=before)


def shown(page: Any, locator: Any) -> np.ndarray[Any, Any]:
    """The pixels of a picture, as the page loads it."""
    data = page.request.get(locator.get_attribute("src")).body()
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


def test_nobody_enters_without_the_token(browser: Any, served: Served) -> None:
    page = browser.new_page()
    assert page.goto(served.url).status == 401
    assert page.request.get(f"{served.url}/config").status == 401
    page.get_by_label("token").fill("not the token")
    page.get_by_role("button", name="Enter").click()
    page.get_by_text("Not the token").wait_for()
    assert page.locator("#chest").count() == 0
    page.get_by_label("token").fill(served.token)
    page.get_by_role("button", name="Enter").click()
    page.wait_for_selector("#chest img")
    assert served.token not in page.url
    page.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_an_image_is_made_with_a_drawn_box(browser: Any, served: Served, studio: Studio, size: dict[str, int]) -> None:
    lung = np.argwhere(studio.canvas([], BANK, 7, 1.0, None, None).organs == 2) / 64
    (y0, x0), (y1, x1) = np.quantile(lung, 0.3, axis=0), np.quantile(lung, 0.7, axis=0)
    page = entered(browser, served, size)
    choose(page, "Finding 1", "Pneumonia")
    click_at(page, x1, y0)
    click_at(page, x0, y1)
    page.get_by_role("button", name="Make", exact=True).click()
    page.wait_for_selector("#facts table")
    assert "Lung Opacity, Pneumonia" in page.locator("#facts").inner_text()
    healthy, findings = (shown(page, page.locator(".shot img").nth(number)) for number in range(2))
    rows, columns = np.nonzero(healthy != findings)
    assert healthy.shape == (64, 64)
    assert columns.min() / 64 == pytest.approx(x0, abs=0.1)
    assert rows.max() / 64 == pytest.approx(y1, abs=0.1)

    page.locator("#rows").get_by_role("button", name="Copy").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    (label,) = yaml.safe_load(copied)["findings"][0]["labels"]
    assert label["name"] == "Pneumonia"
    assert label["box"] == pytest.approx([x0, y0, x1, y1], abs=0.02)
    recipe_from_text("version: 1\nname: a\nbundle: xreal-mini\nanatomies: 1\noutput: {uri: a}\n" + copied)

    page.get_by_role("button", name="Four seeds").click()
    page.wait_for_selector("#four img")
    page.locator("#four img").nth(2).click()
    page.locator("#facts").get_by_text("9", exact=True).wait_for()
    left(page, size)


def test_two_findings_and_a_place_that_cannot_be(browser: Any, served: Served) -> None:
    """A mistake is told and leaves the page as it is; the next attempt goes through."""
    page = entered(browser, served, PHONE)
    choose(page, "Finding 1", "Effusion")
    page.get_by_role("radio", name="2", exact=True).click()
    choose(page, "Finding 2", "Edema")
    click_at(page, 0.3, 0.3)
    page.wait_for_function(LOADED)
    page.locator("#chest img").click(position={"x": 200, "y": 200})
    page.get_by_text("`box` for Edema").wait_for()
    page.get_by_role("button", name="Clear boxes").click()
    page.get_by_role("button", name="Make", exact=True).click()
    page.wait_for_selector("#facts table")
    assert page.locator("#rows .cm-content").inner_text().count("name:") == 2
    left(page, PHONE)


def test_a_wrong_upload_is_told(browser: Any, served: Served, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "mine.png")
    page = entered(browser, served, DESKTOP)
    page.get_by_role("radio", name="own organ mask").click()
    page.locator("input[type=file]").last.set_input_files(tmp_path / "mine.png")
    toast = page.locator(".toast-body")
    toast.get_by_text("mode RGB").wait_for()
    assert "save the codes themselves" in toast.inner_text()
    assert toast.inner_text().startswith("Info")
    assert str(tmp_path) not in page.content()
    left(page, DESKTOP)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_dataset_is_browsed(
    browser: Any, served: Served, dataset: Path, real_images: Path, size: dict[str, int]
) -> None:
    page = entered(browser, served, size)
    page.get_by_role("tab", name="Dataset").click()
    page.get_by_label("Dataset: folder or URI").fill("no/such/set")
    page.get_by_role("button", name="Open").click()
    page.locator(".toast-body").get_by_text("dataset.json").wait_for()
    page.locator(".toast-close").click()
    page.get_by_label("Dataset: folder or URI").fill(str(dataset))
    page.get_by_label("Real images").fill(str(real_images))
    page.get_by_role("button", name="Open").click()
    page.wait_for_selector("#images img")
    assert page.locator("#images img").count() == 12
    choose(page, "Finding", "Pneumonia (6)")
    page.wait_for_function("document.querySelectorAll('#images img').length === 6")
    choose(page, "Worst first by", "change.inside")
    page.locator("#images img").first.click()
    page.wait_for_selector("#told table")
    assert "Pneumonia" in page.locator("#told").inner_text()
    page.locator("#beside").get_by_text("Pneumonia · b.png").wait_for()
    left(page, size)


def test_a_page_that_is_left_open_does_not_keep_the_studio(browser: Any, served: Served) -> None:
    """The last: `served` is ended with this page open, and must say nothing of it."""
    entered(browser, served, DESKTOP)
