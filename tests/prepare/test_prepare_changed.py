"""`prepare` twice over a source that changed in between: as if it had been prepared anew, and only that made again."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from xreal_synth.prepare.choose import Choice, Shares
from xreal_synth.prepare.command import prepare
from xreal_synth.prepare.found import FolderColumns
from xreal_synth.prepare.images import Shape
from xreal_synth.prepare.run import PrepareTask

COLUMNS = FolderColumns(
    table="list.csv", image="file", patient="pid", labels="report", unknown="unsure", mask="mask",
    rename={"pleural fluid": "Effusion"},
)  # fmt: skip

Rows = list[dict[str, str]]
Change = Callable[[Path, Rows, Any], Rows]


def another_image(root: Path, rows: Rows, trees: Any) -> Rows:
    Image.fromarray(trees.pair(99)[0]).save(root / "images/f1.png")
    return rows


def another_mask(root: Path, rows: Rows, trees: Any) -> Rows:
    Image.fromarray(trees.pair(99)[1]).save(root / "masks/m1.png")
    return rows


def cell(**cells: str) -> Change:
    return lambda root, rows, trees: [rows[0], rows[1] | cells, *rows[2:]]


def added(root: Path, rows: Rows, trees: Any) -> Rows:
    image, mask = trees.pair(99)
    Image.fromarray(image).save(root / "images/new.png")
    Image.fromarray(mask).save(root / "masks/new.png")
    return [*rows, rows[0] | {"file": "images/new.png", "mask": "masks/new.png"}]


def removed(root: Path, rows: Rows, trees: Any) -> Rows:
    (root / "images/f1.png").unlink()
    return [rows[0], *rows[2:]]


def lost(root: Path, rows: Rows, trees: Any) -> Rows:
    (root / "images/f1.png").unlink()
    return rows


def renamed(root: Path, rows: Rows, trees: Any) -> Rows:
    (root / "images/f1.png").rename(root / "images/other.png")
    return [rows[0], rows[1] | {"file": "images/other.png"}, *rows[2:]]


def swapped(root: Path, rows: Rows, trees: Any) -> Rows:
    """Two images change names."""
    (root / "images/f1.png").rename(root / "images/x.png")
    (root / "images/f2.png").rename(root / "images/f1.png")
    (root / "images/x.png").rename(root / "images/f2.png")
    return rows


CHANGES: dict[str, tuple[Change, int]] = {
    "image": (another_image, 1),
    "mask": (another_mask, 1),
    "label": (cell(report="Edema"), 0),
    "patient": (cell(pid="P77"), 0),
    "split": (cell(split="val"), 0),
    "added": (added, 1),
    "removed": (removed, 0),
    "lost": (lost, 0),
    "renamed": (renamed, 1),
    "swapped": (swapped, 2),
    "nothing": (lambda root, rows, trees: rows, 0),
}
"""How the source changes, and how many images are to be made again."""


def reported(out: Path) -> dict[str, Any]:
    """Everything that a folder says, and its images, but for what was made when."""
    with (out / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.png")}
    journal = (out / "prepared.jsonl").read_text().splitlines()
    done = sorted(json.dumps(json.loads(line)) for line in journal[1:])
    tars = {path.name: path.read_bytes() for path in (out / "shards").iterdir()}
    return {"rows": rows, "images": images, "done": done, "tars": tars,
            "refused": (out / "refused.json").read_text(), "account": (out / "prepared.json").read_text()}  # fmt: skip


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("official", [False, True])
def test_a_changed_source_is_as_if_prepared_anew(trees: Any, tmp_path: Path, how: str, official: bool) -> None:
    source = tmp_path / "source"
    rows = [row | {"split": "train"} for row in trees.folder(source, 6)]
    trees.table(source / "list.csv", rows)
    columns = replace(COLUMNS, split="split") if official else COLUMNS
    choice = Choice("official" if official else Shares(0.5, 0.5), any_view=True)
    task = PrepareTask("folder", str(source), tmp_path / "out", Shape(64, "crop"), choice, columns=columns,
                workers=1, shard_images=4)  # fmt: skip
    prepare(task)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").iterdir()}
    change, made = CHANGES[how]
    trees.table(source / "list.csv", change(source, rows, trees))
    prepare(task)
    prepare(replace(task, out=tmp_path / "anew"))
    assert reported(tmp_path / "out") == reported(tmp_path / "anew")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").iterdir()}
    assert sum(before.get(path) != time for path, time in after.items()) == made


def test_a_second_source_of_the_same_names_gives_its_own_images(trees: Any, tmp_path: Path) -> None:
    rows = trees.folder(tmp_path / "one", 4)
    trees.folder(tmp_path / "two", 4)
    for n in range(4):
        image, mask = trees.pair(300 + n)
        Image.fromarray(image).save(tmp_path / f"two/images/f{n}.png")
        Image.fromarray(mask).save(tmp_path / f"two/masks/m{n}.png")
    trees.table(tmp_path / "two/list.csv", [row | {"report": "Edema"} for row in rows])
    choice = Choice(Shares(0.5, 0.5), any_view=True)
    task = PrepareTask("folder", str(tmp_path / "one"), tmp_path / "out", Shape(64, "crop"), choice, columns=COLUMNS,
                workers=1, shard_images=4)  # fmt: skip
    prepare(task)
    second = replace(task, source=str(tmp_path / "two"))
    prepare(second)
    prepare(replace(second, out=tmp_path / "anew"))
    assert reported(tmp_path / "out") == reported(tmp_path / "anew")


def test_another_segmenter_draws_anew(trees: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    trees.folder(tmp_path / "source", 2)
    task = PrepareTask("folder", str(tmp_path / "source"), tmp_path / "out", Shape(64, "crop"), Choice(any_view=True),
                columns=COLUMNS, workers=1, segmenter=str(tiny_bundle))  # fmt: skip
    prepare(task)
    given = (tmp_path / "out/masks/images--f0.png").read_bytes()
    drawn = prepare(replace(task, columns=replace(COLUMNS, mask="")))
    assert (tmp_path / "out/masks/images--f0.png").read_bytes() != given
    assert all(row["mask_source"].startswith("xreal-tiny segmenter") for row in drawn.rows)


def test_a_folder_of_an_earlier_version_is_made_anew(trees: Any, tmp_path: Path) -> None:
    """Its journal knows names alone, and more settings."""
    trees.folder(tmp_path / "source", 2)
    task = PrepareTask("folder", str(tmp_path / "source"), tmp_path / "out", Shape(64, "crop"), Choice(any_view=True),
                columns=COLUMNS, workers=1, shard_images=4)  # fmt: skip
    prepare(task)
    wanted = reported(tmp_path / "out")
    journal = tmp_path / "out/prepared.jsonl"
    first, *lines = map(json.loads, journal.read_text().splitlines())
    first["settings"]["masks"] = "column mask"
    kept = [{name: line[name] for name in ("key", "width", "height", "sha256", "score", "view")} for line in lines]
    journal.write_text("".join(json.dumps(line) + "\n" for line in (first, *kept)))
    another_image(tmp_path / "source", [], trees)
    prepare(task)
    found = reported(tmp_path / "out")
    assert found["images"]["images/images--f0.png"] == wanted["images"]["images/images--f0.png"]
    assert found["images"]["images/images--f1.png"] != wanted["images"]["images/images--f1.png"]
