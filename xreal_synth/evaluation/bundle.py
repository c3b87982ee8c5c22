"""Everything that is measured of a bundle on a split of real images: the figures of `evaluate bundle`.

For each real image an image is made from its own organ mask with all of its findings that the bundle knows, one
after another; images without finding give their healthy twin. "Made" below is this image. The networks that
evaluator had no part in training the bundle's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xreal_synth.errors import BundleError, TrainingError
from xreal_synth.evaluation.cases import Case, CaseReader, check_apart
from xreal_synth.evaluation.copies import CopyFigures, count_copies, standardised
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.fidelity import RINGS, ms_ssim, upper_power
from xreal_synth.evaluation.findings import (
    FindingFigures,
    FindingScores,
    PlaceFigures,
    finding_figures,
    label_table,
    macro_f1,
    place_figures,
)
from xreal_synth.evaluation.generated_images import GeneratedFolder, image_seconds
from xreal_synth.evaluation.intervals import Bootstrap, Estimate, spread
from xreal_synth.evaluation.measurements import Measurements, measure
from xreal_synth.evaluation.set_distances import frechet, kernel
from xreal_synth.findings import ORGANS
from xreal_synth.images.manifest import BadImage, ImageRow
from xreal_synth.types import GreyImage, Mask

REAL_DRAWS: Final = 40
"""Random draws of training images for the distance between real images."""


@dataclass(frozen=True, slots=True, eq=False)
class RealImages:
    """Measurements of the real images: the split's (with masks), and the training images."""

    measurements: Measurements
    training: Measurements
    training_rows: tuple[ImageRow, ...]


@dataclass(frozen=True, slots=True)
class SetDistance:
    """A distance between made and real images, and between training images and the same real images.

    `made` has a jackknife interval over patients; `real` the middle 95% of random draws of as many training
    images.
    """

    made: Estimate
    real: Estimate


@dataclass(frozen=True, slots=True)
class BundleFigures:
    """Figures of `evaluate bundle`.

    Dice by the evaluator segmenter against the requested mask: of generated images, healthy twins, and real images
    (its ceiling). `rings` is power over real images in eight rings of frequencies, `rings_training` the same of
    the training images; `sharpness` of the upper half. `kernel` and `frechet` are in the evaluator classifier's
    features. `unplaced` counts findings that found no place, `faulty` images that could not be read. `seconds`
    are by the clock on the wall, `core_seconds` of CPU time (empty on other devices). `in_place` is empty, and its
    mean None, without a locator of the bundle's findings.
    """

    images: int
    with_finding: int
    training_images: int
    unplaced: int
    faulty: int
    dice: dict[str, Estimate]
    dice_twin: dict[str, Estimate]
    dice_real: dict[str, Estimate]
    ms_ssim: Estimate
    ms_ssim_twin: Estimate
    kernel: SetDistance
    frechet: SetDistance
    findings: dict[str, FindingFigures]
    macro_f1: Estimate
    macro_f1_real: Estimate
    sharpness: Estimate
    sharpness_training: float
    rings: tuple[float, ...]
    rings_training: tuple[float, ...]
    copies: dict[str, CopyFigures]
    seconds: dict[str, float]
    core_seconds: dict[str, float]
    in_place: dict[str, PlaceFigures]
    in_place_mean: PlaceFigures | None


@dataclass(frozen=True, slots=True, eq=False)
class _Generated:
    """What was seen of the generated images and of their healthy twins."""

    measurements: Measurements
    twins: Measurements
    ms_ssim: npt.NDArray[np.float64]
    ms_ssim_twin: npt.NDArray[np.float64]


def measure_real(
    evaluators: Evaluators,
    cases: Sequence[Case],
    training: Sequence[ImageRow],
    reader: CaseReader,
    on_image: Callable[[int], None] = lambda images: None,
) -> RealImages:
    """Looks at the cases' real images and at training images; faulty training images are left out.

    Raises TrainingError if no training image can be used or one is of a patient of the cases.
    """
    patients = [case.row.patient for case in cases]
    check_apart(
        (row.patient for row in training), patients, "the training images and in the images to judge by"
    )
    real = measure(
        evaluators,
        ((pair.image, pair.mask) for pair in (reader.read(c.row) for c in cases)),
        on_image,
        places=True,
    )
    used: list[ImageRow] = []

    def images() -> Iterator[tuple[GreyImage, Mask | None]]:
        for row in training:
            try:
                image = reader.image(row)
            except BadImage:
                on_image(1)
                continue
            used.append(row)
            yield image, None

    seen = measure(evaluators, images(), on_image)
    if not used:
        raise TrainingError(found="no usable training image", wanted="at least one", hint="see the manifest")
    return RealImages(real, seen, tuple(used))


def measure_bundle(
    evaluators: Evaluators,
    cases: Sequence[Case],
    faulty: int,
    reader: CaseReader,
    folder: GeneratedFolder,
    real: RealImages,
    findings: Sequence[str],
    on_image: Callable[[int], None] = lambda images: None,
) -> BundleFigures:
    """Measures images that are made; `findings` are those that the bundle knows. Raises BundleError."""
    if not set(findings) & set(evaluators.findings):
        raise BundleError(
            found=f"evaluators of {', '.join(evaluators.findings)}",
            wanted=f"evaluators of the bundle's findings: {', '.join(findings)}",
            hint="train evaluators on these findings and give them with --evaluators",
        )
    made = _measure_generated(evaluators, cases, reader, folder, on_image)
    bootstrap = Bootstrap([case.row.patient for case in cases])
    size = reader.size
    power = upper_power(real.measurements.rings, size)
    per_finding, f1, f1_real = _finding_figures(
        evaluators, cases, made, real.measurements, findings, bootstrap
    )
    seconds, core = folder.seconds("wall"), folder.seconds("core")
    peaks = made.measurements.peaks, made.twins.peaks, real.measurements.peaks
    in_place, in_place_mean = place_figures(
        cases, findings, evaluators.placed_findings, peaks, size, bootstrap
    )
    return BundleFigures(
        images=len(cases),
        with_finding=sum(bool(case.findings) for case in cases),
        training_images=len(real.training),
        unplaced=sum(len(case.unplaced) for case in cases),
        faulty=faulty,
        dice=_dice(made.measurements, bootstrap),
        dice_twin=_dice(made.twins, bootstrap),
        dice_real=_dice(real.measurements, bootstrap),
        ms_ssim=bootstrap.mean(made.ms_ssim),
        ms_ssim_twin=bootstrap.mean(made.ms_ssim_twin),
        kernel=_distance(kernel, made.measurements, real, bootstrap),
        frechet=_distance(frechet, made.measurements, real, bootstrap),
        findings=per_finding,
        macro_f1=f1,
        macro_f1_real=f1_real,
        sharpness=bootstrap.ratio(upper_power(made.measurements.rings, size), power),
        sharpness_training=float(upper_power(real.training.rings, size).mean() / power.mean()),
        rings=_ring_ratios(made.measurements, real.measurements),
        rings_training=_ring_ratios(real.training, real.measurements),
        copies=_copies(cases, made.measurements, real, bootstrap),
        seconds={**seconds, **image_seconds(seconds)},
        core_seconds={**core, **image_seconds(core)},
        in_place=in_place,
        in_place_mean=in_place_mean,
    )


def _measure_generated(
    evaluators: Evaluators,
    cases: Sequence[Case],
    reader: CaseReader,
    folder: GeneratedFolder,
    on_image: Callable[[int], None],
) -> _Generated:
    """Twins first; images with findings then take their places."""

    def seen(image_of: Callable[[Case], GreyImage]) -> tuple[Measurements, npt.NDArray[np.float64]]:
        similar = list[float]()

        def images() -> Iterator[tuple[GreyImage, Mask]]:
            for case in cases:
                pair, image = reader.read(case.row), image_of(case)
                similar.extend(ms_ssim([image], [pair.image]))
                yield image, pair.mask

        return measure(evaluators, images(), on_image, places=True), np.asarray(similar)

    (twins, similar_twin), (labelled, similar) = seen(folder.twin), seen(folder.labelled)
    return _Generated(labelled, twins, similar, similar_twin)


def _dice(measurements: Measurements, bootstrap: Bootstrap) -> dict[str, Estimate]:
    return {organ: bootstrap.mean(measurements.dice[:, at]) for at, organ in enumerate(ORGANS)}


def _distance(
    distance: Callable[[npt.NDArray[np.float32], npt.NDArray[np.float32]], float],
    made: Measurements,
    real: RealImages,
    bootstrap: Bootstrap,
) -> SetDistance:
    a, b, training = made.features, real.measurements.features, real.training.features
    size = min(len(b), len(training))
    random = np.random.default_rng(0)
    draws = [
        distance(training[random.permutation(len(training))[:size]], b[random.permutation(len(b))[:size]])
        for _ in range(REAL_DRAWS)
    ]
    return SetDistance(bootstrap.jackknife(lambda kept: distance(a[kept], b[kept])), spread(draws, size))


def _finding_figures(
    evaluators: Evaluators,
    cases: Sequence[Case],
    made: _Generated,
    real: Measurements,
    findings: Sequence[str],
    bootstrap: Bootstrap,
) -> tuple[dict[str, FindingFigures], Estimate, Estimate]:
    """Per finding that bundle and evaluators know; and macro-F1 over these, on made and on real images."""
    names = [name for name in findings if name in evaluators.findings]
    columns = [evaluators.findings.index(name) for name in names]
    labels = label_table([(frozenset(c.row.labels), frozenset(c.row.unknown)) for c in cases], names)
    hidden = [frozenset(case.unplaced) | frozenset(case.row.unknown) for case in cases]
    asked = label_table([(c.asked, h) for c, h in zip(cases, hidden, strict=True)], names)
    given = np.asarray([bool(case.findings) for case in cases])
    logits, twins, seen = (part.logits[:, columns] for part in (made.measurements, made.twins, real))
    per_finding = {
        name: finding_figures(
            FindingScores(logits[:, at], twins[:, at], seen[:, at], asked[:, at], labels[:, at], given),
            bootstrap,
        )
        for at, name in enumerate(names)
    }
    return per_finding, macro_f1(logits, asked, bootstrap), macro_f1(seen, labels, bootstrap)


def _ring_ratios(measurements: Measurements, real: Measurements) -> tuple[float, ...]:
    ratios = measurements.rings.mean(axis=0) / real.rings.mean(axis=0)
    assert len(ratios) == RINGS
    return tuple(float(ratio) for ratio in ratios)


def _copies(
    cases: Sequence[Case], made: Measurements, real: RealImages, bootstrap: Bootstrap
) -> dict[str, CopyFigures]:
    training, rows = real.training, real.training_rows
    patients = np.asarray([row.patient for row in rows], dtype=str)
    names = (tuple(case.name for case in cases), tuple(row.image for row in rows))
    a, b, c = (
        standardised(measurements.features, training.features)
        for measurements in (made, real.measurements, training)
    )
    return {
        "pixels": count_copies(
            made.thumbs, real.measurements.thumbs, training.thumbs, patients, bootstrap, names
        ),
        "features": count_copies(a, b, c, patients, bootstrap, names),
    }
