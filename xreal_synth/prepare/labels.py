"""Labels of a TorchXRayVision dataset as a manifest's: positive names and names not known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xreal_synth.errors import TrainingError
from xreal_synth.findings import ALIASES, IMAGE_LABELS, NO_FINDING, image_label
from xreal_synth.images.manifest import BESIDE_NO_FINDING
from xreal_synth.prepare.found import Blank

Labels = tuple[tuple[str, ...], tuple[str, ...]]


def open_dataset(kind: Callable[..., Any], **arguments: Any) -> Any:
    """A TorchXRayVision dataset of all views and all images of a patient; raises TrainingError."""
    try:
        return kind(views=["*"], unique_patients=False, **arguments)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise TrainingError(
            found=f"torchxrayvision's {kind.__name__} cannot read these tables: {error!r}",
            wanted="the tables of the set as they were published",
            hint="fetch them again; `xreal-synth prepare folder` takes tables of any form",
        ) from error


def dataset_labels(dataset: Any, blank: Blank, healthy: Sequence[bool | None] | None = None) -> list[Labels]:
    """Positive and unknown label names of every row of the dataset's table, in its order.

    `healthy` says which images have no finding; by default the table's own column does. TorchXRayVision makes
    -1 and an empty cell both "no information"; with `blank="negative"` an empty cell counts as 0, and -1 stays
    unknown. Labels that the set does not have are unknown.
    """
    names = [image_label(name) for name in dataset.pathologies]
    assert None not in names, f"{dataset.pathologies} are not all in findings.py"
    values: NDArray[np.float32] = np.array(dataset.labels, np.float32)
    if blank == "negative":
        for at, name in enumerate(names):
            for column in (name, *(alias for alias, own in ALIASES.items() if own == name)):
                if column in dataset.csv.columns:
                    values[dataset.csv[column].isna().to_numpy(), at] = 0
    if healthy is None:
        healthy = [{1.0: True, 0.0: False}.get(cell) for cell in dataset.csv[NO_FINDING].tolist()]
    known = [name for name in names if name is not None]
    return [named_labels(known, row, none) for row, none in zip(values.tolist(), healthy, strict=True)]


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
