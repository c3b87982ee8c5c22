"""The audit of a prepared folder, to be read before training on it: splits that leak, images unlike the rest."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xreal_synth.images.manifest import splits_of_patients
from xreal_synth.prepare.run import PreparedImage

ALIKE: Final = 0.99
"""Least correlation of two small pictures of one image. Of 2,010 real images, the nearest of another patient came to
0.98 at most; after another contrast, size and JPEG at quality 60 an image and itself came to 0.9997 at least."""
FAR: Final = 3.5
"""Robust standard deviations from the median beyond which an image is unlike the rest."""
_BLOCK: Final = 1024
_LEAST_SPREAD: Final = {"shorter side": 0.05, "width over height": 0.05, "mean grey": 4.0, "contrast": 2.0}
"""Of each measure, in its own unit; the sides' are logarithms."""


def audit(images: Sequence[PreparedImage], rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Of the images and their rows in the manifest, as prepared.json has it: positives of each label by "split view",
    pairs of sources in different splits that show the same, patients in two splits, and outliers by their source's
    name, the farthest first."""
    labels: dict[str, Counter[str]] = {}
    splits = splits_of_patients((row["patient_id"], row["split"]) for row in rows)
    for row in rows:
        for name in filter(None, row["labels"].split("|")):
            labels.setdefault(name, Counter())[f"{row['split']} {row['view'] or 'no view'}"] += 1
    looks = np.stack([np.frombuffer(base64.b64decode(image.done.look), np.uint8) for image in images])
    return {
        "positives_by_split_and_view": {name: dict(sorted(labels[name].items())) for name in sorted(labels)},
        "alike_across_splits": _alike(looks.astype(np.float32), rows),
        "patients_across_splits": sorted(patient for patient, found in splits.items() if len(found) > 1),
        "outliers": _outliers(images, looks),
    }


def _alike(measurements: NDArray[np.float32], rows: Sequence[dict[str, str]]) -> list[list[str]]:
    measurements = measurements - measurements.mean(axis=1, keepdims=True)
    measurements /= np.maximum(np.linalg.norm(measurements, axis=1, keepdims=True), 1e-6)
    names, splits = [row["original_id"] for row in rows], np.array([row["split"] for row in rows])
    found = []
    for split in sorted(set(splits))[:-1]:
        (own,), (others,) = np.nonzero(splits == split), np.nonzero(splits > split)
        for start in range(0, len(own), _BLOCK):
            block = own[start : start + _BLOCK]
            for i, j in np.argwhere(measurements[block] @ measurements[others].T >= ALIKE):
                found.append([names[block[i]], names[others[j]]])
    return found


def _outliers(images: Sequence[PreparedImage], measurements: NDArray[np.uint8]) -> list[dict[str, str]]:
    sides = np.array([(image.done.width, image.done.height) for image in images], np.float64)
    measures = {
        "shorter side": np.log(sides.min(axis=1)),
        "width over height": np.log(sides[:, 0] / sides[:, 1]),
        "mean grey": measurements.mean(axis=1),
        "contrast": measurements.std(axis=1),
    }
    found: dict[int, tuple[float, str]] = {}
    for name, values in measures.items():
        middle = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - middle))) + _LEAST_SPREAD[name]
        shown = np.exp if name in ("shorter side", "width over height") else np.asarray
        for at in np.flatnonzero(np.abs(values - middle) > FAR * spread):
            far = abs(float(values[at]) - middle) / spread
            reported = f"{name} {float(shown(values[at])):.3g}, of most {float(shown(middle)):.3g}"
            found[int(at)] = max(found.get(int(at), (0.0, "")), (far, reported))
    order = sorted(found, key=lambda at: -found[at][0])
    return [{"file": images[at].image.name, "reason": found[at][1]} for at in order]
