"""Everything that is measured of a bundle on a split of real images: the figures of `evaluate bundle`, and their table.

For each real image an image is made from its own organ mask with all of its findings that the bundle knows, one
after another; images without finding give their healthy twin. "Made" below is this image. The evaluator networks had
no part in training the bundle's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from xreal_synth.errors import BundleError, TrainingError
from xreal_synth.evaluation.cases import Case, Report, check_apart, split_rows
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.findings import FindingFigures, PlaceFigures, finding_figures, place_figures
from xreal_synth.evaluation.intervals import Bootstrap, Estimate, brief, spread
from xreal_synth.evaluation.measurements import GivenImage, ImageSet, measure, ms_ssim, real_images, upper_power
from xreal_synth.evaluation.privacy import CopyFigures, count_copies
from xreal_synth.evaluation.request import GeneratedFolder, PreparedRequest, image_seconds
from xreal_synth.evaluation.set_distances import Features, frechet, kernel
from xreal_synth.findings import ORGANS
from xreal_synth.types import GreyImage

REAL_DRAWS: Final = 40
"""Random draws of training images for the distance between real images."""

Distance = Callable[[Features, Features], float]


@dataclass(frozen=True, slots=True, eq=False)
class RealImages:
    """What was seen of the real images: the cases' (with masks), and training images."""

    own: ImageSet
    training: ImageSet


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


def measure_real(prepared: PreparedRequest, evaluators: Evaluators, training_split: str, report: Report) -> RealImages:
    """Looks at the cases' real images and at training images; faulty training images are left out.

    Raises TrainingError if no training image can be used or one is of a patient of the cases.
    """
    training = split_rows(prepared.store, training_split)
    check_apart(
        (row.patient for row in training),
        (case.row.patient for case in prepared.cases),
        "the training images and in the images to judge by",
    )
    reader, rows = prepared.reader, [case.row for case in prepared.cases]
    own = measure(evaluators, real_images(reader, rows, "real images", report, masks=True), places=True)
    seen = measure(evaluators, real_images(reader, training, "training images", report))
    if not len(seen):
        raise TrainingError(found="no usable training image", wanted="at least one", hint="see the manifest")
    return RealImages(own, seen)


def measure_bundle(
    prepared: PreparedRequest, evaluators: Evaluators, real: RealImages, folder: GeneratedFolder, report: Report
) -> BundleFigures:
    """Measures the request's images, which are made; raises BundleError for evaluators of other findings."""
    cases, size, findings = prepared.cases, prepared.reader.size, tuple(prepared.info.prompts)
    if not set(findings) & set(evaluators.findings):
        raise BundleError(
            found=f"evaluators of {', '.join(evaluators.findings)}",
            wanted=f"evaluators of the bundle's findings: {', '.join(findings)}",
            hint="train evaluators on these findings and give them with --evaluators",
        )
    twins, made = (
        measure(evaluators, _generated(prepared, image_of, report), places=True)
        for image_of in (folder.twin, folder.labelled)
    )
    bootstrap = Bootstrap([case.row.patient for case in cases])
    power = upper_power(real.own.rings, size)
    per_finding, f1, f1_real = finding_figures(
        cases, findings, evaluators.findings, (made.logits, twins.logits, real.own.logits), bootstrap
    )
    seconds, core = folder.seconds("wall"), folder.seconds("core")
    in_place, in_place_mean = place_figures(
        cases, findings, evaluators.placed_findings, (made.peaks, twins.peaks, real.own.peaks), size, bootstrap
    )
    return BundleFigures(
        images=len(cases),
        with_finding=sum(bool(case.findings) for case in cases),
        training_images=len(real.training),
        unplaced=sum(len(case.unplaced) for case in cases),
        faulty=len(prepared.faulty),
        dice=_dice(made, bootstrap),
        dice_twin=_dice(twins, bootstrap),
        dice_real=_dice(real.own, bootstrap),
        ms_ssim=bootstrap.mean(made.paired),
        ms_ssim_twin=bootstrap.mean(twins.paired),
        kernel=_distance(kernel, made, real, bootstrap),
        frechet=_distance(frechet, made, real, bootstrap),
        findings=per_finding,
        macro_f1=f1,
        macro_f1_real=f1_real,
        sharpness=bootstrap.ratio(upper_power(made.rings, size), power),
        sharpness_training=float(upper_power(real.training.rings, size).mean() / power.mean()),
        rings=_ring_ratios(made, real.own),
        rings_training=_ring_ratios(real.training, real.own),
        copies=count_copies([case.name for case in cases], made, real.own, real.training, bootstrap),
        seconds={**seconds, **image_seconds(seconds)},
        core_seconds={**core, **image_seconds(core)},
        in_place=in_place,
        in_place_mean=in_place_mean,
    )


def _generated(
    prepared: PreparedRequest, image_of: Callable[[Case], GreyImage], report: Report
) -> Iterator[GivenImage]:
    for case in prepared.cases:
        report("looking at generated images", 1, 2 * len(prepared.cases))
        pair, image = prepared.reader.read(case.row), image_of(case)
        similar = ms_ssim(image, pair.image)
        yield GivenImage(image, pair.mask, case.row.patient, paired=similar)


def _dice(images: ImageSet, bootstrap: Bootstrap) -> dict[str, Estimate]:
    return {organ: bootstrap.mean(images.dice[:, at]) for at, organ in enumerate(ORGANS)}


def _distance(distance: Distance, made: ImageSet, real: RealImages, bootstrap: Bootstrap) -> SetDistance:
    a, b, training = made.features, real.own.features, real.training.features
    size = min(len(b), len(training))
    random = np.random.default_rng(0)
    draws = [
        distance(training[random.permutation(len(training))[:size]], b[random.permutation(len(b))[:size]])
        for _ in range(REAL_DRAWS)
    ]
    return SetDistance(bootstrap.jackknife(lambda kept: distance(a[kept], b[kept])), spread(draws, size))


def _ring_ratios(images: ImageSet, real: ImageSet) -> tuple[float, ...]:
    return tuple((images.rings.mean(axis=0) / real.rings.mean(axis=0)).tolist())


NOTES: Final = (
    "Generated images show all findings of their image, one after another; a twin shows none. `real` is what real "
    "images reach by the same measure.",
    "Dice: requested mask against the evaluator segmenter's. MS-SSIM: to the real image of the same mask.",
    "Kernel distance (KID's estimator) and Frechet distance are in the evaluator classifier's features, made "
    "against real images; `real`: as many training images against the same real images.",
    "AUC and macro-F1 (at one half): the evaluator classifier's; images without the finding are the negatives. "
    "Rises: share of images that score above their own twin for a finding asked for, or not asked for.",
    "In place: share of images with a finding whose map of it, by the evaluator locator, peaks inside a box of it; "
    "`twin`: of their healthy twins, in the same boxes; `real`: of real images, in radiologists' boxes.",
    "Sharpness: power over real images in the upper half of the frequencies. Copies: images nearer to a training "
    "image than 99.9% of training images are to their nearest neighbour of another patient.",
    "Intervals: 95%, bootstrap by patient; of distances a jackknife by patient, and random draws for `real`.",
)


Row = tuple[str, str, str]
"""A figure's name, what the generated images reach, and what real images, or the healthy twins, reach."""


def table_of_figures(found: BundleFigures) -> list[Row]:
    """All rows, each estimate as `brief` writes it."""
    rows = []
    for organ, made in found.dice.items():
        twin, real = brief(found.dice_twin[organ]), brief(found.dice_real[organ])
        rows.append((f"Dice {organ.replace('_', ' ')}", brief(made), f"twin {twin}, real {real}"))
    rows.append(("MS-SSIM", brief(found.ms_ssim), f"twin {brief(found.ms_ssim_twin)}"))
    for name, apart in (("kernel distance", found.kernel), ("Frechet distance", found.frechet)):
        times = f", {apart.made.value / apart.real.value:.1f} x" if apart.real.ci_low > 0 else ""
        rows.append((name, f"{brief(apart.made)}{times}", f"real {brief(apart.real)}"))
    for name, one in found.findings.items():
        rows.append((f"AUC {name} ({one.positives} images)", brief(one.auc), f"real {brief(one.auc_real)}"))
    rows.append(("macro-F1 of the findings", brief(found.macro_f1), f"real {brief(found.macro_f1_real)}"))
    for name, one in found.findings.items():
        rows.append((f"rises {name}", brief(one.rises), f"unasked {brief(one.rises_unasked)}"))
    places = {f"{name} ({place.asked.n} images)": place for name, place in found.in_place.items()}
    if found.in_place_mean is not None:
        places["mean of those with real boxes"] = found.in_place_mean
    for name, place in places.items():
        beside = f"twin {brief(place.twin)}, real {brief(place.real)}"
        rows.append((f"in place {name}", brief(place.asked), beside))
    if not places:
        rows.append(("in place", "not measured", "the evaluators have no locator/ of the bundle's findings"))
    rows.append(("sharpness", brief(found.sharpness), f"training images {found.sharpness_training:.2f}"))
    for name, copies in found.copies.items():
        rows.append((f"copies, by {name}", brief(copies.made), f"real {brief(copies.real)}"))
    return rows
