"""Fits the mask bank on a data folder: manifest.csv with the columns mask, split and perhaps mask_score, and the masks.

Takes about a minute for 650 masks.
"""

from __future__ import annotations

from pathlib import Path

from xreal_synth.anatomy.label_map import decode_mask
from xreal_synth.anatomy.shape_model import ShapeModel
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.errors import AnatomyError
from xreal_synth.findings import AORTA, FINDINGS, NO_FINDING
from xreal_synth.images.files import ImageFiles
from xreal_synth.images.manifest import MANIFEST, BadImage, fault_counts, read_manifest
from xreal_synth.storage import open_store
from xreal_synth.types import Mask

FEWEST = 8
MOST_REFUSED = 0.1


def training_masks(data: str | Path, min_score: float) -> dict[str, list[Mask]]:
    """The usable masks uint8 [S, S] of the training split by finding, in the manifest's order.

    Usable is a mask without score, which was given, or with `min_score`, of a whole chest with an aorta; MOST_REFUSED
    of all at most are no whole chest. Raises TrainingError for the manifest, AnatomyError for a mask.
    """
    store = open_store(str(data))
    manifest, files = read_manifest(store, ("mask", "split"), ("train",)), ImageFiles(store)
    if manifest.refused:
        raise AnatomyError(
            where=f"{store.uri}/{MANIFEST}",
            found=f"rows that cannot be used: {fault_counts(manifest.refused)}; {manifest.refused[0].reason}",
            hint="correct them",
        )
    masks: dict[str, list[Mask]] = {NO_FINDING: []}
    refused = []
    rows = [row for row in manifest.rows if row.mask_score is None or row.mask_score >= min_score]
    for row in rows:
        try:
            mask = decode_mask(files.read(row.shard, row.mask), row.mask)
            validate_mask(mask, row.mask)
        except BadImage as bad:
            raise AnatomyError(where=row.mask, found=bad.reason) from bad
        except AnatomyError as error:
            refused.append(error)
            continue
        if (mask == AORTA).any():
            for name in row.labels or (NO_FINDING,):
                masks.setdefault(name, []).append(mask)
    if len(refused) > MOST_REFUSED * len(rows):
        raise refused[0]
    return masks


def fit_bank(data: str | Path, out: Path, modes: int = 40, min_score: float = 0.9) -> ShapeModel:
    """Fits the masks of patients without a finding and writes the bank into `out`; returns it as it is read again.

    A finding changes the organs' outline: a heart is wide, an effusion cuts a lung off. What has none must not show
    it; what has one may (`anatomy.by_finding`).

    Fewer masks than `modes` + 1 give fewer modes. Raises AnatomyError for fewer than FEWEST masks or a bad one.
    """
    found = training_masks(data, min_score)
    masks = found.pop(NO_FINDING)
    if len(masks) < FEWEST:
        raise AnatomyError(
            where=str(data),
            found=f"{len(masks)} usable masks of training images without a finding, with an aorta and a mask_score "
            f"of at least {min_score}",
            wanted=f"at least {FEWEST}, better some hundreds: the bank cannot draw what no mask shows",
            hint="add images",
        )
    patients = {name: theirs for name, theirs in sorted(found.items()) if name in FINDINGS and len(theirs) >= FEWEST}
    ShapeModel.fit(masks, min(modes, len(masks) - 1), patients).save(out)
    return ShapeModel.load(out)
