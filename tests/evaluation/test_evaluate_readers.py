"""A study from images to figures: what a page shows and hides, what is refused, means and differences by hand."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, Page, visit
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.readers import (
    FORMAT,
    REAL,
    Candidate,
    Kit,
    Showing,
    choose_images,
    key_bytes,
    make_kit,
    read_key,
    read_results,
    reader_page,
)
from xreal_synth.evaluation.readers_figures import analyse, tables_of

Evaluate = Callable[..., int]
Out = pytest.CaptureFixture[str]

ILL, WELL = ("Pneumonia",), ()


def pool(arm: str, ill: int, well: int) -> list[Candidate]:
    """Images of patients of their own, and a second image of each."""
    kinds = [ILL] * ill + [WELL] * well
    return [Candidate(arm, f"{arm}{at}{again}", f"p{at}", kind) for at, kind in enumerate(kinds) for again in "ab"]


@given(st.integers(0, 99))
def test_kinds_have_the_same_findings_and_a_patient_one_image(seed: int) -> None:
    chosen = choose_images({REAL: pool(REAL, 9, 3), "made": pool("made", 20, 10)}, 16, seed)
    counted = Counter((image.arm, image.findings) for image in chosen)
    assert counted[REAL, ILL] == counted["made", ILL] == 5, "two thirds of eight, as among the generated images"
    assert counted[REAL, WELL] == counted["made", WELL] == 3
    assert len({(image.arm, image.group) for image in chosen}) == len(chosen)


def test_a_kind_with_too_few_gives_what_it_has_and_others_fill_up() -> None:
    chosen = choose_images({REAL: pool(REAL, 2, 9), "made": pool("made", 20, 10)}, 16, 0)
    assert Counter(image.findings for image in chosen if image.arm == REAL) == {ILL: 2, WELL: 6}
    with pytest.raises(DatasetError, match="no finding 9, Pneumonia 2"):
        choose_images({REAL: pool(REAL, 2, 9), "made": pool("made", 20, 10)}, 24, 0)
    with pytest.raises(DatasetError, match="as many images of each kind"):
        choose_images({REAL: pool(REAL, 2, 9), "made": pool("made", 20, 10)}, 15, 0)


@given(st.integers(0, 99))
def test_every_reader_sees_all_in_an_order_and_under_names_of_their_own(seed: int) -> None:
    images = [*pool(REAL, 10, 0)[::2], *pool("made", 10, 0)[::2]]
    kit = make_kit(images, 3, 4, seed)
    assert make_kit(images, 3, 4, seed) == kit
    names = [one.name for showings in kit.readers.values() for one in showings]
    assert len(set(names)) == 3 * 24
    assert len({tuple(one.image for one in showings) for showings in kit.readers.values()}) == 3
    for showings in kit.readers.values():
        places: dict[int, list[int]] = {}
        for at, one in enumerate(showings):
            places.setdefault(one.image, []).append(at)
        assert sorted(places) == list(range(20))
        twice = [found for found in places.values() if len(found) == 2]
        assert len(twice) == 4
        assert all(second - first > 5 for first, second in twice), "others lie between"
        assert all(showings[second].repeat and not showings[first].repeat for first, second in twice)


IMAGES = (Candidate(REAL, "ward-42.png", "42", ILL), Candidate("made", "0000000003-v0", "3", ILL),
         Candidate(REAL, "ward-43.png", "43", WELL), Candidate("made", "0000000004-h", "4", WELL))  # fmt: skip
KIT = make_kit(IMAGES, 2, 1, 5, guess=True)
PIXELS = [np.full((32, 32), 20 * at, np.uint8) for at in range(4)]


def test_a_page_tells_nothing_of_where_its_images_come_from() -> None:
    page = reader_page(KIT, 1, PIXELS).decode()
    assert "@@" not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy[1]
    for hidden in ("ward-42", "0000000003", "0000000004", "made", '"seed"', "http:", "https:"):
        assert hidden not in page.replace("were made by a model", ""), hidden
    study = json.loads(re.search(r'id="study">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert [one["name"] for one in study["images"]] == [one.name for one in KIT.readers[1]]
    assert {frozenset(one) for one in study["images"]} == {frozenset({"name", "findings", "png"})}
    for one, showing in zip(study["images"], KIT.readers[1], strict=True):
        with Image.open(io.BytesIO(b64decode(one["png"].removeprefix("data:image/png;base64,")))) as image:
            assert (image.format, image.mode, image.size, image.info) == ("PNG", "L", (32, 32), {})
            assert np.array_equal(np.asarray(image), PIXELS[showing.image])
    assert "</script" not in study["images"][0]["findings"]


def answers_of(kit: Kit, reader: int, rank: Callable[[Showing], int]) -> dict[str, Any]:
    answers = {
        one.name: {
            "anatomy": rank(one), "pathology": 3, "quality": 1 + one.image,
            "guess": "real" if rank(one) > 2 else "synthetic",
        }
        for one in kit.readers[reader]
    }  # fmt: skip
    return {"format": FORMAT, "study": kit.study, "reader": reader, "answers": answers}


def test_figures_by_hand() -> None:
    """Reader 1 ranks anatomy 4 2 5 1, reader 2 ranks 5 1 5 2; the repeated image one lower than at first."""
    ranks = {1: [4, 2, 5, 1], 2: [5, 1, 5, 2]}
    readings = {
        reader: answers_of(KIT, reader, lambda one, own=own: max(1, own[one.image] - one.repeat))["answers"]
        for reader, own in ranks.items()
    }
    found = analyse(KIT, readings)
    assert found.images == {REAL: 2, "made": 2}
    anatomy = found.ranks["anatomy"]
    assert anatomy.means[REAL].value == pytest.approx((4 + 5 + 5 + 5) / 4)
    assert anatomy.means["made"].value == pytest.approx((2 + 1 + 1 + 2) / 4)
    assert anatomy.differences["made"].value == pytest.approx(1.5 - 4.75)
    assert anatomy.differences["made"].ci_high < 0
    assert anatomy.by_reader[1]["made"].value == pytest.approx(1.5)
    # sum w O = 1 + 1 + 0 + 1; sum w E = sum over the 16 pairs of (a - b)^2, over 4
    chance = sum((a - b) ** 2 for a in ranks[1] for b in ranks[2]) / 4
    assert anatomy.kappas["1 and 2"].value == pytest.approx(1 - 3 / chance)
    assert found.ranks["quality"].alpha.value == pytest.approx(1)
    assert np.isnan(found.ranks["pathology"].alpha.value), "all ranks are 3"
    repeated = {reader: next(one.image for one in KIT.readers[reader] if one.repeat) for reader in (1, 2)}
    for reader, image in repeated.items():
        same = ranks[reader][image] == 1  # cannot be ranked lower
        assert anatomy.again[reader].value == same
        assert anatomy.again_one[reader].value == 1
    assert found.guesses is not None
    assert found.guesses.right.value == 1
    assert found.guesses.called_real["made"].value == 0
    table = tables_of(found)
    assert "| anatomy | 4.75 [" in table
    assert "| quadratic weighted kappa, readers 1 and 2 |" in table
    assert "not known" in table


def write(folder: Path, name: str, reported: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(reported))
    return path


def test_answers_are_read_from_json_and_from_csv(tmp_path: Path) -> None:
    reported = answers_of(KIT, 2, lambda one: 3)
    rows = io.StringIO()
    table = csv.writer(rows)
    table.writerow(["study", "reader", "image", *KIT.questions])
    for one in KIT.readers[2]:
        given_ = reported["answers"][one.name]
        table.writerow([KIT.study, 2, one.name, *(given_[question] for question in KIT.questions)])
    (tmp_path / "two.csv").write_text(rows.getvalue())
    one = write(tmp_path, "one.json", answers_of(KIT, 1, lambda one: 3))
    readings = read_results(KIT, [tmp_path / "two.csv", one])
    assert list(readings) == [1, 2]
    assert readings[2] == reported["answers"]


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    reported = json.loads(json.dumps(answers_of(KIT, 1, lambda one: 3)))
    change(reported)
    return reported  # type: ignore[no-any-return]


FIRST = KIT.readers[1][0].name


@pytest.mark.parametrize(
    ("reported", "words"),
    [
        (broken(lambda reported: reported["answers"].pop(FIRST)), "1 of 5 images lack answers: 1"),
        (broken(lambda reported: reported["answers"][FIRST].pop("quality")), "1 of 5 images lack answers: 1"),
        (broken(lambda reported: reported["answers"].update({"00ff00ff": {"anatomy": 1}})), "was not shown: 00ff00ff"),
        (broken(lambda reported: reported["answers"][FIRST].update(anatomy=6)), "not offered: .* anatomy 6"),
        (broken(lambda reported: reported["answers"][FIRST].update(anatomy="5")), "not offered: .* anatomy '5'"),
        (broken(lambda reported: reported["answers"][FIRST].update(guess="fake")), "not offered: .* guess 'fake'"),
        (broken(lambda reported: reported["answers"][FIRST].update(colour=3)), "not offered: .* colour 3"),
        (broken(lambda reported: reported.update(study="abc")), f"of study abc, not {KIT.study}"),
        (broken(lambda reported: reported.update(reader=7)), "of reader 7; the kit has 1, 2"),
        (broken(lambda reported: reported.update(reader=2)), "was not shown"),
        (broken(lambda reported: reported.update(format="other")), "format 'other'"),
        ({"format": FORMAT, "answers": []}, "cannot be read"),
    ],
)
def test_missing_and_foreign_answers_are_refused(tmp_path: Path, reported: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        read_results(KIT, [write(tmp_path, "answers.json", reported)])


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    good = answers_of(KIT, 1, lambda one: 3)
    files = [write(tmp_path, f"{at}.json", good) for at in range(2)]
    (tmp_path / "no.json").write_text("{")
    with pytest.raises(DatasetError) as raised:
        read_results(KIT, [*files, tmp_path / "no.json", tmp_path / "none.json"])
    for words in ("1.json: reader 1 again", "no.json: cannot be read", "none.json: cannot be read"):
        assert words in raised.value.found


def test_the_key_comes_back_and_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_bytes(key_bytes(KIT))
    assert read_key(tmp_path) == KIT
    (tmp_path / "key.json").write_text('{"format": "xreal-synth readers 1"}')
    with pytest.raises(DatasetError, match="the kit's folder"):
        read_key(tmp_path)


@pytest.fixture(scope="module")
def kit(images: Path, fake_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from xreal_synth.cli.main import app

    folder = tmp_path_factory.mktemp("study") / "kit"
    app(
        ["evaluate", "readers", "make", str(fake_dataset), str(folder), "--real", str(images), "--split", "train",
         "--images", "4", "--readers", "2", "--repeats", "1", "--guess", "--seed", "3"],
        standalone_mode=False,
    )  # fmt: skip
    return folder


def test_make_and_analyse(kit: Path, tmp_path: Path, evaluate: Evaluate, capsys: Out) -> None:
    assert {path.name for path in kit.iterdir()} >= {"reader-1.html", "reader-2.html", "key.json", "README.md"}
    study = read_key(kit)
    assert Counter(image.arm for image in study.images) == {REAL: 2, "fakes": 2}
    assert "key.json" in (kit / "README.md").read_text()
    files = [
        str(write(tmp_path, f"{reader}.json", answers_of(study, reader, lambda one: 3))) for reader in study.readers
    ]
    assert evaluate("readers", "analyse", str(kit), *files) == 0
    assert "Krippendorff" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((kit / "answers.csv").read_text())))
    assert len(rows) == 2 * 5
    assert {row["image"] for row in rows} == {image.source for image in study.images}
    assert json.loads((kit / "analysis.json").read_text())["ranks"]["anatomy"]["means"]["real"]["value"] == 3
    assert evaluate("readers", "analyse", str(kit), files[0], files[0]) == 2
    assert "reader 1 again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--images", "40"], "lower --images"),
        (["--images", "3"], "multiple of 2"),
        (["--images", "4", "--repeats", "3"], "lower --repeats"),
        (["--images", "4", "--beside", "SAME"], "the name fakes again"),
    ],
)
def test_mistakes_make_no_kit(
    images: Path, fake_dataset: Path, tmp_path: Path, evaluate: Evaluate, capsys: Out, more: list[str], words: str
) -> None:
    more = [str(fake_dataset) if one == "SAME" else one for one in more]
    out = tmp_path / "kit"
    place = [str(fake_dataset), str(out), "--real", str(images), "--split", "train", "--seed", "3"]
    assert evaluate("readers", "make", *place, *more) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
def test_a_reader_answers_by_keyboard_and_what_is_saved_is_read(kit: Path, tmp_path: Path) -> None:
    study = read_key(kit)
    url = (kit / "reader-1.html").as_uri()
    saved = tmp_path / "saved.json"

    async def press(page: Page, *keys: str) -> None:
        for key in keys:
            await page.value(
                f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))"
            )

    async def fill_in(page: Page) -> None:
        assert await page.value("document.body.dataset.ready") == "yes"
        assert await page.value("document.getElementById('image').decode().then(() => image.naturalWidth)") == 64
        await press(page, "4", "3", "5", "s", "Enter", "2")
        assert await page.value("document.getElementById('count').textContent") == "Image 2 of 5"
        assert await page.value("document.getElementById('complete').textContent") == "1 of 5 complete"
        await page.value("window.before = true")
        await page.send("Page.reload")
        while not await page.value("!window.before && document.body?.dataset.ready === 'yes'"):
            await asyncio.sleep(0.05)
        assert await page.value("document.getElementById('count').textContent") == "Image 2 of 5", "kept"
        await press(page, "ArrowUp", "2", "1", "1", "r", "ArrowRight")
        for _ in range(3):
            await press(page, "3", "3", "3", "r", "ArrowRight")
        assert await page.value("document.getElementById('complete').textContent") == "5 of 5 complete"
        saved.write_text(await page.value("results()"))
        (tmp_path / "saved.csv").write_text(await page.value("table()"))
        await page.value("document.getElementById('json').click()")

    events = asyncio.run(visit(url, tmp_path / "profile", fill_in))
    reported = [one for one in events if one.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert not reported, reported
    asked = [one["params"]["request"]["url"] for one in events if one.get("method") == "Network.requestWillBeSent"]
    assert {one for one in asked if not one.startswith(("data:", "blob:"))} == {url}
    by_json, by_csv = (read_results(study, [tmp_path / name]) for name in ("saved.json", "saved.csv"))
    assert by_json == by_csv
    assert list(by_json) == [1]
    first, second = (by_json[1][one.name] for one in study.readers[1][:2])
    assert first == {"anatomy": 4, "pathology": 3, "quality": 5, "guess": "synthetic"}
    assert second["anatomy"] == 2
