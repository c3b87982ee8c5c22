"""Do images show a finding where it was asked for? Where a locator's maps have their peaks, beside real boxes.

Shapes: N images, L findings of the locator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from xreal_synth.evaluation.cases import Case
from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate
from xreal_synth.types import NormBox

PEAK_SIDE: Final = 64
"""A peak is one of PEAK_SIDE x PEAK_SIDE cells, numbered row by row."""

Peaks = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PlaceFigures:
    """Shares of images whose map of a finding has its peak inside a box of that finding (the pointing game).

    `asked` of generated images, in the boxes asked for; `twin` of their healthy twins, in the same boxes: what the
    usual place of the finding is worth; `real` of real images, in their radiologists' boxes.
    """

    asked: Estimate
    twin: Estimate
    real: Estimate


def place_figures(
    cases: Sequence[Case],
    known: Sequence[str],
    placed: Sequence[str],
    peaks: tuple[Peaks, Peaks, Peaks],
    size: int,
    bootstrap: Bootstrap,
) -> tuple[dict[str, PlaceFigures], PlaceFigures | None]:
    """Figures of each finding that the bundle (`known`) and the locator (`placed`) know, and their mean over those
    that have all three; None where none has.

    `peaks` are those of the generated, twin and real images [N, L]; boxes asked for are in pixels of images of `size`.
    """
    findings = [name for name in known if name in placed]
    columns = [placed.index(name) for name in findings]
    asked = [[_asked(case, name, size) for name in findings] for case in cases]
    real = [[[box.box for box in case.row.boxes if box.name == name] for name in findings] for case in cases]
    hits = [hit_table(one[:, columns], boxes) for one, boxes in zip(peaks, (asked, asked, real), strict=True)]
    found = {
        name: PlaceFigures(*(bootstrap.mean(table[:, at]) for table in hits))
        for at, name in enumerate(findings)
    }
    whole = [at for at in range(len(findings)) if all((~np.isnan(table[:, at])).any() for table in hits)]
    mean = PlaceFigures(*(mean_share(table[:, whole], bootstrap) for table in hits)) if whole else None
    return found, mean


def hit_table(peaks_NL: Peaks, boxes: Sequence[Sequence[Sequence[NormBox]]]) -> Array:
    """[N, L]: 1 where the peak's cell touches one of the finding's boxes on the image, 0 elsewhere, NaN without box.

    Such a cell reaches as far as the usual tolerance of the pointing game, 15 pixels in 1024.
    """
    table = [
        [_touches(int(peak), own) if own else np.nan for peak, own in zip(row, of_image, strict=True)]
        for row, of_image in zip(peaks_NL, boxes, strict=True)
    ]
    return np.asarray(table, np.float64).reshape(peaks_NL.shape)


def mean_share(hits_NL: Array, bootstrap: Bootstrap) -> Estimate:
    """Mean over findings of the mean over images, NaN left out, on the same draws of patients."""
    known = ~np.isnan(hits_NL)
    filled = np.where(known, hits_NL, 0.0)

    def statistic(weights: Array) -> Array:
        under = weights @ known.astype(np.float64)
        each: Any = np.divide(weights @ filled, under, out=np.full(under.shape, np.nan), where=under > 0)
        return np.asarray(each.mean(axis=1))

    return bootstrap.interval(statistic, int(known.any(axis=1).sum()))


def _touches(peak: int, boxes: Sequence[NormBox]) -> float:
    row, column = divmod(peak, PEAK_SIDE)
    return float(
        any(
            x0 * PEAK_SIDE < column + 1
            and x1 * PEAK_SIDE > column
            and y0 * PEAK_SIDE < row + 1
            and y1 * PEAK_SIDE > row
            for x0, y0, x1, y1 in boxes
        )
    )


def _asked(case: Case, name: str, size: int) -> list[NormBox]:
    boxes = [box for finding in case.findings if finding.name == name for box in finding.boxes]
    return [(x0 / size, y0 / size, x1 / size, y1 / size) for x0, y0, x1, y1 in boxes]
