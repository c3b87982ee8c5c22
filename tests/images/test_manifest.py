"""Manifests: rows as they are meant, and every faulty row refused with its fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from xreal_synth.errors import TrainingError
from xreal_synth.images.manifest import ImageBox, Manifest, RowFault, fault_counts, read_manifest
from xreal_synth.storage import LocalStore, open_store

HEADER = "image,mask,labels,unknown,patient_id,split,boxes_xywh_norm,mask_score"
GOOD = 'a.png,ma.png,Pneumonia|Pleural Effusion,Edema,1,train,"[[""Infiltrate"", 0.25, 0.5, 0.25, 0.25]]",0.9'


def read(folder: Path, *rows: str, header: str = HEADER) -> Manifest:
    (folder / "manifest.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return read_manifest(LocalStore(folder))


def test_a_row_is_read_whole(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD)
    assert not found.refused
    (row,) = found.rows
    assert (row.image, row.mask, row.patient, row.split, row.mask_score) == ("a.png", "ma.png", "1", "train", 0.9)
    assert row.labels == ("Pneumonia", "Effusion")
    assert row.unknown == ("Edema",)
    assert row.boxes == (ImageBox("Infiltration", (0.25, 0.5, 0.5, 0.75)),)


@pytest.mark.parametrize(
    ("row", "fault", "reason"),
    [
        ("b.png,mb.png,,,2,train,,", RowFault.INCOMPLETE, "column labels"),
        ("b.png,,Mass,,2,train,,", RowFault.INCOMPLETE, "column mask"),
        ("b.png,mb.png,Mass", RowFault.INCOMPLETE, "fewer cells"),
        ("b.png,mb.png,Mass,,2,train,,,more", RowFault.INCOMPLETE, "more or fewer cells"),
        ("a.png,mb.png,Mass,,2,train,,", RowFault.DUPLICATE, "earlier row"),
        ("b.png,mb.png,Mass,,1,val,,", RowFault.TWO_SPLITS, "train, val"),
        ("b.png,mb.png,Mess,,2,train,,", RowFault.UNKNOWN_LABEL, "'Mess'"),
        ("b.png,mb.png,Mass,oedema,2,train,,", RowFault.UNKNOWN_LABEL, "'oedema'"),
        ("b.png,mb.png,Mass,Mass,2,train,,", RowFault.CONTRADICTION, "Mass both"),
        ("b.png,mb.png,No Finding|Mass,,2,train,,", RowFault.CONTRADICTION, "beside Mass"),
        ("b.png,mb.png,Mass,,2,train,[1],", RowFault.BAD_VALUE, "boxes_xywh_norm"),
        ("b.png,mb.png,Mass,,2,train,,sure", RowFault.BAD_VALUE, "'sure'"),
        ("../b.png,mb.png,Mass,,2,train,,", RowFault.UNSAFE_PATH, "'../b.png'"),
        ("b.png,/etc/passwd,Mass,,2,train,,", RowFault.UNSAFE_PATH, "'/etc/passwd'"),
        ("x/../../b.png,mb.png,Mass,,2,train,,", RowFault.UNSAFE_PATH, "data folder"),
    ],
)
def test_a_faulty_row_is_refused_and_the_others_stay(tmp_path: Path, row: str, fault: RowFault, reason: str) -> None:
    found = read(tmp_path, GOOD, "c.png,mc.png,No Finding|Support Devices,,3,val,,", row)
    assert [(r.fault, reason in r.reason) for r in found.refused][-1] == (fault, True), found.refused
    both = fault is RowFault.TWO_SPLITS
    assert [kept.image for kept in found.rows] == (["c.png"] if both else ["a.png", "c.png"])
    assert fault_counts(found.refused) == f"{1 + both} {fault}"


def test_labels_may_all_be_unknown(tmp_path: Path) -> None:
    found = read(tmp_path, "b.png,mb.png,,No Finding|Edema,2,train,,")
    assert (found.rows[0].labels, found.rows[0].unknown) == ((), ("No Finding", "Edema"))


def test_whole_paths_below_the_folder_are_taken(tmp_path: Path) -> None:
    found = read(tmp_path, f"{tmp_path}/images/b.png,mb.png,Mass,,2,train,,")
    assert found.rows[0].image == "images/b.png"


def test_a_minor_of_other_images_is_no_leak(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD, "b.png,mb.png,Mass,,1,minor,,")
    assert [row.split for row in found.rows] == ["train", "minor"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "No such file"),
        (b"", "no rows"),
        (b"image,mask\n", "no rows"),
        (b"image,mask\na,b\n", "no column labels, patient_id, split"),
        ("image,mask,labels\nBäh.png,b,Mass\n".encode("latin-1"), "UTF-8"),
        ("image,mask,labels\na,b,Mass\n".encode("utf-16-be"), "no column patient_id"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_an_error(tmp_path: Path, content: bytes | None, named: str) -> None:
    if content is not None:
        (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(TrainingError, match=named) as caught:
        read_manifest(LocalStore(tmp_path))
    assert "manifest.csv" in str(caught.value)


@pytest.fixture
def memory() -> Iterator[str]:
    uri = "memory://manifest-test"
    yield uri
    fsspec.filesystem("memory").rm("/manifest-test", recursive=True)


def test_a_byte_order_mark_and_any_store_will_do(memory: str) -> None:
    text = f"{HEADER}\n{GOOD}\nmemory://manifest-test/b.png,mb.png,Mass,,2,train,,\n"
    open_store(memory).replace("manifest.csv", text.encode("utf-8-sig"))
    assert [row.image for row in read_manifest(open_store(memory)).rows] == ["a.png", "b.png"]
