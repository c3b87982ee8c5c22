"""The table of `evaluate bundle`: what a bundle reaches, and what real images reach by the same measures."""

from __future__ import annotations

from typing import Final

from xreal_synth.evaluation.bundle import BundleFigures, SetDistance
from xreal_synth.evaluation.intervals import brief

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
    return [
        *(
            (
                f"Dice {organ.replace('_', ' ')}",
                brief(made),
                f"twin {brief(found.dice_twin[organ])}, real {brief(found.dice_real[organ])}",
            )
            for organ, made in found.dice.items()
        ),
        ("MS-SSIM", brief(found.ms_ssim), f"twin {brief(found.ms_ssim_twin)}"),
        _set_distance("kernel distance", found.kernel),
        _set_distance("Frechet distance", found.frechet),
        *(
            (f"AUC {name} ({one.positives} images)", brief(one.auc), f"real {brief(one.auc_real)}")
            for name, one in found.findings.items()
        ),
        ("macro-F1 of the findings", brief(found.macro_f1), f"real {brief(found.macro_f1_real)}"),
        *(
            (f"rises {name}", brief(one.rises), f"unasked {brief(one.rises_unasked)}")
            for name, one in found.findings.items()
        ),
        *_in_place(found),
        ("sharpness", brief(found.sharpness), f"training images {found.sharpness_training:.2f}"),
        *(
            (f"copies, by {metric}", brief(copies.made), f"real {brief(copies.real)}")
            for metric, copies in found.copies.items()
        ),
    ]


def _in_place(found: BundleFigures) -> list[Row]:
    if not found.in_place:
        return [("in place", "not measured", "the evaluators have no locator/ of the bundle's findings")]
    named = {f"{name} ({one.asked.n} images)": one for name, one in found.in_place.items()}
    if found.in_place_mean is not None:
        named["mean of those with real boxes"] = found.in_place_mean
    return [
        (f"in place {name}", brief(one.asked), f"twin {brief(one.twin)}, real {brief(one.real)}")
        for name, one in named.items()
    ]


def _set_distance(name: str, found: SetDistance) -> Row:
    times = f", {found.made.value / found.real.value:.1f} x" if found.real.ci_low > 0 else ""
    return name, f"{brief(found.made)}{times}", f"real {brief(found.real)}"
