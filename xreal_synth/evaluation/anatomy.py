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
from torch import nn

from xreal_synth.anatomy.regions import region_mask
from xreal_synth.errors import BundleError
from xreal_synth.evaluation.cases import Case, CaseReader
from xreal_synth.evaluation.fidelity import ms_ssim, organ_dice, ring_powers, upper_power
from xreal_synth.evaluation.generated_images import GeneratedFolder
from xreal_synth.evaluation.intervals import Bootstrap, Estimate
from xreal_synth.findings import ORGANS
from xreal_synth.models.describe import BundleInfo
from xreal_synth.models.load import load_network
from xreal_synth.types import GreyImage, Mask, PlacedFinding

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


def own_segmenter(info: BundleInfo, device: torch.device) -> nn.Module:
    """The bundle's segmenter, ready; raises BundleError if it has none."""
    if "segmenter" not in info.parts:
        raise BundleError(
            where=str(info.root), found="no segmenter/", wanted="a bundle with one, to judge organs"
        )
    return load_network(info, "segmenter").eval().to(device)


def measure_anatomy(
    segmenter: nn.Module, cases: Sequence[Case], reader: CaseReader, made: GeneratedFolder
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
            inside, outside = _changes(case.findings, pair.mask, twin, variant)
            rows.add(inside=inside, outside=outside)
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
    rows: _Rows, suffix: str, segmenter: nn.Module, mask: Mask, image: GreyImage, real: GreyImage | None
) -> None:
    shown = segment(segmenter, image)
    rows.add(**{f"{organ}{suffix}": value for organ, value in organ_dice(mask, shown).items()})
    power = float(upper_power(ring_powers(image)[None], image.shape[0])[0])
    rows.add(**{f"power{suffix}": power})
    if real is not None:
        rows.add(**{f"ms_ssim{suffix}": ms_ssim([image], [real])[0]})


def _changes(
    findings: Sequence[PlacedFinding], mask: Mask, twin: GreyImage, variant: GreyImage
) -> tuple[float, float]:
    region = np.logical_or.reduce([region_mask(finding, mask) for finding in findings])
    apart = np.abs(variant.astype(float) - twin.astype(float))
    return float(apart[region].mean()), float(apart[~region].mean())


@torch.inference_mode()
def segment(segmenter: nn.Module, image: GreyImage) -> Mask:
    """Organ codes uint8 [H, W] of an image uint8 [H, W], by a network with [B, 1, H, W] in 0..1 -> logits."""
    device = next(segmenter.parameters()).device
    x = torch.from_numpy(image.astype(np.float32) / 255.0)[None, None].to(device)
    label_map: Mask = segmenter(x).argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
    return label_map
