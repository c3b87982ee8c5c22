"""One bundle evaluated from data to figures; what is made or measured is told image by image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xreal_synth.evaluation.bundle import BundleFigures, RealImages, measure_bundle, measure_real
from xreal_synth.evaluation.cases import split_rows
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.generated_images import GeneratedFolder, generate_images, members
from xreal_synth.evaluation.request import PreparedRequest

Report = Callable[[str, int, int], None]
"""What is being done, images done now, images in all."""


def images_for(prepared: PreparedRequest, folder: Path, report: Report) -> GeneratedFolder:
    """The folder with all the images of the request; networks are loaded only if one is missing."""
    images = prepared.open_folder(folder)
    total = sum(members(case) for case in prepared.cases)
    missing = [case for case in prepared.cases if not images.has(case)]
    report("making images", total - sum(members(case) for case in missing), total)
    if missing:
        generate_images(
            prepared.load(),
            missing,
            prepared.reader,
            images,
            lambda done: report("making images", done, total),
        )
    return images


def real_images(
    prepared: PreparedRequest, evaluators: Evaluators, training_split: str, report: Report
) -> RealImages:
    """What the evaluators see of the split's images and of the training images."""
    training = split_rows(prepared.store, training_split)
    total = len(prepared.cases) + len(training)
    return measure_real(
        evaluators,
        prepared.cases,
        training,
        prepared.reader,
        lambda done: report("looking at real images", done, total),
    )


def figures_for(
    prepared: PreparedRequest,
    evaluators: Evaluators,
    real: RealImages,
    images: GeneratedFolder,
    report: Report,
) -> BundleFigures:
    """The figures of images that are made."""
    total = 2 * len(prepared.cases)
    return measure_bundle(
        evaluators, prepared.cases, len(prepared.faulty), prepared.reader, images, real, tuple(prepared.info.prompts),
        lambda done: report("looking at generated images", done, total),
    )  # fmt: skip
