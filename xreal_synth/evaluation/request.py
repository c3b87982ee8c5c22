"""A request to `evaluate`, made ready: bundle, model, cases and the folder that keeps their images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch
from pydantic import BaseModel, ValidationError

from xreal_synth.anatomy.regions import FEATHER_SHARE, feather, region_mask, shown_area
from xreal_synth.errors import RecipeError
from xreal_synth.evaluation.cases import Case, CaseReader, Report, read_cases
from xreal_synth.evaluation.generated_images import VARIANT, GeneratedFolder, StageWatch
from xreal_synth.findings import REGIONS
from xreal_synth.images.manifest import MANIFEST
from xreal_synth.models.describe import BundleInfo, describe, prompt_for, require_control
from xreal_synth.models.layers import Precision, resolve_precision
from xreal_synth.models.load import load_bundle
from xreal_synth.recipe.explain import problems_of
from xreal_synth.recipe.sampling import Sampling, resolve_sampling
from xreal_synth.recipe.yaml_text import Document
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.jobs import Edit, GroupImages, GroupJob, MemberJob
from xreal_synth.storage import Store, open_store, sha256_bytes
from xreal_synth.types import SamplingSettings

_CHUNK: Final = 8
"""Micro-batches between two entries in the record of seconds."""


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


class _Options(BaseModel):
    """`sampling` at its place in a recipe, so that errors name it as there."""

    sampling: Sampling


def sampling_settings(asked: Mapping[str, Any], info: BundleInfo) -> SamplingSettings:
    """Keys of a recipe's `sampling`, filled in from the bundle; raises RecipeError for wrong ones."""
    try:
        options = _Options.model_validate({"sampling": dict(asked)})
        return resolve_sampling(options.sampling, info.defaults, source="options")
    except ValidationError as error:
        raise RecipeError("options", problems_of(error, Document())) from None


def images_for(prepared: PreparedRequest, folder: Path, report: Report) -> GeneratedFolder:
    """The folder with all the images of the request; networks are loaded only if one is missing.

    Every case has its healthy twin, and an image with its findings if it has any. Raises DatasetError if the folder
    holds images made otherwise.
    """
    images = GeneratedFolder(folder, prepared.identity())
    missing = [case for case in prepared.cases if not images.has(case)]
    total, made = (sum(1 + bool(case.findings) for case in cases) for cases in (prepared.cases, missing))
    report("making images", total - made, total)
    if missing:
        _make(prepared, missing, images, lambda done: report("making images", done, total))
    return images


def _make(
    prepared: PreparedRequest, cases: Sequence[Case], folder: GeneratedFolder, on_images: Callable[[int], None]
) -> None:
    settings, micro_batch = prepared.settings, prepared.request.micro_batch
    model = load_bundle(prepared.info, prepared.device, prepared.precision, settings.control)
    for start in range(0, len(cases), _CHUNK * micro_batch):
        chunk = cases[start : start + _CHUNK * micro_batch]
        watch = StageWatch(model)
        made = sample_groups(
            cast(Any, watch), settings, _jobs(prepared, chunk), micro_batch=micro_batch, noise=watch.noise,
            on_batch=on_images,
        )  # fmt: skip
        for case in chunk:
            images = next(made)
            if settings.mode == "joint" and case.findings:
                images = GroupImages(images.index, images.images | next(made).images)
            folder.add(case, images)
        folder.add_seconds(len(chunk), sum(len(case.findings) for case in chunk), watch)


def _jobs(prepared: PreparedRequest, cases: Sequence[Case]) -> Iterator[GroupJob]:
    """A group a case; in mode joint, which makes no twins, its healthy image is a group before it."""
    joint = prepared.settings.mode == "joint"
    for case in cases:
        job = _job(prepared, case, joint=joint)
        if joint and job.members:
            yield replace(job, members=())
        yield job


def _job(prepared: PreparedRequest, case: Case, *, joint: bool) -> GroupJob:
    info, mask, edits = prepared.info, prepared.reader.read(case.row).mask, []
    for finding in case.findings:
        region = region_mask(finding, mask)
        alpha = feather(region, FEATHER_SHARE * info.image_size)
        held, area = REGIONS[finding.region].held, shown_area(finding, region)
        edits.append(Edit(region, prompt_for(info, (finding.name,)), alpha, finding.name, area, held))
    names = [finding.name for finding in case.findings]
    prompt = prompt_for(info, names) if names and joint and info.region_maps else ""
    made = (MemberJob(VARIANT, tuple(edits), prompt),) if edits else ()
    return GroupJob(prepared.request.seed, case.index, 0, mask, info.healthy_prompt, made)
