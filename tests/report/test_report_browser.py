"""The page in a real browser, over the DevTools protocol: no error, no request, pictures drawn, zoom, narrow."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import pytest
from chromium import CHROMIUM, Page, visit

from xreal_synth.report.build import build
from xreal_synth.storage import LocalStore

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")


async def look_closely(page: Page) -> None:
    drawn = "Promise.all([...document.querySelectorAll('svg.store image')].map(one => {" \
        "const i = new Image(); i.src = one.href.baseVal; return i.decode().then(() => i.naturalWidth)}))"  # fmt: skip
    widths = await page.value(drawn)
    assert len(widths) > 30
    assert min(widths) >= 32
    seen = "(() => { const box = document.querySelector('figure svg').getBoundingClientRect();" \
        "return [box.width, box.height] })()"  # fmt: skip
    width, height = await page.value(seen)
    assert width > 100
    assert abs(width - height) < 1
    await page.value("document.querySelector('.zoom').click()")
    assert await page.value("document.querySelectorAll(':popover-open').length") == 1
    assert await page.value("document.querySelector(':popover-open').getBoundingClientRect().width") > 1.2 * width
    await page.value("document.querySelector(':popover-open .close').click()")
    assert await page.value("document.querySelectorAll(':popover-open').length") == 0
    for width in (400, 800, 1400):
        await page.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        assert await page.value("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await page.send("Emulation.setEmulatedMedia", features=features)
        colours = await page.value("['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name])")
        text, ground = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
        assert (text < ground) == (scheme == "light")


@pytest.mark.parametrize("which", ["reported", "gated"])
def test_a_browser_shows_the_page_without_error_or_request(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    whole: LocalStore = request.getfixturevalue(which)
    folder = Path(shutil.copytree(str(whole.local_path), tmp_path / "dataset"))
    build(LocalStore(folder))
    url = (folder / "report.html").as_uri()

    async def look(page: Page) -> None:
        if which == "reported":
            await look_closely(page)

    events = asyncio.run(visit(url, tmp_path / "profile", look))
    reported = [event for event in events if event.get("method") in ("Log.entryAdded", "Runtime.consoleAPICalled")]
    assert not reported, reported
    assert not [event for event in events if event.get("method") == "Runtime.exceptionThrown"]
    asked = [
        event["params"]["request"]["url"] for event in events if event.get("method") == "Network.requestWillBeSent"
    ]
    assert [one for one in asked if not one.startswith("data:")] == [url]


def test_the_policy_lets_nothing_in_even_if_the_page_asked(reported: LocalStore, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(str(reported.local_path), tmp_path / "dataset"))
    build(LocalStore(folder))
    page_file = folder / "report.html"
    planted = "<script>document.title = 'ran'</script><img src='http://127.0.0.1:9/x.png'></body>"
    page_file.write_text(page_file.read_text().replace("</body>", planted))

    async def look(page: Page) -> None:
        assert await page.value("document.title") != "ran"

    events = asyncio.run(visit(page_file.as_uri(), tmp_path / "profile", look))
    blocked = [event["params"]["entry"]["text"] for event in events if event.get("method") == "Log.entryAdded"]
    assert sum("Content Security Policy" in text for text in blocked) >= 2
