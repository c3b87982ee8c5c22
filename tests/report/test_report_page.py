"""The page as a whole: what it says, that it stands alone, that nothing in it can run, that it is the same again."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from report_pages import Reader, make, read_page

from tests.doubles.fakes import box_finding, fake, fake_groups, fake_head, publish_fakes
from xreal_synth import findings as vocab
from xreal_synth.cli.main import main
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset, read_head
from xreal_synth.dataset.names import quarantine_key
from xreal_synth.dataset.seal import sealed
from xreal_synth.models.describe import BundleInfo, describe
from xreal_synth.report import drawing
from xreal_synth.report.build import build, recipe_text
from xreal_synth.report.page import report_html
from xreal_synth.storage import LocalStore
from xreal_synth.types import ImageQuality, Rejected, ShardPlan, SourceImage

EVIL = "<img src=https://x.example/p onerror=alert(1)>\"'</style><script>alert(2)</script>{{ 7 * 7 }}"


def page_of(store: LocalStore, bundle: BundleInfo | None = None) -> bytes:
    head = read_head(store)
    return report_html(store, head, finish(store, head), recipe_text(store), bundle=bundle)


@pytest.fixture(scope="module")
def reported_page(reported: LocalStore) -> bytes:
    return page_of(reported, describe("xreal-tiny"))


@pytest.fixture(scope="module")
def gated_page(gated: LocalStore) -> bytes:
    return page_of(gated)


def rows_of(data: bytes) -> list[list[str]]:
    """The text of every table's cells, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", data.decode(), re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in row] for row in cells]


def test_the_page_says_what_was_asked_and_made(reported_page: bytes) -> None:
    page, rows = read_page(reported_page), rows_of(reported_page)
    assert "For research, not for diagnosis." in page.words
    assert describe("xreal-tiny").use_restriction in page.words
    assert "12 anatomies asked for; 12 made: 30 images" in page.words
    assert ["0", "no finding", "25%", "3", "3", "25%"] in rows
    assert ["1", "Pneumonia", "50%", "6", "6", "50%"] in rows
    assert ["2", "Effusion (right, lower) + Edema", "25%", "3", "3", "25%"] in rows
    (pneumonia,) = (row for row in rows if row[0] == "Pneumonia" and len(row) == 8)
    assert pneumonia[1:5] == ["6", "6", "6", "6"]
    assert ["Pneumonia", "", "6", "24", "0"] in rows
    assert "complete" in page.words
    assert "Not checked. No image was looked at" in page.words
    assert "there is no leak.json" in page.words
    assert read_head_digest(reported_page) in page.words
    assert "badge complete" in page.values("class")


def read_head_digest(data: bytes) -> str:
    (digest,) = re.findall(rb"dataset digest</th><td><code>([0-9a-f]{64})<", data)
    return bytes(digest).decode()


def test_images_stand_beside_twin_marks_change_and_sham(reported_page: bytes, reported: LocalStore) -> None:
    page = read_page(reported_page)
    sheets = re.findall(rb"<h3>([^<]*?) <span class=\"soft small\">(\d+) of (\d+)", reported_page)
    assert sheets == [(b"No finding", b"3", b"3"), (b"Pneumonia", b"6", b"6"), (b"Effusion + Edema", b"3", b"3")]
    key = "0000000001-v0" if b"f-0000000001-v0" in reported_page else "0000000002-v0"
    for kind in "tfmcs":
        assert f"{kind}-{key}" in page.values("id")
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    assert {name[1:] for name in page.values("href") if name.startswith("#")} <= set(ids)
    assert set(page.values("popovertarget")) <= set(ids)
    used = {name for name in page.values("href") if name.startswith("#i-")}
    assert used == {f"#{name}" for name in ids if name.startswith("i-")}, "pictures that nothing shows"
    assert b'<text class="tag"' in reported_page


def check_alone(data: bytes) -> Reader:
    page = read_page(data)
    assert len(data) < 8_000_000
    assert not {tag.name for tag in page.tags} & {"script", "iframe", "object", "embed", "form", "base"}
    assert not [name for tag in page.tags for name in tag.attributes if name.startswith("on")]
    assert not page.values("src")
    assert all(re.match(r"#|data:|README\.md$|contact_sheet\.png$", link) for link in page.values("href"))
    (policy,) = [tag for tag in page.tags if "http-equiv" in tag.attributes]
    assert policy.attributes["content"].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert not re.search(r"url\(|@import", data.decode().partition("</style>")[0])
    return page


def test_the_page_stands_alone(reported_page: bytes, gated_page: bytes) -> None:
    check_alone(reported_page)
    check_alone(gated_page)


def test_the_same_dataset_gives_the_same_bytes(reported: LocalStore, reported_page: bytes, tmp_path: Path) -> None:
    assert page_of(reported, describe("xreal-tiny")) == reported_page
    again = make(tmp_path / "again")
    strip = re.compile(rb"<th scope=\"row\">time</th><td>.*?</td>", re.DOTALL)
    assert strip.sub(b"", page_of(again, describe("xreal-tiny"))) == strip.sub(b"", reported_page)


def test_what_the_gate_did_is_reported(gated_page: bytes) -> None:
    page, rows = read_page(gated_page), rows_of(gated_page)
    assert "Not checked" not in page.words
    assert [row[:5] for row in rows if row[0] in ("Pneumonia", "No Finding", "Effusion") and len(row) == 6] == [
        ["Pneumonia", "5", "3", "2", "60%"],
        ["No Finding", "4", "3", "1", "75%"],
        ["Effusion", "1", "1", "0", "100%"],
    ]
    assert ["3", "organs.heart # is below #", "organs.heart 0.41 is below 0.6"] in rows
    assert ["1", "Pneumonia: no place after # tries", "Pneumonia: no place after 40 tries"] in rows
    assert ["pixels.blur", "1", "9.1%"] in rows
    assert "1 group was dropped" in page.words
    assert b'<text class="bound"' in gated_page, "the recipe's bound is drawn"


def test_flagged_images_are_marked_where_they_are_shown(gated_page: bytes, reported_page: bytes) -> None:
    mark = '<span class="badge flag">flagged: pixels.blur</span>'
    marked = re.findall(rf"(0000000003-\w+)[^<]*(?:</code>[^<]*)?\s*{mark}", gated_page.decode())
    assert marked
    assert len(marked) == gated_page.decode().count(mark), "nothing of another group"
    assert b"flagged: " not in reported_page


def test_the_worst_are_those_nearest_to_being_refused(gated_page: bytes) -> None:
    part = gated_page.decode().partition("The worst that were accepted")[2]
    shown = dict(re.findall(r"<summary><code>([^<]*)</code></summary>(.*?)</details>", part, re.DOTALL))
    captions = {name: re.findall(r"<figcaption>(\d+-\w+): ", text) for name, text in shown.items()}
    assert captions["organs.heart"][0] == "0000000000-h"
    assert captions["change.outside"][0] == "0000000007-h"
    assert captions["change.outside"][1] == "0000000007-v0"


def hostile(tmp_path: Path) -> LocalStore:
    """A dataset in which everything that a user can name is an attack."""
    store = LocalStore(tmp_path)
    settings: dict[str, object] = {
        "findings": [{"weight": 1, "labels": [{"name": EVIL, "side": EVIL}]}], "seed": 1,
        "anatomy": {"source": {"images": {"content": "f" * 64}, "masks": {"path": EVIL}}},
        "quality": {"profile": EVIL}, "labels": {"unrequested": EVIL},
    }  # fmt: skip
    plain = fake_head()
    bundle = dataclasses.replace(plain.bundle, name=EVIL)
    head = dataclasses.replace(plain, settings=settings, bundle=bundle, fingerprint={EVIL: EVIL})
    open_dataset(store, head, f"version: 1 # {EVIL}\n", lambda there, here: [])
    source = SourceImage(EVIL, "a" * 64, (EVIL,), ())
    images = []
    for image in fake_groups(0, 4):
        quality = ImageQuality(EVIL, {EVIL: float(image.meta.group)}, (EVIL,))
        images.append(dataclasses.replace(image, meta=dataclasses.replace(image.meta, source=source, quality=quality)))
    publish_fakes(store, ShardPlan("fakes", 0, 0, 4), images, [Rejected(3, 0, 0, EVIL, True)], gated=True)
    store.replace(quarantine_key("fakes-000001"), sealed({"reason": EVIL}))
    store.replace("evaluation.json", json.dumps([{"name": EVIL, "value": EVIL, "real": None}]).encode())
    store.replace("leak.json", json.dumps({"auc": EVIL}).encode())
    finish(store, head)
    return store


def test_what_users_name_is_text_and_nothing_else(tmp_path: Path) -> None:
    store = hostile(tmp_path)
    reported = describe("xreal-tiny")
    bundle = dataclasses.replace(reported, licence=EVIL, use_restriction=EVIL, training_data=EVIL)
    data = page_of(store, bundle)
    page = check_alone(data)
    assert not [tag for tag in page.tags if tag.name == "img"]
    assert data.count(b"</style>") == 1
    assert "{{ 7 * 7 }}" in page.words
    assert page.words.count("alert(2)") > 10, "the texts are there, as text"
    assert "patients' images as they are" in page.words


def test_a_partial_dataset_says_what_is_missing(tmp_path: Path) -> None:
    store = make(tmp_path, shards=1)
    store.replace(quarantine_key("told-000001"), sealed({"shard": 1, "reason": "out of memory"}))
    page = read_page(page_of(store))
    assert "This dataset is partial." in page.words
    assert "4 of 12 groups are here" in page.words
    assert "1 shard is in quarantine" in page.words
    assert "told-000001 : out of memory" in page.words
    assert "1 shard was not finished" in page.words
    assert "badge partial" in page.values("class")


def test_a_dataset_of_which_nobody_reported_the_size_is_not_called_partial(tmp_path: Path) -> None:
    store = make(tmp_path, shards=1)
    (tmp_path / "index.json").unlink()
    assert "badge unknown" in read_page(page_of(store)).values("class")


def test_images_without_twins_have_their_change_map(tmp_path: Path, reported: LocalStore) -> None:
    text = (reported.local_path / "recipe.yaml").read_text().replace("twin: true, sham: 1.0", "twin: false")
    data = page_of(make(tmp_path, text))
    page = check_alone(data)
    kinds = {name[:2] for name in page.values("id") if re.match(r"[tfmcs]-", name)}
    assert kinds == {"f-", "m-", "c-"}


def test_an_empty_dataset_has_a_page_too(tmp_path: Path) -> None:
    store = make(tmp_path, shards=0)
    built = build(store)
    assert built.contact_sheet is None
    page = check_alone(store.read_bytes("report.html"))
    assert "No image was delivered." in page.words
    assert "0 of 12 groups are here" in page.words


def test_a_page_stays_small_whatever_the_recipe_and_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [box_finding(name, (64, 128, 128, 192)) for name in list(vocab.FINDINGS)[:4]]
    images = []
    for group in range(10):
        for member, shown in (("h", []), ("v0", findings[group % 4 : group % 4 + 1])):
            image = fake(group, member, shown, size=256)
            noise = np.random.default_rng(group).integers(0, 256, image.image.shape, dtype=np.uint8)
            images.append(dataclasses.replace(image, image=noise))
    store = LocalStore(tmp_path)
    open_dataset(store, fake_head(), "# " + "<" * 900_000, lambda there, here: [])
    publish_fakes(store, ShardPlan("fakes", 0, 0, 10), images)
    monkeypatch.setattr(drawing, "BUDGET", 900_000)
    monkeypatch.setattr(drawing.within_budget, "__defaults__", (900_000,))
    data = page_of(store)
    page = check_alone(data)
    assert len(data) < 900_000 + 1_000_000
    assert "the whole is in recipe.yaml" in page.words
    assert "images at most 320 pixels wide" not in page.words


def test_edited_real_images_are_called_so(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    text = f"""
version: 1
name: edited
anatomies: 6
bundle: xreal-tiny
anatomy: {{source: {{images: {{path: {image_folder()}, boxes: boxes.csv}}}}}}
findings:
  - {{weight: 1, labels: [{{name: Edema}}], edit: {{remove: all}}}}
  - {{weight: 1, labels: [], edit: {{remove: [Mass]}}}}
pairs: {{twin: true}}
sampling: {{steps: 4}}
quality: {{profile: none}}
output: {{uri: unset, shard_samples: 3}}
"""
    page = check_alone(page_of(make(tmp_path / "out", text)))
    assert "patients' images as they are" in page.words
    assert "Findings painted over" in page.words
    assert "Mass painted over" in page.words
    assert "image c.png" in page.words


def test_measurements_in_the_folder_are_shown(reported: LocalStore, tmp_path: Path) -> None:
    store = LocalStore(Path(shutil.copytree(reported.local_path, tmp_path / "copy")))
    store.replace("leak.json", b'{"auc": 0.52, "low": 0.47, "high": 0.57, "n": 200}')
    rows = [
        {"name": "Dice of the heart", "value": 0.91, "low": 0.9, "high": 0.92, "real": 0.95},
        {"name": "AUC", "finding": "Pneumonia", "value": 0.8, "low": None, "high": None, "real": None},
        {"name": "FID", "value": None},
    ]
    reported_of = {
        "dataset": {"images": 30, "digest": read_head(store).digest},
        "real": {"images": 163, "split": "val"},
    }
    store.replace("evaluation.json", json.dumps({"rows": rows, **reported_of, "more": 1}).encode())
    data = page_of(store)
    assert "a regression 0.520 (95% interval 0.470 to 0.570) (200 images)" in re.sub(r"</?strong>", "", data.decode())
    assert ["Dice of the heart", "0.91", "0.9 to 0.92", "0.95"] in rows_of(data)
    assert ["AUC", "0.8", "", "-"] in rows_of(data)
    assert "FID" not in read_page(data).words
    assert "30 images of this dataset beside 163 real images of split val" in read_page(data).words
    store.replace("leak.json", b'{"auc": 0.7, "low": 0.6, "high": 0.8, "n": 200, "digest": "abc"}')
    store.replace("evaluation.json", b"{")
    words = read_page(page_of(store)).words
    assert "editing leaves a trace" in words
    assert "leak.json is of another dataset (abc" in words
    assert "evaluation.json cannot be read" in words


def test_the_command_says_where_the_page_is(
    reported: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(reported.local_path, tmp_path / "copy"))
    monkeypatch.setattr("sys.argv", ["xreal-synth", "report", str(folder)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert str(folder / "report.html") in capsys.readouterr().out.splitlines()
    check_alone((folder / "report.html").read_bytes())
