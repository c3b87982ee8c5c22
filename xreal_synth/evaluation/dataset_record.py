"""evaluation.json and evaluation.md, a dataset's figures with everything that they hang on; and the paper's Table I
over datasets, a row a dataset, beside the rows that the paper printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from xreal_synth.dataset.names import EVALUATION, EVALUATION_TABLE
from xreal_synth.errors import StorageError
from xreal_synth.escaping import markdown_table
from xreal_synth.evaluation import dataset_figures as figures
from xreal_synth.evaluation.dataset_figures import Row
from xreal_synth.evaluation.intervals import Estimate, brief
from xreal_synth.evaluation.kept import json_bytes, nan_for_null, record_of
from xreal_synth.storage import Store

FORMAT: Final = 1
_ROWS: Final = ("rows", "rows_unflagged")

NOTES: Final = (
    "MS-SSIM: to the real image of the same, unchanged organ mask, or to the image that was edited. Labels play no "
    "part in the pairing.",
    "Dice: the requested organ mask against the evaluator segmenter's on the image; `real`: real images' own masks.",
    "AUC and F1 (at one half) are the evaluator classifier's, of the findings it knows; images labelled 0 are the "
    "negatives, unknown labels are left out. macro-F1 and AUC without a finding are means over findings.",
    "Distances, precision, recall, density, coverage (5 nearest neighbours of other groups): generated images against "
    "the split's real images; `real`: other real images (named above; evaluators may have been trained on them) "
    "against the same ones, at equal numbers. They hang on how often each finding is there, which a recipe chooses and "
    "a hospital does not.",
    f"Frechet distance is stated for a finding from {figures.LEAST_FOR_FRECHET} images a side, precision to coverage "
    f"from {figures.LEAST_FOR_MANIFOLD}. FID and KID are stated only with Inception's weights from a file.",
    "Sharpness: power over the split's real images in the upper half of the frequencies. MS-SSIM between images: of "
    "pairs of one finding, lower is more diverse.",
    "Flagged and accepted: what the dataset's gate says, where it had one. Refused images are stored nowhere, so the "
    "other figures are of delivered images.",
    "Intervals: 95%, bootstrap by group of generated images (by patient where their masks or images came from real "
    "ones) and by patient of real ones; of distances a jackknife; of acceptance Wilson's.",
)


def write(store: Store, record: Mapping[str, Any]) -> None:
    """Puts both files into the dataset's folder; raises StorageError."""
    try:
        store.replace(EVALUATION, json_bytes(record))
        store.replace(EVALUATION_TABLE, markdown(record).encode())
    except OSError as error:
        raise StorageError(
            where=store.uri,
            found=f"cannot write {EVALUATION}: {error}",
            wanted="a dataset folder that can be written to",
            hint="copy the dataset, or make its folder writable",
        ) from error


def stored(store: Store, of: Mapping[str, Any]) -> dict[str, Any] | None:
    """The evaluation that lies in the dataset's folder, if it is of this identity; a damaged one counts as none."""
    found = record_of(store, EVALUATION, of, *_ROWS)
    for row in (row for key in _ROWS for row in (found or {}).get(key, ())):
        row.update(nan_for_null({name: value for name, value in row.items() if name != "finding"}))
    return found


def markdown(record: Mapping[str, Any]) -> str:
    """The tables and what they mean."""
    lines = [f"# Evaluation of {record['dataset']['name']}", "", *summary(record), ""]
    lines += _table(overall(record["rows"]), "all images")
    lines += ["", "By finding:", "", *markdown_table(*finding_table(record["rows"]))]
    if record["rows_unflagged"]:
        lines += ["", "Without the images that the gate flagged:", ""]
        lines += _table(overall(record["rows_unflagged"]), "unflagged images")
        lines += ["", *markdown_table(*finding_table(record["rows_unflagged"]))]
    lines += ["", *(f"- {note}" for note in (*record["notes"], *NOTES))]
    return "\n".join(lines) + "\n"


def summary(record: Mapping[str, Any]) -> list[str]:
    """What was measured against what, by which networks, where."""
    dataset, real, networks = record["dataset"], record["real"], record["networks"]
    return [
        f"{dataset['images']} images of {dataset['groups']} groups (bundle {dataset['bundle']}, control "
        f"{dataset['control']}) beside {real['images']} real images of split {real['split']}; `real` in "
        f"distances and sharpness: {real['second_images']} images of {real['second']}.",
        f"Evaluator networks {networks['evaluators'][:12]}"
        + (f"; Inception from a file, {networks['inception'][:12]}" if networks.get("inception") else "")
        + f"; {record['machine']}; {record['seconds']:.0f} s.",
    ]


def overall(rows: Iterable[Row]) -> list[Row]:
    """The rows of all images together."""
    return [row for row in rows if row["finding"] is None]


def figure_of(row: Row, side: str = "") -> str:
    """`.91 [.90, .92]` of the generated images, or of the real ones with side "real"; empty where there is none, or
    a distance of so few groups that it has no interval."""
    names = ("real", "real_low", "real_high") if side else ("value", "low", "high")
    value, low, high = (row[name] for name in names)
    if math.isnan(value) or (row["name"] in figures.DISTANCES and math.isnan(low)):
        return ""
    return brief(Estimate(value, low, high, int(row["n"])))


def _table(rows: Sequence[Row], head: str) -> list[str]:
    """Rows with a figure; n of them are images, of MS-SSIM pairs."""
    shown = [row for row in rows if not math.isnan(row["value"])]
    cells = [[row["name"], figure_of(row), figure_of(row, "real"), row["n"]] for row in shown]
    return markdown_table([head, "made", "real", "n"], cells)


def finding_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the main figures by finding; real images' below the made ones'."""
    found = {name: _by_finding(rows, name) for name in figures.BY_FINDING}
    shown = [name for name in figures.BY_FINDING if any(not math.isnan(row["value"]) for row in found[name].values())]
    cells = []
    for finding in dict.fromkeys(row["finding"] for row in rows if row["finding"] is not None):
        for side, words in (("", finding), ("real", f"{finding}, real")):
            cells.append([words, *(_cell(found[name], finding, side) for name in shown)])
    return ["finding", *(name.partition(" (")[0] for name in shown)], cells


def _by_finding(rows: Iterable[Row], name: str) -> dict[str, Row]:
    return {row["finding"]: row for row in rows if row["name"] == name and row["finding"] is not None}


def _cell(rows: Mapping[str, Row], key: str, side: str = "") -> str:
    return figure_of(rows[key], side) if key in rows else ""


REAL: Final = "real images"

PAPER_COLUMNS: Final = ("MS-SSIM", "FID", "Dice", "F1", "AUC")
PAPER: Final[dict[str, tuple[str, ...]]] = {
    "Cheff": (".415", "24.64", ".500", ".510", ".640"),
    "RoentGen": (".386", "82.14", ".631", ".550", ".800"),
    "ControlNet on the same LDM": (".630", "29.48", ".835", ".560", ".740"),
    "XReal": (".701", "55.12", ".838", ".570", ".743"),
    "real images": ("", "", "", ".610", ".800"),
}
"""Table I of the paper, without the radiologists' ranks."""

DIFFERENCES: Final = (
    "Data: the paper's models learned from over 120,000 AP images of MIMIC-CXR and were measured on its test split; "
    "the tables above are of the datasets and of the real images named there.",
    "MS-SSIM: the paper's pairs share mask and label; here they share the mask.",
    "Dice: the paper asks TorchXRayVision's PSPNet on the made and on the real image, over lungs, heart and aorta; "
    "here an evaluator segmenter's organs are held against the mask that was asked for, each lung by itself.",
    "F1 and AUC: the paper's evaluator is a DenseNet-121 trained on MIMIC-CXR; here it is a small DenseNet trained on "
    "other images, for other findings. F1 hangs on how frequent a finding is.",
    "FID: of Inception's features in the paper. A Frechet distance in another network's features has another "
    "scale and cannot be held against it.",
    "So the two tables cannot be compared row by row; what can be compared is the order of methods within each.",
)


def labelled(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Each dataset's name in the table: name, bundle and control; a number where two would be alike."""
    names = [f"{r['dataset']['name']} ({r['dataset']['bundle']}, {r['dataset']['control']})" for r in records]
    return [
        (f"{name} #{at + 1}" if names.count(name) > 1 else name, record)
        for at, (name, record) in enumerate(zip(names, records, strict=True))
    ]


def compared_table(records: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a dataset each, then what real images reach, with intervals."""
    sets = [(label, {row["name"]: row for row in overall(record["rows"])}) for label, record in labelled(records)]
    shown = [
        name for name in figures.COMPARED
        if any(name in rows and not math.isnan(rows[name]["value"]) for _, rows in sets)
    ]  # fmt: skip
    cells = [[label, *(_cell(rows, name) for name in shown)] for label, rows in sets]
    return ["dataset", *shown], [*cells, [REAL, *(_cell(sets[0][1], name, "real") for name in shown)]]


def finding_tables(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: the findings' AUC and kernel distance, a column a dataset."""
    lines = []
    for name in (figures.AUC, figures.KERNEL):
        sets = {label: _by_finding(record["rows"], name) for label, record in labelled(records)}
        any_set = {finding: row for rows in reversed(sets.values()) for finding, row in rows.items()}
        cells = [
            [finding, *(_cell(rows, finding) for rows in sets.values()), figure_of(any_set[finding], "real")]
            for finding in dict.fromkeys(finding for rows in sets.values() for finding in rows)
        ]
        if cells:
            lines += [f"{name}, by finding:", "", *markdown_table(["finding", *sets, REAL], cells), ""]
    return lines


def compared_markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """compare.md: the table, what it was measured with, and the paper's own figures with what differs."""
    lines = ["# Datasets side by side", "", *markdown_table(*compared_table(records)), ""]
    for label, record in labelled(records):
        lines += [f"- {label}: {' '.join(summary(record))} {' '.join(record['notes'])}".rstrip()]
    lines += [
        "",
        f"`{REAL}`: as in the first dataset's evaluation, real images by the same measure.",
        "Intervals: 95%, of each dataset by itself: datasets of the same masks and seeds differ by less than their "
        "intervals suggest.",
        "", *finding_tables(records),
    ]  # fmt: skip
    return "\n".join([*lines, *paper_lines()]) + "\n"


def paper_lines() -> list[str]:
    """The paper's Table I in Markdown, and what differs."""
    return [
        "The paper's own Table I (MIMIC-CXR test split), for reference:",
        "",
        *markdown_table(["method", *PAPER_COLUMNS], ([name, *values] for name, values in PAPER.items())),
        "",
        "What differs from it:",
        "",
        *(f"- {text}" for text in DIFFERENCES),
    ]


def compared_json(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """compare.json: each dataset's record under its name in the table, and the paper's rows."""
    paper = {name: dict(zip(PAPER_COLUMNS, values, strict=True)) for name, values in PAPER.items()}
    return {"datasets": [{"label": label, **record} for label, record in labelled(records)], "paper": paper}
