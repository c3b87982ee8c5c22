"""The paper's Table I over datasets: a row a dataset, beside the rows that the paper printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from xreal_synth.escaping import markdown_table
from xreal_synth.evaluation.dataset_figures import (
    AUC,
    DICE,
    DIVERSITY,
    FID,
    FRECHET,
    KERNEL,
    KID,
    MACRO_F1,
    MS_SSIM,
    SHARPNESS,
)
from xreal_synth.evaluation.dataset_record import figure_of, overall, summary

COLUMNS: Final = (
    MS_SSIM, FID, KID, FRECHET, KERNEL, DICE, MACRO_F1, AUC, "precision", "recall", "density", "coverage",
    SHARPNESS, DIVERSITY,
)  # fmt: skip
"""In the paper's order, its own first; FID and KID only where there was a file for them."""

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


def table(records: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a dataset each, then what real images reach, with intervals."""
    rows = [(name, _overall(record), "") for name, record in labelled(records)]
    rows.append((REAL, _overall(records[0]), "real"))
    columns = [
        name for name in COLUMNS
        if any(name in found and not math.isnan(found[name]["value"]) for _, found, _ in rows)
    ]  # fmt: skip
    cells = [
        [label, *(figure_of(found[name], side) if name in found else "" for name in columns)]
        for label, found, side in rows
    ]
    return ["dataset", *columns], cells


def finding_tables(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: the findings' AUC and kernel distance, a column a dataset."""
    lines = []
    sets = labelled(records)
    for name in (AUC, KERNEL):
        by_set = [
            {
                row["finding"]: row
                for row in record["rows"]
                if row["name"] == name and row["finding"] is not None
            }
            for _, record in sets
        ]
        findings = list(dict.fromkeys(finding for rows in by_set for finding in rows))
        if not findings:
            continue
        cells = []
        for finding in findings:
            made = [figure_of(rows[finding]) if finding in rows else "" for rows in by_set]
            real = next((figure_of(rows[finding], "real") for rows in by_set if finding in rows), "")
            cells.append([finding, *made, real])
        header = ["finding", *(label for label, _ in sets), REAL]
        lines += [f"{name}, by finding:", "", *markdown_table(header, cells), ""]
    return lines


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """compare.md: the table, what it was measured with, and the paper's own figures with what differs."""
    lines = ["# Datasets side by side", "", *markdown_table(*table(records)), ""]
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


def as_json(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """compare.json: each dataset's record under its name in the table, and the paper's rows."""
    paper = {name: dict(zip(PAPER_COLUMNS, values, strict=True)) for name, values in PAPER.items()}
    return {"datasets": [{"label": label, **record} for label, record in labelled(records)], "paper": paper}


def _overall(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {row["name"]: row for row in overall(record["rows"])}
