"""Labels as TorchXRayVision's datasets read them from a set's tables, and as a manifest has them."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xreal_synth.anatomy.tables import Row
from xreal_synth.errors import TrainingError
from xreal_synth.findings import ALIASES, CHEXPERT14, IMAGE_LABELS, NO_FINDING, image_label
from xreal_synth.images.manifest import BESIDE_NO_FINDING
from xreal_synth.prepare.found import Blank

Labels = tuple[tuple[str, ...], tuple[str, ...]]
Tables = Mapping[str, tuple[Sequence[str], Sequence[Row]]]
"""Columns and rows of a dataset's CSV files by the argument that names the file."""


def dataset_labels(
    kind: str, tables: Tables, key: str, blank: Blank, healthy: Sequence[bool | None] | None = None
) -> list[tuple[str, Labels]]:
    """The labels of the rows of a TorchXRayVision dataset of all views and all images of a patient, in its order, each
    beside its cell of the column `key`.

    `healthy` says which images have no finding; by default the table's own column does. TorchXRayVision makes
    -1 and an empty cell both "no information"; with `blank="negative"` an empty cell counts as 0, and -1 stays
    unknown. Labels that the set does not have are unknown. Raises TrainingError.
    """
    if not tables["csvpath"][1]:
        return []
    dataset = _opened(kind, tables)
    names = [name for name in map(image_label, dataset.pathologies) if name is not None]
    assert len(names) == len(dataset.pathologies), f"{dataset.pathologies} are not all in findings.py"
    values: NDArray[np.float32] = np.array(dataset.labels, np.float32)
    if blank == "negative":
        for at, name in enumerate(names):
            for column in (name, *(alias for alias, own in ALIASES.items() if own == name)):
                if column in dataset.csv.columns:
                    values[dataset.csv[column].isna().to_numpy(), at] = 0
    if healthy is None:
        healthy = [{1.0: True, 0.0: False}.get(cell) for cell in dataset.csv[NO_FINDING].tolist()]
    labels = [named_labels(names, row, none) for row, none in zip(values.tolist(), healthy, strict=True)]
    return list(zip(dataset.csv[key].astype(str), labels, strict=True))


def _opened(kind: str, tables: Tables) -> Any:
    """TorchXRayVision reads local files only, and some of its classes want columns in one form alone."""
    import torchxrayvision as xrv

    with tempfile.TemporaryDirectory(prefix="xr-tables-") as folder:
        places = {}
        for argument, (columns, rows) in tables.items():
            file = Path(folder, f"train-{argument}.csv")  # CheX_Dataset looks for the word
            places[argument] = str(file)
            with file.open("w", newline="", encoding="utf-8") as out:
                writer = csv.DictWriter(out, columns, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)
        try:
            return getattr(xrv.datasets, kind)(imgpath=folder, views=["*"], unique_patients=False, **places)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(
                found=f"torchxrayvision's {kind} cannot read these tables: {error!r}",
                wanted="the tables of the set as they were published",
                hint="fetch them again; `xreal-synth prepare folder` takes tables of any form",
            ) from error


def has_known_labels(row: Row) -> bool:
    """Whether every cell of a CheXpert label is 1, 0, -1 or empty."""
    try:
        return all(float(row[name] or 0) in (1, 0, -1) for name in CHEXPERT14)
    except ValueError:
        return False


def named_labels(names: Sequence[str], values: Sequence[float], healthy: bool | None) -> Labels:
    """Values 1, 0 and NaN of some labels, and whether the image is said to have no finding -> label names.

    Nothing said and nothing found leaves "No Finding" unknown; so are labels not among `names`.
    """
    positive = [name for name, value in zip(names, values, strict=True) if value == 1]
    negative = {name for name, value in zip(names, values, strict=True) if value == 0}
    finding = any(name not in BESIDE_NO_FINDING for name in positive)
    if healthy and not finding:
        positive.insert(0, NO_FINDING)
    elif finding or healthy is False:
        negative.add(NO_FINDING)
    unknown = [name for name in IMAGE_LABELS if name not in positive and name not in negative]
    return tuple(positive), tuple(unknown)
