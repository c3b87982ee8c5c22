"""A request to `evaluate`, made ready: bundle, model, cases and the folder that keeps their images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from xreal_synth.errors import Problem, RecipeError
from xreal_synth.evaluation.bundle import BundleFigures, RealImages, measure_bundle, measure_real
from xreal_synth.evaluation.cases import Case, CaseReader, read_cases, split_rows
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.generated_images import GeneratedFolder, Maker, generate_images, members
from xreal_synth.images.manifest import MANIFEST
from xreal_synth.models.describe import BundleInfo, describe, require_control
from xreal_synth.models.layers import Precision, resolve_precision
from xreal_synth.models.load import load_bundle
from xreal_synth.recipe.explain import problems_of
from xreal_synth.recipe.kinds import near
from xreal_synth.recipe.resolve import resolve_sampling
from xreal_synth.recipe.sampling import Sampling
from xreal_synth.storage import Store, open_store, sha256_bytes
from xreal_synth.types import SamplingSettings

Report = Callable[[str, int, int], None]
"""What is being done, images done now, images in all."""


@dataclass(frozen=True, slots=True)
class Request:
    """Images of some data, to be made again with a bundle.

    `sampling` holds keys of a recipe's `sampling`; `count` None is all of the split.
    """

    bundle: str
    data: str
    split: str
    count: int | None
    seed: int
    sampling: Mapping[str, Any]
    precision: Literal["auto", "fp32", "bf16"]
    micro_batch: int
    most_findings: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A request whose data and bundle were found; no network is in memory yet."""

    request: Request
    info: BundleInfo
    settings: SamplingSettings
    store: Store
    reader: CaseReader
    cases: list[Case]
    faulty: list[str]
    device: str
    precision: Precision

    def identity(self) -> dict[str, Any]:
        """What decides the images' bytes, but for the versions of the libraries."""
        return {
            "bundle": self.info.name,
            "bundle_hash": self.info.content_hash,
            "manifest_sha256": sha256_bytes(self.store.read_bytes(MANIFEST)),
            "split": self.request.split,
            "seed": self.request.seed,
            "most_findings": self.request.most_findings,
            "sampling": asdict(self.settings),
            "device": self.device,
            "precision": self.precision,
            "micro_batch": self.request.micro_batch,
        }

    def load(self) -> Maker:
        """The bundle's networks in memory."""
        model = load_bundle(self.info, self.device, self.precision, self.settings.control)
        return Maker(self.info, model, self.settings, self.request.seed, self.request.micro_batch)


def prepare(request: Request) -> PreparedRequest:
    """Finds bundle and data and reads the cases; raises one of our errors before any network is loaded."""
    info = describe(request.bundle)
    settings = sampling_settings(request.sampling, info)
    require_control(info, settings.control)
    store = open_store(request.data)
    reader = CaseReader(store, info.image_size)
    cases, faulty = read_cases(
        store, reader, info, split=request.split, count=request.count, seed=request.seed,
        most_findings=request.most_findings,
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = resolve_precision(request.precision, device)
    return PreparedRequest(request, info, settings, store, reader, cases, faulty, device, precision)


def sampling_settings(asked: Mapping[str, Any], info: BundleInfo) -> SamplingSettings:
    """Keys of a recipe's `sampling`, filled in from the bundle; raises RecipeError for wrong ones."""
    known = list(Sampling.model_fields)
    if strange := [key for key in asked if key not in known]:
        raise RecipeError(
            "options",
            [
                Problem(f"sampling.{key}", "unknown key", f"one of: {', '.join(known)}", near(key, known))
                for key in strange
            ],
        )
    try:
        return resolve_sampling(Sampling.model_validate(dict(asked)), info.defaults, source="options")
    except ValidationError as error:
        raise RecipeError("options", problems_of(error, {}, set(), Sampling)) from None


def images_for(prepared: PreparedRequest, folder: Path, report: Report) -> GeneratedFolder:
    """The folder with all the images of the request; networks are loaded only if one is missing.

    Raises DatasetError if it holds images made otherwise.
    """
    images = GeneratedFolder(folder, prepared.identity())
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
        evaluators, prepared.cases, training, prepared.reader,
        lambda done: report("looking at real images", done, total),
    )  # fmt: skip


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
