"""Images made from real images' masks and labels, held against those masks and images.

The paper's paired protocol on a manifest: for each image of a split, its own organ mask and its first
finding that the bundle knows: Dice per organ by the bundle's own segmenter, MS-SSIM to the real image, seconds
per stage. Intervals are 95% bootstrap percentiles over patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from xreal_synth.anatomy.regions import region_mask
from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate
from xreal_synth.evaluation.measurements import ms_ssim, organ_dice, ring_powers, upper_power
from xreal_synth.evaluation.request import GeneratedFolder, PreparedRequest
from xreal_synth.findings import ORGANS
from xreal_synth.images.files import ImagePair
from xreal_synth.models.networks.segmenters import SegmentingNetwork
from xreal_synth.types import GreyImage


@dataclass(frozen=True, slots=True)
class AnatomyFigures:
    """Figures of `evaluate anatomy`.

    `dice` is of the healthy twin, requested mask against the segmenter's, `dice_variant` of the image with
    its finding, `dice_real` of the real image (the segmenter's own ceiling). `change_inside` and
    `change_outside` are mean absolute differences variant - twin in grey levels. `sharpness` is the power
    of generated over real images in the upper half of the frequencies. `seconds` are per image and stage, by the
    clock on the wall; `core_seconds` of CPU time.
    """

    images: int
    variants: int
    dice: dict[str, Estimate]
    dice_variant: dict[str, Estimate]
    dice_real: dict[str, Estimate]
    ms_ssim: Estimate
    ms_ssim_variant: Estimate
    change_inside: Estimate
    change_outside: Estimate
    sharpness: Estimate
    seconds: dict[str, float]
    core_seconds: dict[str, float]


def measure_anatomy(segmenter: SegmentingNetwork, prepared: PreparedRequest, made: GeneratedFolder) -> AnatomyFigures:
    """Measures images that are made, one after another."""
    rows, cases = [], prepared.cases
    for case in cases:
        pair, twin = prepared.reader.read(case.row), made.twin(case)
        row = _seen(segmenter, pair, twin, "") | _seen(segmenter, pair, pair.image, "_real")
        if case.findings:
            variant = made.labelled(case)
            region = np.logical_or.reduce([region_mask(finding, pair.mask) for finding in case.findings])
            apart = np.abs(variant.astype(float) - twin.astype(float))
            row |= _seen(segmenter, pair, variant, "_variant")
            row |= {"inside": float(apart[region].mean()), "outside": float(apart[~region].mean())}
        rows.append(row)
    bootstrap = Bootstrap([case.row.patient for case in cases])

    def values(name: str) -> Array:
        """A figure of each image, NaN where it has no variant."""
        return np.asarray([row.get(name, np.nan) for row in rows])

    def dice(suffix: str) -> dict[str, Estimate]:
        return {organ: bootstrap.mean(values(f"{organ}{suffix}")) for organ in ORGANS}

    return AnatomyFigures(
        images=len(cases),
        variants=sum(bool(case.findings) for case in cases),
        dice=dice(""),
        dice_variant=dice("_variant"),
        dice_real=dice("_real"),
        ms_ssim=bootstrap.mean(values("ms_ssim")),
        ms_ssim_variant=bootstrap.mean(values("ms_ssim_variant")),
        change_inside=bootstrap.mean(values("inside")),
        change_outside=bootstrap.mean(values("outside")),
        sharpness=bootstrap.ratio(values("power"), values("power_real")),
        seconds=made.seconds("wall"),
        core_seconds=made.seconds("core"),
    )


def _seen(segmenter: SegmentingNetwork, pair: ImagePair, image: GreyImage, suffix: str) -> dict[str, float]:
    """Dice of each organ, power in the upper frequencies, and MS-SSIM to the real image."""
    x = torch.from_numpy(image.astype(np.float32) / 255.0)[None, None].to(segmenter.device)
    found = organ_dice(pair.mask, segmenter.segment(x)[0].cpu().numpy())
    found["power"] = float(upper_power(ring_powers(image)[None], image.shape[0])[0])
    found["ms_ssim"] = ms_ssim(image, pair.image)
    return {f"{name}{suffix}": value for name, value in found.items()}
