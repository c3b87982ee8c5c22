"""evaluation.json and evaluation.md: a dataset's figures with everything that they hang on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from xreal_synth.dataset.names import EVALUATION, EVALUATION_TABLE
from xreal_synth.errors import StorageError
from xreal_synth.escaping import markdown_table
from xreal_synth.evaluation.dataset_figures import (
    ACCEPTED,
    AUC,
    F1,
    FLAGGED,
    KERNEL,
    LEAST_FOR_FRECHET,
    LEAST_FOR_MANIFOLD,
    MS_SSIM,
)
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
    f"Frechet distance is stated for a finding from {LEAST_FOR_FRECHET} images a side, precision to coverage from "
    f"{LEAST_FOR_MANIFOLD}. FID and KID are stated only with Inception's weights from a file.",
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
    return found and {**found, **{key: [_row(row) for row in found[key]] for key in _ROWS}}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it was before it was JSON: NaN for a figure that is not there, None for no finding."""
    return {**nan_for_null(dict(row)), "finding": row["finding"]}


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


def overall(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of all images together."""
    return [row for row in rows if row["finding"] is None]


def figure_of(row: Mapping[str, Any], side: str = "") -> str:
    """`.91 [.90, .92]` of the generated images, or of the real ones with side "real"; empty where there is none."""
    names = ("real", "real_low", "real_high") if side else ("value", "low", "high")
    value, low, high = (row[name] for name in names)
    if math.isnan(value):
        return ""
    return brief(Estimate(value, low, high, int(row["n"])))


def _table(rows: Sequence[Mapping[str, Any]], head: str) -> list[str]:
    """Rows with a figure; n of them are images, of MS-SSIM pairs."""
    shown = [row for row in rows if not math.isnan(row["value"])]
    cells = [[row["name"], figure_of(row), figure_of(row, "real"), row["n"]] for row in shown]
    return markdown_table([head, "made", "real", "n"], cells)


COLUMNS: Final = (AUC, F1, MS_SSIM, "Dice", KERNEL, "sharpness", "MS-SSIM between images", FLAGGED, ACCEPTED)


def finding_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the main figures by finding; real images' below the made ones'."""
    found = {(row["finding"], row["name"]): row for row in rows if row["finding"] is not None}
    columns = [
        name for name in COLUMNS
        if any(key[1] == name and not math.isnan(row["value"]) for key, row in found.items())
    ]  # fmt: skip
    cells = []
    for finding in dict.fromkeys(finding for finding, _ in found):
        for side in ("", "real"):
            texts = [
                figure_of(found[finding, name], side) if (finding, name) in found else "" for name in columns
            ]
            cells.append([f"{finding}, real" if side else finding, *texts])
    return ["finding", *(name.partition(" (")[0] for name in columns)], cells
