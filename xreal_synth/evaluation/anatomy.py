"""Images made from real images' masks and labels, held against those masks and images.

The paper's paired protocol on a manifest: for each image of a split, its own organ mask and its first
finding that the bundle knows: Dice per organ by the bundle's own segmenter, MS-SSIM to the real image, seconds
per stage. Intervals are 95% bootstrap percentiles over patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from xreal_synth.anatomy.regions import region_mask
from xreal_synth.evaluation.cases import Case, CaseReader
from xreal_synth.evaluation.fidelity import ms_ssim, organ_dice, ring_powers, upper_power
from xreal_synth.evaluation.generated_images import GeneratedFolder
from xreal_synth.evaluation.intervals import Bootstrap, Estimate
from xreal_synth.findings import ORGANS
from xreal_synth.models.networks.segmenters import SegmentingNetwork
from xreal_synth.types import GreyImage, Mask

_NONE = float("nan")


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


@dataclass(slots=True)
class _Rows:
    """What is kept of each image; NaN where it has no variant."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def of(self, name: str) -> npt.NDArray[np.float64]:
        return np.asarray(self.values[name], np.float64)


def measure_anatomy(
    segmenter: SegmentingNetwork, cases: Sequence[Case], reader: CaseReader, made: GeneratedFolder
) -> AnatomyFigures:
    """Measures images that are made, one after another."""
    rows = _Rows()
    for case in cases:
        pair = reader.read(case.row)
        twin = made.twin(case)
        _add_image(rows, "", segmenter, pair.mask, twin, pair.image)
        _add_image(rows, "_real", segmenter, pair.mask, pair.image, None)
        if case.findings:
            variant = made.labelled(case)
            _add_image(rows, "_variant", segmenter, pair.mask, variant, pair.image)
            region = np.logical_or.reduce([region_mask(finding, pair.mask) for finding in case.findings])
            apart = np.abs(variant.astype(float) - twin.astype(float))
            rows.add(inside=float(apart[region].mean()), outside=float(apart[~region].mean()))
        else:
            rows.add(inside=_NONE, outside=_NONE, ms_ssim_variant=_NONE)
            rows.add(**{f"{organ}_variant": _NONE for organ in ORGANS})
    bootstrap = Bootstrap([case.row.patient for case in cases])

    def of(name: str) -> Estimate:
        return bootstrap.mean(rows.of(name))

    return AnatomyFigures(
        images=len(cases),
        variants=sum(bool(case.findings) for case in cases),
        dice={organ: of(organ) for organ in ORGANS},
        dice_variant={organ: of(f"{organ}_variant") for organ in ORGANS},
        dice_real={organ: of(f"{organ}_real") for organ in ORGANS},
        ms_ssim=of("ms_ssim"),
        ms_ssim_variant=of("ms_ssim_variant"),
        change_inside=of("inside"),
        change_outside=of("outside"),
        sharpness=bootstrap.ratio(rows.of("power"), rows.of("power_real")),
        seconds=made.seconds("wall"),
        core_seconds=made.seconds("core"),
    )


def _add_image(
    rows: _Rows,
    suffix: str,
    segmenter: SegmentingNetwork,
    mask: Mask,
    image: GreyImage,
    real: GreyImage | None,
) -> None:
    x = torch.from_numpy(image.astype(np.float32) / 255.0)[None, None].to(segmenter.device)
    shown = segmenter.segment(x)[0].cpu().numpy()
    rows.add(**{f"{organ}{suffix}": value for organ, value in organ_dice(mask, shown).items()})
    power = float(upper_power(ring_powers(image)[None], image.shape[0])[0])
    rows.add(**{f"power{suffix}": power})
    if real is not None:
        rows.add(**{f"ms_ssim{suffix}": ms_ssim([image], [real])[0]})
