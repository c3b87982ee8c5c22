"""Tables, names and ids as people and programs write them: the right rows, or the right refusal."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xreal_synth.anatomy.manifest import Fault, near_patients, patient_of, read_manifest
from xreal_synth.anatomy.tables import SEPARATORS, parse_table
from xreal_synth.errors import TrainingError
from xreal_synth.storage import LocalStore
from xreal_synth.training.prepare.choose import Choice, choose
from xreal_synth.training.prepare.command import Task, prepare
from xreal_synth.training.prepare.films import Shape
from xreal_synth.training.prepare.found import FolderColumns, Found, Place, frontal, key_of, years
from xreal_synth.training.prepare.own_folder import find_folder
from xreal_synth.vocab import film_label

COLUMNS = FolderColumns(table="t.csv")
HEAD = ("image", "patient_id", "labels", "view", "age")
ROWS = [("a.png", "7", "Pneumonia", "PA", "58"), ("b.png", "8", "No Finding", "AP", "61")]


def joined(separator: str, end: str = "\n", rows: list[tuple[str, ...]] | None = None) -> str:
    return end.join(separator.join(row) for row in [HEAD, *(rows or ROWS)]) + end


TABLES: dict[str, bytes] = {
    "commas": joined(",").encode(),
    "semicolons": joined(";").encode(),
    "tabs": joined("\t").encode(),
    "bars": joined("|").encode(),
    "a mark": joined(",").encode("utf-8-sig"),
    "UTF-16": joined("\t").encode("utf-16"),
    "UTF-16 big end": b"\xfe\xff" + joined(";").encode("utf-16-be"),
    "UTF-16 without a mark": joined(",").encode("utf-16-le"),
    "what Excel puts first": ("sep=;\r\n" + joined(";", "\r\n")).encode(),
    "old Mac's ends of lines": joined(",", "\r").encode(),
    "blanks round cells": joined(" , ").encode(),
    "quotes": joined('","').replace("\n", '"\n"')[:-1].join(['"', ""]).encode(),
    "empty rows": joined(",", "\n\n,,,,\n").encode(),
    "columns without names": joined(",").replace("age\n", "age,,\n").replace("58\n", "58,,\n").encode(),
    "a column twice, with the same cells": "\n".join(
        f"{line},{line.split(',')[1]}" for line in joined(",").splitlines()
    ).encode(),
    "labels in other case": joined(",").replace("Pneumonia", "PNEUMONIA").replace("No Finding", "no finding").encode(),
    "a further blank cell": joined(",").replace("58\n", "58,\n").encode(),
}  # fmt: skip


def found_in(folder: Path, data: bytes, **columns: Any) -> Found:
    (folder / "t.csv").write_bytes(data)
    store = LocalStore(folder)
    return find_folder(Place(store, store, columns=replace(COLUMNS, **columns)))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_any_make_is_read(tmp_path: Path, name: str) -> None:
    found = found_in(tmp_path, TABLES[name])
    assert found.refused == []
    assert [(f.name, f.patient, f.labels, f.view, f.age) for f in found.films] == [
        ("a.png", "7", ("Pneumonia",), "PA", "58"), ("b.png", "8", ("No Finding",), "AP", "61"),
    ]  # fmt: skip


NO_TABLES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no column image"),
    "a header alone": (b"image,patient_id,labels\n", "no rows"),
    "a quote without end": (b'image,patient_id,labels\na.png,7,"Mass\nb.png,8,Mass\n', "unexpected end"),
    "a column twice": (b"image,patient_id,labels,patient_id\na.png,7,Mass,9\n", "patient_id stands twice"),
    "zero bytes": (b"image,patient_id,labels\na.png,7,Ma\0ss\n", "zero bytes"),
    "thousands of columns": (b"image,patient_id,labels" + b",x" * 5000 + b"\n", "columns"),
    "another encoding": ("image,patient_id,labels\nBäh.png,7,Mass\n".encode("latin-1"), "--encoding"),
    "two columns of a finding": (b"image,patient_id,Effusion,pleural effusion\na.png,7,1,0\n", "several columns"),
    "a cell of megabytes": (b"image,patient_id,labels\n" + b"a" * 200_000 + b",7,Mass\n", "field larger"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_TABLES)
def test_what_is_no_table_is_named(tmp_path: Path, name: str) -> None:
    data, reason = NO_TABLES[name]
    with pytest.raises(TrainingError, match=reason):
        found_in(tmp_path, data)


_WORDS = st.text("abcä '\"-_.7", min_size=1, max_size=8).map(str.strip).filter(lambda word: word.strip("'\""))


@given(st.lists(st.tuples(_WORDS, _WORDS), min_size=1, max_size=6), st.sampled_from(SEPARATORS),
       st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))  # fmt: skip
def test_what_was_written_is_read(rows: list[tuple[str, str]], separator: str, encoding: str) -> None:
    import csv
    import io

    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows([("image", "patient"), *rows])
    table = parse_table(text.getvalue().encode(encoding), ("image", "patient"))
    assert [(row["image"], row["patient"]) for row in table.rows] == rows
    assert table.torn == ()


MERGED = {
    "a row a finding": (["Effusion", "Pneumonia"], ("Effusion", "Pneumonia")),
    "the same row again": (["Pneumonia", "Pneumonia"], ("Pneumonia",)),
    "three readers": (["No Finding", "No Finding", "No Finding"], ("No Finding",)),
}


@pytest.mark.parametrize("name", MERGED)
def test_rows_of_an_image_are_one(tmp_path: Path, name: str) -> None:
    given_rows, labels = MERGED[name]
    rows = [("a.png", "7", label, "PA", "58") for label in given_rows]
    found = found_in(tmp_path, joined(",", rows=[*rows, ("b.png", "8", "Edema", "AP", "")]).encode())
    assert found.refused == []
    assert set(found.films[0].labels) == set(labels)
    assert not set(labels) & set(found.films[0].unknown)
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (("a.png", "9", "Pneumonia", "PA", "58"), "'7' and '9' in column patient_id"),
        (("a.png", "7", "Pneumonia", "AP", "58"), "'PA' and 'AP' in column view"),
        (("a.png", "7", "No Finding", "PA", "58"), "No Finding beside"),
        (("a.png", "7", "Pneumonia", "PA", "59"), "column age"),
    ],
)
def test_rows_of_an_image_that_disagree_refuse_it(
    tmp_path: Path, second: tuple[str, ...], reason: str
) -> None:
    found = found_in(tmp_path, joined(",", rows=[ROWS[0], ROWS[1], second]).encode())
    assert [(one.file, one.fault) for one in found.refused] == [("a.png", Fault.CONTRADICTION)]
    assert reason in found.refused[0].reason
    assert [film.name for film in found.films] == ["b.png"]


def test_columns_of_findings_merge_too(tmp_path: Path) -> None:
    text = "image,patient_id,Mass,Edema\na.png,7,1,\na.png,7,,0\nb.png,8,1,0\nb.png,8,0,0\nc.png,9,yes,-1\n"
    found = found_in(tmp_path, text.encode())
    assert [(film.name, film.labels) for film in found.films] == [("a.png", ("Mass",)), ("c.png", ("Mass",))]
    assert "Edema" not in found.films[0].unknown
    assert "Edema" in found.films[1].unknown
    assert "do not agree on Mass" in found.refused[0].reason


def test_a_label_may_be_left_out_but_its_image_is_not_healthy(tmp_path: Path) -> None:
    rows = [("a.png", "7", "Calcification|Mass", "PA", ""), ("b.png", "8", "Calcification", "PA", "")]
    found = found_in(tmp_path, joined(",", rows=rows).encode(), rename={"Calcification": ""})
    assert [film.labels for film in found.films] == [("Mass",), ()]
    assert all("No Finding" not in (*film.labels, *film.unknown) for film in found.films)
    (one, two) = found_in(tmp_path, joined(",", rows=rows).encode()).refused
    assert "'Calcification=' leaves it out" in one.reason
    assert two.fault == Fault.UNKNOWN_LABEL


NAMES = {
    "a backslash": ("films\\a.png", "films/a.png"),
    "a dot before it": ("./films/a.png", "films/a.png"),
    "dots in it": ("films/1.2.840.10008.png", "films/1.2.840.10008.png"),
    "a numbered suffix": ("films/IM.001", "films/IM.001"),
    "no suffix": ("films/a", "films/a.dicom"),
    "a suffix in capitals": ("films/a.DCM", "films/a.DCM"),
    "the other Unicode form": (
        unicodedata.normalize("NFC", "films/é.png"), unicodedata.normalize("NFD", "films/é.png")),
    "composed where the disk is not": (
        unicodedata.normalize("NFD", "films/ü.png"), unicodedata.normalize("NFC", "films/ü.png")),
    "a percent sign": ("films/100%25.png", "films/100%25.png"),
    "a blank": ("films/a b.png", "films/a b.png"),
    "brackets": ("films/[red]a.png", "films/[red]a.png"),
    "a file URI": ("file://ROOT/films/a%20b.png", "films/a b.png"),
    "a whole path": ("ROOT/films/a.png", "films/a.png"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_finds_its_file(tmp_path: Path, name: str) -> None:
    written, there = NAMES[name]
    (tmp_path / "films").mkdir()
    (tmp_path / there).write_bytes(b"x")
    row = (written.replace("ROOT", str(tmp_path)), *ROWS[0][1:])
    (film,) = found_in(tmp_path, joined(";", rows=[row]).encode()).films
    assert next(one for one in film.files if (tmp_path / one).exists()) == there


@pytest.mark.parametrize(
    "written",
    [
        "../a.png",
        "/etc/passwd",
        "C:\\films\\a.png/../../x",
        "..\\a.png",
        "file:///etc/passwd",
        "",
        "a\\..\\..\\b",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, written: str) -> None:
    found = found_in(tmp_path, joined(";", rows=[(written, *ROWS[0][1:])]).encode())
    assert found.films == []
    assert found.refused[0].fault in (Fault.UNSAFE_PATH, Fault.INCOMPLETE)


@given(st.lists(st.text("aAbB. -_/é", min_size=1, max_size=6).filter(lambda name: name.strip(" ./")),
                min_size=2, max_size=8, unique=True))  # fmt: skip
def test_images_never_share_a_key(names: list[str]) -> None:
    endings = (".png", ".jpg", ".001", "")
    found = Found()
    row = film_row()
    for n, name in enumerate(names):
        file = f"{name}{endings[n % 4]}"
        found.films.append(replace(row, key=key_of(file), files=(file,)))
    chosen = choose(found, Choice(any_view=True))
    keys = [one.film.key.casefold() for one in chosen]
    assert len(set(keys)) == len(keys) == len({film.files for film in found.films})


def film_row() -> Any:
    from xreal_synth.training.prepare.found import SourceFilm

    return SourceFilm("k", ("k.png",), "1", ("Mass",), ())


def test_ids_are_one_patient_however_they_are_written(tmp_path: Path) -> None:
    same = ["7", " 7", "7 ", "7.0", "7.00", "\u00a07", "\u200b7", "\uff17"]
    assert {patient_of(text) for text in same} == {"7"}
    assert len({patient_of(text) for text in ("7", "07", "70", "7.5", "P7", "p7")}) == 6
    assert [patient_of(text) for text in ("nan", "NaN", "", " ", "None", "NULL")] == [""] * 6
    assert near_patients(["7", "007", "P-7", "p7", "8", "70"]) == [("007", "7"), ("P-7", "p7")]
    text = "image,mask,labels,patient_id,split\na.png,a.png,Mass,7,train\nb.png,b.png,Mass, 7.0,val\n"
    (tmp_path / "manifest.csv").write_text(text)
    found = read_manifest(LocalStore(tmp_path))
    assert [one.fault for one in found.refused] == [Fault.TWO_SPLITS] * 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("58", "58"), ("058Y", "58"), ("58 years", "58"), ("58 yrs old", "58"), ("18 months", "1"), ("18M", "1"),
        ("6 weeks", "0"), ("90+", "90"), (">89", "89"), ("58,5", "58"), ("411", ""), ("fifty", ""), ("-3", ""),
    ],
)  # fmt: skip
def test_ages_in_words(text: str, wanted: str) -> None:
    assert years(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("pa", "PA"), ("Postero-anterior", "PA"), ("AP supine", "AP"), ("AP_horizontal", "AP"), ("antero-posterior", "AP"),
     ("LATERAL", ""), ("PA LATERAL", ""), ("LL", ""), ("", ""), ("APICAL", "")],
)  # fmt: skip
def test_views_in_words(text: str, wanted: str) -> None:
    assert frontal(text) == wanted


def test_labels_are_known_in_any_case() -> None:
    names = ("no finding", "Pleural effusion", "PLEURAL_THICKENING", "Lung opacity", "infiltrate")
    assert [film_label(name) for name in names] == [
        "No Finding", "Effusion", "Pleural_Thickening", "Lung Opacity", "Infiltration",
    ]  # fmt: skip
    assert film_label("Nodule/Mass") is None


def task(source: Path, out: Path) -> Task:
    columns = FolderColumns(table="list.csv", image="file", patient="pid", labels="report", unknown="unsure",
                            mask="mask", rename={"pleural fluid": "Effusion"})  # fmt: skip
    return Task(
        "folder", str(source), out, Shape(64, "crop"), Choice(any_view=True), columns=columns, workers=1
    )


def linked(real: Path, farm: Path) -> None:
    """As `cp -rs`."""
    for path in real.rglob("*"):
        if path.is_file():
            (farm / path.relative_to(real)).parent.mkdir(parents=True, exist_ok=True)
            (farm / path.relative_to(real)).symlink_to(path)


def cached(real: Path, farm: Path) -> None:
    """As the hub's cache: names that lead to numbered blobs."""
    blobs = farm.parent.parent / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(path for path in sorted(real.rglob("*")) if path.is_file()):
        (blobs / str(number)).write_bytes(path.read_bytes())
        link = farm / path.relative_to(real)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))


def folders(real: Path, farm: Path) -> None:
    """Folders that are links, beside a table of one's own."""
    farm.mkdir(parents=True)
    for path in real.iterdir():
        if path.is_dir():
            (farm / path.name).symlink_to(path)
        else:
            (farm / path.name).write_bytes(path.read_bytes())


@pytest.mark.parametrize("link", [linked, cached, folders])
def test_a_folder_of_links_reads_like_a_folder(trees: Any, tmp_path: Path, link: Any) -> None:
    trees.folder(tmp_path / "real", 4)
    farm = tmp_path / "hub/snapshots/abc"
    link(tmp_path / "real", farm)
    wanted = prepare(task(tmp_path / "real", tmp_path / "a"))
    found = prepare(task(farm, tmp_path / "b"))
    assert found.rows == wanted.rows
    assert len(found.rows) == 4
    outside = [note for note in found.account["notes"] if "outside" in note]
    assert len(outside) == (link is not cached)


@pytest.mark.parametrize("target", ["../secret.png", "/dev/zero", "f0.png", "nowhere.png", "."])
def test_a_link_that_leads_out_or_nowhere_is_refused(trees: Any, tmp_path: Path, target: str) -> None:
    trees.folder(tmp_path / "source", 4)
    (tmp_path / "source/secret.png").write_bytes((tmp_path / "source/films/f1.png").read_bytes())
    (tmp_path / "source/secret.png").rename(tmp_path / "secret.png")
    link = tmp_path / "source/films/f0.png"
    link.unlink()
    link.symlink_to(f"../{target}" if target.startswith("../") else target)
    report = prepare(task(tmp_path / "source", tmp_path / "out"))
    assert [one.file for one in report.found.refused] == ["films/f0.png"]
    assert report.found.refused[0].fault in (Fault.MISSING, Fault.UNREADABLE)
    assert len(report.rows) == 3


def test_numbered_and_equal_stems_are_all_prepared(trees: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    rows = trees.folder(source, 4)
    for row, name in zip(rows, ("IM.001", "IM.002", "same.png", "same.jpg"), strict=True):
        (source / row["file"]).rename(source / name)
        row["file"] = name
    trees.table(source / "list.csv", rows)
    report = prepare(task(source, tmp_path / "out"))
    assert [row["original_id"] for row in report.rows] == ["IM.001", "IM.002", "same.png", "same.jpg"]
    assert len({row["image"] for row in report.rows}) == 4
