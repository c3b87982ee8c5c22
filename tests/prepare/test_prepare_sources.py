"""The public sets' own layouts: labels as torchxrayvision reads them, -1 unknown, views, splits, boxes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import fsspec
import pytest

from xreal_synth.errors import TrainingError
from xreal_synth.findings import IMAGE_LABELS, NO_FINDING
from xreal_synth.images.manifest import ImageBox, RowFault, placed
from xreal_synth.prepare.chexpert import find_chexpert
from xreal_synth.prepare.choose import Choice, Shares, choose, parse_shares, split_of
from xreal_synth.prepare.found import FolderColumns, FoundImages, SourcePlace, key_of, years
from xreal_synth.prepare.mimic import find_mimic
from xreal_synth.prepare.nih import find_nih
from xreal_synth.prepare.own_folder import find_folder
from xreal_synth.storage import open_store


def place(root: Path | str, **more: Any) -> SourcePlace:
    return SourcePlace(open_store(str(root)), open_store(str(root)), **more)


def states(found: FoundImages, name: str) -> list[int | None]:
    """1, 0 or None (unknown) of a label for every image."""
    return [1 if name in image.labels else None if name in image.unknown else 0 for image in found.images]


def test_nih(trees: Any, tmp_path: Path) -> None:
    found = find_nih(place(trees.nih(tmp_path)))
    assert (len(found.images), found.refused) == (10, [])
    first = found.images[2]
    assert (first.key, first.patient, first.view, first.age, first.sex) == ("00000001_000", "1", "PA", "42", "F")
    assert first.files == ("images_001/images/00000001_000.png",)
    assert placed(first.boxes, 1024, 1024) == (ImageBox("Infiltration", (0.25, 0.5, 0.375, 0.75)),)
    assert states(found, "Pneumonia") == [0, 1, 0, 0, 0] * 2
    assert states(found, NO_FINDING) == [1, 0, 0, 0, 0] * 2
    assert states(found, "Fracture") == [None] * 10
    assert set(found.tables) == {"Data_Entry_2017.csv", "BBox_List_2017.csv"}


def test_a_set_is_read_from_any_store(trees: Any, tmp_path: Path) -> None:
    trees.nih(tmp_path)
    wanted = find_nih(place(tmp_path)).images
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/nih-test", recursive=True)
    assert find_nih(place("memory://nih-test")).images == wanted
    memory.rm("/nih-test", recursive=True)


def test_nih_splits_and_views(trees: Any, tmp_path: Path) -> None:
    found = find_nih(place(trees.nih(tmp_path)))
    chosen = choose(found, Choice(splits="official"))
    assert [one.name[-16:] for one in chosen if one.split == "test"] == ["00000001_000.png", "00000001_001.png"]
    assert len(chosen) == 9
    assert found.left_out == {"younger than 18": 1}
    by_hash = choose(find_nih(place(tmp_path)), Choice(Shares(0.5, 0.5)))
    assert {(one.patient, one.split) for one in by_hash} == {
        (str(n), split_of(str(n), Shares(0.5, 0.5))) for n in range(5)
    }


def test_nih_refuses_rows_and_counts_strangers(trees: Any, tmp_path: Path) -> None:
    trees.nih(tmp_path)
    (tmp_path / "BBox_List_2017.csv").unlink()
    (tmp_path / "images_002/images/00000003_001.png").unlink()
    trees.image(tmp_path / "images_002/images/99999999_000.png", 99)
    text = (tmp_path / "Data_Entry_2017.csv").read_text()
    text = text.replace("Mass", "Mess", 1) + "00000007_000.png,Mass\n" + ",Mass,0,7,040Y,F,PA,1,1\n"
    (tmp_path / "Data_Entry_2017.csv").write_text(text + "00000008_000.png,No Finding|Mass,0,8,40,F,PA,1,1\n")
    found = find_nih(place(tmp_path))
    assert [refusal.fault for refusal in found.refused] == [
        RowFault.INCOMPLETE, RowFault.UNKNOWN_LABEL, RowFault.INCOMPLETE, RowFault.CONTRADICTION, RowFault.MISSING,
    ]  # fmt: skip
    assert found.refused[0].file == "Data_Entry_2017.csv line 12"
    assert found.left_out == {"image without a row in the entry table": 1}
    assert "torchxrayvision" in found.notes[0]
    assert len(found.images) == 8


@pytest.mark.parametrize("nested", [False, True])
def test_chexpert(trees: Any, tmp_path: Path, nested: bool) -> None:
    trees.chexpert(tmp_path / "CheXpert-v1.0-small" if nested else tmp_path)
    found = find_chexpert(place(tmp_path))
    assert len(found.images) == 8
    assert states(found, "Effusion") == [0, 1, None, None, None, 0, 0, None]
    assert states(found, "Pneumonia") == [0, None, 1, None, None, 0, 0, None]
    assert states(found, "Edema") == [0, 0, None, None, 1, 0, 0, None]
    assert states(found, "Support Devices") == [1] + [None] * 7
    assert states(found, NO_FINDING) == [1, 0, 0, None, 0, 1, 1, 0]
    assert states(found, "Infiltration") == [None] * 8
    assert [image.age for image in found.images[4:6]] == ["60", ""]
    chosen = choose(found, Choice(splits="official"))
    assert [one.split for one in chosen] == ["train"] * 6 + ["val"]
    assert (chosen[-1].patient, chosen[-1].key) == ("patient64541", "valid--patient64541--study2--view1_frontal")
    assert found.left_out == {"view LATERAL": 1}


def test_an_empty_cell_may_count_as_negative_but_never_an_uncertain_one(trees: Any, tmp_path: Path) -> None:
    found = find_chexpert(place(trees.chexpert(tmp_path), blank="negative"))
    assert states(found, "Pneumonia") == [0, None, 1, 0, 0, 0, 0, 0]
    assert states(found, "Effusion") == [0, 1, 0, 0, 0, 0, 0, 0]
    assert states(found, NO_FINDING) == [1, 0, 0, None, 0, 1, 1, 0]


def test_chexpert_refuses_rows(trees: Any, tmp_path: Path) -> None:
    trees.chexpert(tmp_path)
    path = tmp_path / "train.csv"
    text = path.read_text().replace("-1.0", "-7", 1).replace("train/patient00002/study2", "../patient00002/study2")
    path.write_text(text)
    found = find_chexpert(place(tmp_path))
    assert [refusal.fault for refusal in found.refused] == [RowFault.BAD_VALUE, RowFault.INCOMPLETE]
    assert len(found.images) == 6


@pytest.mark.parametrize("ending", [".jpg", ".dcm"])
def test_mimic(trees: Any, tmp_path: Path, ending: str) -> None:
    found = find_mimic(place(trees.mimic(tmp_path, ending)))
    assert len(found.images) == 7
    assert states(found, "Effusion") == [0, 1, None, None, None, 0, 0]
    assert states(found, "Pneumonia") == [0, None, 1, None, None, 0, 0]
    assert states(found, NO_FINDING) == [1, 0, 0, None, 0, 1, 1]
    image = found.images[3]
    assert (image.patient, image.split, image.view) == ("10000033", "train", "AP")
    assert (tmp_path / image.name).is_file()
    assert [one.split for one in choose(found, Choice(splits="official"))] == ["train"] * 4 + ["val"] * 2
    assert found.left_out == {"view LATERAL": 1}


def test_mimic_refuses_images_without_labels_and_bad_cells(trees: Any, tmp_path: Path) -> None:
    trees.mimic(tmp_path)
    path = tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    lines[2] = lines[2].replace("-1.0", "maybe")
    path.write_bytes(gzip.compress("\n".join(lines[:-1]).encode()))
    (tmp_path / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    found = find_mimic(place(tmp_path))
    assert [refusal.fault for refusal in found.refused] == [RowFault.BAD_VALUE, RowFault.NO_LABELS, RowFault.NO_LABELS]
    assert len(found.images) == 5
    with pytest.raises(TrainingError, match="no splits"):
        choose(found, Choice(splits="official"))


OWN = {"table": "list.csv", "image": "file", "patient": "pid", "labels": "report", "unknown": "unsure"}
RENAME = {"pleural fluid": "Effusion"}


def test_a_folder_of_ones_own(trees: Any, tmp_path: Path) -> None:
    rows = trees.folder(tmp_path)
    rows[3]["unsure"] = "Pneumonia"
    trees.table(tmp_path / "list.csv", rows)
    found = find_folder(place(tmp_path, columns=FolderColumns(**OWN, mask="mask", rename=RENAME)))
    assert not found.refused
    assert states(found, "Effusion")[:4] == [0, 0, 1, 0]
    assert states(found, "Pneumonia")[:4] == [0, 1, 1, None]
    assert states(found, "Mass") == [None] * 12
    image = found.images[5]
    assert (image.key, image.mask, image.patient, image.age) == ("images--f5", "masks/m5.png", "P2", "50")


def test_a_folder_with_a_column_a_finding(trees: Any, tmp_path: Path) -> None:
    cells = [("1", "0", ""), ("-1", "", ""), ("0", "0", "1"), ("2", "0", ""), ("1", "", "1")]
    rows = [
        {"image": f"f{n}.png", "patient_id": n, "Pneumonia": a, "wet": b, "No Finding": c}
        for n, (a, b, c) in enumerate(cells)
    ]
    trees.table(tmp_path / "t.csv", rows)
    found = find_folder(place(tmp_path, columns=FolderColumns(table="t.csv", rename={"wet": "Edema"})))
    assert [refusal.fault for refusal in found.refused] == [RowFault.BAD_VALUE, RowFault.CONTRADICTION]
    assert states(found, "Pneumonia") == [1, None, 0]
    assert states(found, "Edema") == [0, None, 0]
    assert states(found, NO_FINDING) == [0, None, 1]


def test_columns_misspelt_as_findings_are_refused_and_others_told(trees: Any, tmp_path: Path) -> None:
    row = {"image": "a.png", "patient_id": 1, "view": "PA", "age": 50, "Pneumonia": 1, "Site": "north"}
    own = FolderColumns(table="t.csv")
    for names in ({"Efusion": 1, "Cardiomegally": 0}, {"Efusion": 1, "Cardiomegally": 0, "Pneumonia": None}):
        cells = {name: cell for name, cell in (row | names).items() if cell is not None}
        trees.table(tmp_path / "t.csv", [cells])
        with pytest.raises(TrainingError, match="Efusion, Cardiomegally among the findings") as caught:
            find_folder(place(tmp_path, columns=own))
        assert "Efusion: did you mean `Effusion`" in caught.value.hint
        assert "Cardiomegally: did you mean `Cardiomegaly`?" in caught.value.hint
    renamed = FolderColumns(table="t.csv", rename={"Efusion": "Effusion", "Cardiomegally": ""})
    trees.table(tmp_path / "t.csv", [row | {"Efusion": 1, "Cardiomegally": 0, "unknown": "", "Mask": "m.png"}])
    found = find_folder(place(tmp_path, columns=renamed))
    assert set(found.images[0].labels) == {"Pneumonia", "Effusion"}
    assert found.notes == ["t.csv: columns that are not used: Site, unknown, Mask"]
    trees.table(tmp_path / "t.csv", [row | {"labels": "Edema"} | {f"n{n}": n for n in range(11)}])
    (note,) = find_folder(place(tmp_path, columns=own)).notes
    assert note == "t.csv: columns that are not used: Pneumonia, Site, n0, n1, n2, n3, n4, n5, n6, n7 and 3 more"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"file": ""}, RowFault.INCOMPLETE),
        ({"pid": " "}, RowFault.INCOMPLETE),
        ({"report": ""}, RowFault.INCOMPLETE),
        ({"report": "Pneumonja"}, RowFault.UNKNOWN_LABEL),
        ({"report": "No Finding|Edema"}, RowFault.CONTRADICTION),
        ({"unsure": "No Finding"}, RowFault.CONTRADICTION),
        ({"file": "../secret.png"}, RowFault.UNSAFE_PATH),
        ({"file": "/etc/passwd"}, RowFault.UNSAFE_PATH),
    ],
)
def test_a_folders_faulty_row_is_refused(trees: Any, tmp_path: Path, change: dict[str, str], fault: RowFault) -> None:
    rows = trees.folder(tmp_path, 2)
    trees.table(tmp_path / "list.csv", [rows[0] | change, rows[1]])
    found = find_folder(place(tmp_path, columns=FolderColumns(**OWN)))
    assert [refusal.fault for refusal in found.refused] == [fault]
    assert len(found.images) == 1


def test_choosing_refuses_twins_and_patients_in_two_splits(trees: Any, tmp_path: Path) -> None:
    rows = trees.folder(tmp_path, 8)
    names = ["train", "val", "valid", "train", "train", "train", "tarin", "test"]
    rows = [row | {"split": name} for row, name in zip(rows, names, strict=True)]
    rows[5]["view"] = "LATERAL"
    trees.table(tmp_path / "list.csv", [*rows, rows[4], {**rows[7], "pid": "P9"}])
    found = find_folder(place(tmp_path, columns=FolderColumns(**OWN, split="split", rename=RENAME)))
    chosen = choose(found, Choice(splits="official", any_view=True))
    assert [(one.key, one.split) for one in chosen] == [("images--f4", "train")]
    faults = [refusal.fault for refusal in found.refused]
    assert faults == [RowFault.CONTRADICTION, *[RowFault.TWO_SPLITS] * 4, RowFault.BAD_VALUE]
    assert found.left_out == {"view LATERAL": 1}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "No such file"),
        (b"", "no rows"),
        (b"file,pid,report\n", "no rows"),
        (b"pid,report\n1,Mass\n", "no column file"),
        (b"file,pid,what\na.png,1,Mass\n", "no column report"),
        ("file,pid,report\nBäh.png,1,Mass\n".encode("latin-1"), "--encoding"),
        (b"file,pid,report\na.png,1,Ma\0ss\n", "zero bytes"),
        (b'file,pid,report\na.png,1,"Mass\n', "unexpected end"),
        (b"file,pid,report,pid\na.png,1,Mass,2\n", "pid stands twice"),
    ],
)
def test_a_table_that_cannot_be_used_is_an_error(tmp_path: Path, content: bytes | None, named: str) -> None:
    if content is not None:
        (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(TrainingError, match=named):
        find_folder(place(tmp_path, columns=FolderColumns(**OWN)))


@pytest.mark.parametrize("role", ["labels", "unknown", "view", "age", "sex", "mask", "boxes", "split"])
def test_a_column_that_is_named_and_absent_is_an_error(trees: Any, tmp_path: Path, role: str) -> None:
    trees.table(tmp_path / "list.csv", [row | {"spare": ""} for row in trees.folder(tmp_path, 2)])
    named: dict[str, str] = OWN | {role: "spre"}
    with pytest.raises(TrainingError, match=r"no column spre; its") as caught:
        find_folder(place(tmp_path, columns=FolderColumns(**named)))  # type: ignore[arg-type]
    assert caught.value.hint.startswith(f"--{role}-column: did you mean `spare`")


def test_all_absent_columns_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image,labels,orig_mask,split\na.png,Mass,m.png,train\n")
    columns = FolderColumns(table="list.csv", mask="orig_msk", split="splt", age="age")
    with pytest.raises(TrainingError, match="no column patient_id, age, orig_msk, splt; its") as caught:
        find_folder(place(tmp_path, columns=columns))
    assert caught.value.hint == (
        "--patient-column: name one of them, --age-column: name one of them, "
        "--mask-column: did you mean `orig_mask`?, --split-column: did you mean `split`?"
    )


def test_the_usual_columns_are_found_in_any_case(trees: Any, tmp_path: Path) -> None:
    rows = [
        {"Image": f"{n}.png", "Patient ID": n, "LABELS": "Mass", "View": view, "Age": age, "Sex": "F"}
        for n, (view, age) in enumerate([("PA", 5), ("LATERAL", 50), ("AP", 50)])
    ]
    trees.table(tmp_path / "t.csv", rows)
    found = find_folder(place(tmp_path, columns=FolderColumns(table="t.csv")))
    assert [one.name for one in choose(found, Choice(any_view=True))] == ["2.png"]
    assert found.left_out == {"younger than 18": 1, "view LATERAL": 1}
    assert (found.images[0].sex, found.notes) == ("F", [])


@pytest.mark.parametrize("absent", [["age"], ["view"], ["age", "view"]])
def test_ages_and_views_that_a_table_does_not_have_are_noted(trees: Any, tmp_path: Path, absent: list[str]) -> None:
    kept = [{name: row[name] for name in row if name not in absent} for row in trees.folder(tmp_path, 2)]
    trees.table(tmp_path / "list.csv", kept)
    (note,) = find_folder(place(tmp_path, columns=FolderColumns(**OWN, mask="mask", rename=RENAME))).notes
    named = " or ".join(f"{name}s" for name in absent)
    assert f"no column of {named}: " in note
    assert "nobody is left out for them" in note


def test_a_table_in_another_encoding_is_read_if_named(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("file,pid,report,unsure\nBäh.png,Ä,Mass,\n".encode("latin-1"))
    found = find_folder(place(tmp_path, encoding="latin-1", columns=FolderColumns(**OWN)))
    assert found.images[0].patient == "Ä"
    assert found.images[0].key == key_of("Bäh.png")
    with pytest.raises(TrainingError, match="klingon"):
        find_folder(place(tmp_path, encoding="klingon", columns=FolderColumns(**OWN)))


@pytest.mark.parametrize("find", [find_nih, find_chexpert, find_mimic])
def test_a_folder_without_the_sets_tables_is_an_error(find: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--tables"):
        find(place(tmp_path))


def test_labels_are_all_said() -> None:
    assert len(IMAGE_LABELS) == len(set(IMAGE_LABELS)) == 21


def test_keys_are_safe_and_tell_names_apart() -> None:
    names = ["a/b.png", "a--b.png", "a_b.png", "a b.png", "a.b.png", "ä.png", "ö.png", "x" * 300, "a/b.dcm"]
    keys = [key_of(name) for name in names]
    assert keys[0] == "a--b"
    assert keys[2] == "a_b"
    assert len(set(keys[:8])) == 8
    assert all(len(key) < 92 and key.isascii() and "." not in key and "/" not in key for key in keys)


def test_ages_are_read_as_the_sets_write_them() -> None:
    assert [years(age) for age in ("58", "058Y", "18M", "300D", "58.0", "old", "")] == [
        "58", "58", "1", "0", "58", "", "",
    ]  # fmt: skip


def test_patients_keep_their_split_whoever_else_there_is() -> None:
    shares = Shares(0.7, 0.1, 0.2)
    found = [split_of(str(n), shares) for n in range(3000)]
    for name, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert found.count(name) / 3000 == pytest.approx(share, abs=0.03)
    wider = [split_of(str(n), Shares(0.8, 0.1, 0.1)) for n in range(3000)]
    assert all(now == "train" for now, before in zip(wider, found, strict=True) if before == "train")
    assert (split_of("1", shares), split_of("2", shares), split_of("3", shares)) == PINNED


PINNED = ("train", "test", "train")
"""Of patients 1, 2 and 3: a change of the rule would move patients of folders that exist."""


@pytest.mark.parametrize("text", ["0.8", "0.8/0.3", "1/0", "a/b", "0.5/0.2/0.2/0.1", "-0.2/1.2", "offical"])
def test_wrong_shares_are_named(text: str) -> None:
    with pytest.raises(TrainingError, match="--splits"):
        parse_shares(text)
    assert str(parse_shares("0.8/0.2")) == "0.8/0.2"
