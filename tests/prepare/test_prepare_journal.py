"""A journal of `prepare` with damaged lines: their images are made again, or the folder is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xreal_synth.errors import TrainingError
from xreal_synth.prepare.choose import Choice
from xreal_synth.prepare.command import Report, prepare
from xreal_synth.prepare.found import FolderColumns
from xreal_synth.prepare.images import Shape
from xreal_synth.prepare.run import JOURNAL, PrepareTask

COLUMNS = FolderColumns(
    table="list.csv", image="file", patient="pid", labels="report", mask="mask", rename={"pleural fluid": "Effusion"}
)


def again(folder: Path) -> Report:
    task = PrepareTask("folder", str(folder / "source"), folder / "out", Shape(64, "crop"), Choice(any_view=True),
                       columns=COLUMNS, workers=1)  # fmt: skip
    return prepare(task)


@pytest.fixture(scope="module")
def prepared(trees: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journal")
    trees.folder(folder / "source", 4)
    again(folder)
    return folder


def changed(**values: object) -> Callable[[bytes], bytes]:
    return lambda line: json.dumps(json.loads(line) | values).encode()


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "cut off in the middle": lambda line: line[: len(line) // 2],
    "empty": lambda line: b"",
    "zeros": lambda line: bytes(len(line)),
    "binary": lambda line: b"\x89PNG\r\x1a\xff\xfe" + line,
    "a byte that is no UTF-8": lambda line: line.replace(b"images", b"im\xffges", 1),
    "a list": lambda line: b"[1, 2]",
    "null": lambda line: b"null",
    "nested deep": lambda line: b"[" * 100_000,
    "no key": lambda line: json.dumps({"width": 3}).encode(),
    "a number as key": changed(key=3),
    "a key that leads out": changed(key="../../manifest"),
    "a width in words": changed(width="64"),
    "no width": changed(width=None),
    "a width of nothing": changed(width=0),
    "a list as content": changed(content=["x"]),
    "a score in words": changed(score="high"),
    "an unknown field": changed(colour="grey"),
    "two lines in one": lambda line: line + line,
}


@pytest.mark.parametrize("how", DAMAGED)
def test_the_image_of_a_damaged_line_is_made_again_and_it_is_told(prepared: Path, how: str) -> None:
    path = prepared / "out" / JOURNAL
    manifest, lines = (prepared / "out/manifest.csv").read_bytes(), path.read_bytes().splitlines()
    key = json.loads(lines[2])["key"]
    made = {one: one.read_bytes() for one in (prepared / "out").rglob("*.png")}
    times = {one: one.stat().st_mtime_ns for one in made}
    path.write_bytes(b"".join(line + b"\n" for line in (*lines[:2], DAMAGED[how](lines[2]), *lines[3:])))
    report = again(prepared)
    assert any("1 damaged line(s) in prepared.jsonl" in note for note in report.found.notes)
    assert {one: one.read_bytes() for one in (prepared / "out").rglob("*.png")} == made
    written = {one.stem for one in made if one.stat().st_mtime_ns != times[one]}
    assert written == {key}, "the others are not made again"
    assert (prepared / "out/manifest.csv").read_bytes() == manifest
    assert sorted(path.read_bytes().splitlines()) == sorted(lines), "the journal is whole again"
    assert not any("damaged" in note for note in again(prepared).found.notes)


FIRST: dict[str, Callable[[bytes], bytes]] = {
    name: DAMAGED[name]
    for name in ("cut off in the middle", "empty", "zeros", "binary", "a list", "null", "nested deep", "no key")
} | {
    "settings that are no map": lambda line: b'{"settings": 3}',
    "another size": lambda line: line.replace(b"64", b"96"),
}


@pytest.mark.parametrize("how", FIRST)
def test_a_folder_whose_settings_cannot_be_read_is_refused(prepared: Path, how: str) -> None:
    path = prepared / "out" / JOURNAL
    before = path.read_bytes()
    first, _, rest = before.partition(b"\n")
    path.write_bytes(FIRST[how](first) + b"\n" + rest)
    try:
        with pytest.raises(TrainingError) as refused:
            again(prepared)
    finally:
        path.write_bytes(before)
    error = refused.value
    assert error.where.startswith(str(prepared / "out"))
    assert error.found
    assert error.wanted
    assert "--out" in error.hint


def test_a_journal_that_is_no_plain_file_is_refused(tmp_path: Path, trees: Any) -> None:
    trees.folder(tmp_path / "source", 2)
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / JOURNAL)
    with pytest.raises(TrainingError, match="a pipe, not a plain file"):
        again(tmp_path)
