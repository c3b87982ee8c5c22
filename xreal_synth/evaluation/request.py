"""A request to `evaluate`, made ready: bundle, model, cases and the folder that keeps their images.

The seconds of each stage of sampling are measured from outside the sampler and kept beside the images.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ValidationError

from xreal_synth.anatomy.regions import FEATHER_SHARE, feather, region_mask, shown_area
from xreal_synth.dataset.png import decode_png, encode_png
from xreal_synth.errors import DatasetError, RecipeError
from xreal_synth.evaluation.cases import Case, CaseReader, Report, read_cases
from xreal_synth.evaluation.kept import claim, json_bytes
from xreal_synth.findings import REGIONS
from xreal_synth.images.manifest import MANIFEST
from xreal_synth.models.describe import BundleInfo, describe, prompt_for, require_control
from xreal_synth.models.layers import Precision, resolve_precision
from xreal_synth.models.load import load_bundle
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.opening import parse_json
from xreal_synth.recipe.explain import problems_of
from xreal_synth.recipe.sampling import Sampling, resolve_sampling
from xreal_synth.recipe.yaml_text import Document
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.jobs import Edit, GroupJob, MemberJob
from xreal_synth.sampling.noise import NoiseKey, philox
from xreal_synth.seeds import Purpose
from xreal_synth.storage import LocalStore, Store, open_store, sha256_bytes
from xreal_synth.types import GreyImage, Role, SamplingSettings

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
        store, reader, info, split=request.split, count=request.count, seed=request.seed, most=request.most_findings
    )
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


STAGES: Final = ("controller", "encode", "stage A", "stage B", "decode")
_WATCHED: Final = {"denoise": "", "encode": "encode", "decode": "decode", "control": "controller", "hint": "controller"}
"""A model's calls and their stages; what is denoised is of the stage that was begun."""


class StageWatch:
    """A model that counts the seconds in each of its networks; whatever else is asked of it is the model's own.

    The noise x_T of `noise`, or the controller, begins stage A and the decoder ends it: what is denoised after
    that is stage B. `seconds` are spent in each stage so far: by the clock on the wall and, on a CPU, of all its cores
    together (with one thread, what a core of one's own would take).
    """

    def __init__(self, model: LoadedBundle) -> None:
        self._model = model
        self._stage = "stage A"
        clocks = ("wall", "core") if model.device.type == "cpu" else ("wall",)
        self.seconds = {clock: dict.fromkeys(STAGES, 0.0) for clock in clocks}

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._model, name)
        return partial(self._watched, name, call) if name in _WATCHED else call

    def noise(
        self, shape: tuple[int, ...], key: NoiseKey, purpose: Purpose, step: int, repeat: int
    ) -> npt.NDArray[np.float32]:
        """The noise of every dataset, for the sampler that is watched."""
        if purpose == "a.x_T":
            self._stage = "stage A"
        return philox(shape, key, purpose, step, repeat)

    def _watched(self, name: str, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        if name in ("control", "decode"):
            self._stage = "stage A" if name == "control" else "stage B"
        return self._timed(_WATCHED[name] or self._stage, lambda: call(*given, **named))

    def _timed(self, stage: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter(), time.process_time()
        result = call()
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        ended = time.perf_counter(), time.process_time()
        for spent, start, stop in zip(self.seconds.values(), began, ended, strict=False):
            spent[stage] += stop - start
        return result


VARIANT: Final = Role.variant.member()
SECONDS: Final = "seconds.json"


class GeneratedFolder:
    """Generated images by case: `images/NUMBER-h.png`, `-v0.png`, and `made/NUMBER.json` last: what they are.

    `images.json` states what made them; another identity in the same folder is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._store = LocalStore(folder)
        self.folder = folder
        claim(
            self._store, "images.json", identity, found="images made otherwise",
            wanted="images made with these settings",
            hint="give --images another folder, or the former settings again",
        )  # fmt: skip

    def has(self, case: Case) -> bool:
        """Whether the case's images are made; raises DatasetError if they were made with other boxes."""
        key = f"made/{case.index:06d}.json"
        if not self._store.exists(key):
            return False
        if self._store.read_bytes(key) != json_bytes(_request(case)):
            raise DatasetError(
                where=str(self.folder / key),
                found="images of the same row with other findings or boxes",
                wanted=f"what is asked for now: {json.dumps(_request(case))}",
                hint="give --images another folder: the data or the placement has changed",
            )
        return True

    def add(self, case: Case, images: Mapping[str, GreyImage]) -> None:
        """Keeps a case's images, and last the note that makes it done."""
        for member, image in images.items():
            self._store.replace(_image_key(case, member), encode_png(image))
        self._store.replace(f"made/{case.index:06d}.json", json_bytes(_request(case)))

    def twin(self, case: Case) -> GreyImage:
        """The healthy twin uint8 [H, W]; raises DatasetError if its file cannot be read."""
        return self._image(_image_key(case, Role.healthy))

    def labelled(self, case: Case) -> GreyImage:
        """The image with the case's findings; the twin where there are none. uint8 [H, W]."""
        return self._image(_image_key(case, VARIANT if case.findings else Role.healthy))

    def add_seconds(self, images: int, edits: int, watch: StageWatch) -> None:
        """Adds to the record of time spent."""
        record = self._time()
        record["images"] += images
        record["edits"] += edits
        for clock, spent in watch.seconds.items():
            for stage, seconds in spent.items():
                record[clock][stage] = record[clock].get(stage, 0.0) + seconds
        self._store.replace(SECONDS, json_bytes(record))

    def seconds(self, clock: Literal["wall", "core"] = "wall") -> dict[str, float]:
        """Seconds per image and stage over all images that were timed; stage B is per finding.

        `core` counts CPU seconds; it is empty on other devices. Both are empty before any image.
        """
        record = self._time()
        images, edits = record["images"], record["edits"]
        counts = {"stage B": max(edits, 1), "decode": images + edits, "encode": images + edits}
        return {stage: spent / counts.get(stage, images) for stage, spent in record[clock].items()}

    def _time(self) -> dict[str, Any]:
        none: dict[str, Any] = {"images": 0, "edits": 0, "wall": {}, "core": {}}
        if not self._store.exists(SECONDS):
            return none
        found: dict[str, Any] = parse_json(self._store.read_bytes(SECONDS))
        return found if found.keys() == none.keys() else none

    def _image(self, key: str) -> GreyImage:
        return decode_png(self._store.read_bytes(key), str(self.folder / key))


def image_seconds(per_stage: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a healthy image and of one with a finding (its twin included) from seconds per stage."""
    twin = sum(per_stage.get(stage, 0.0) for stage in ("controller", "encode", "stage A", "decode"))
    edit = sum(per_stage.get(stage, 0.0) for stage in ("encode", "stage B", "decode"))
    return {"healthy image": twin, "image with a finding": twin + edit} if per_stage else {}


def _request(case: Case) -> dict[str, Any]:
    return {"image": case.name, "findings": [asdict(finding) for finding in case.findings]}


def _image_key(case: Case, member: str) -> str:
    return f"images/{case.index:06d}-{member}.png"


def images_for(prepared: PreparedRequest, folder: Path, report: Report) -> GeneratedFolder:
    """The folder with all the images of the request; networks are loaded only if one is missing.

    Every case has its healthy twin, and an image with its findings if it has any. Raises DatasetError if the folder
    holds images made otherwise.
    """
    images = GeneratedFolder(folder, prepared.identity())
    missing = [case for case in prepared.cases if not images.has(case)]
    total, made = (sum(1 + bool(case.findings) for case in cases) for cases in (prepared.cases, missing))
    report("making images", total - made, total)
    if not missing:
        return images
    settings, micro_batch = prepared.settings, prepared.request.micro_batch
    model = load_bundle(prepared.info, prepared.device, prepared.precision, settings.control)
    for start in range(0, len(missing), _CHUNK * micro_batch):
        chunk = missing[start : start + _CHUNK * micro_batch]
        watch = StageWatch(model)
        groups = sample_groups(
            cast(Any, watch), settings, _jobs(prepared, chunk), micro_batch=micro_batch, noise=watch.noise,
            on_batch=lambda done: report("making images", done, total),
        )  # fmt: skip
        for case in chunk:
            shown = next(groups).images
            if settings.mode == "joint" and case.findings:
                shown = {**shown, **next(groups).images}
            images.add(case, shown)
        images.add_seconds(len(chunk), sum(len(case.findings) for case in chunk), watch)
    return images


def _jobs(prepared: PreparedRequest, cases: Sequence[Case]) -> Iterator[GroupJob]:
    """A group a case; in mode joint, which makes no twins, its healthy image is a group before it."""
    info, joint = prepared.info, prepared.settings.mode == "joint"
    for case in cases:
        mask, edits = prepared.reader.read(case.row).mask, []
        for finding in case.findings:
            region = region_mask(finding, mask)
            alpha = feather(region, FEATHER_SHARE * info.image_size)
            held, area = REGIONS[finding.region].held, shown_area(finding, region)
            edits.append(Edit(region, prompt_for(info, (finding.name,)), alpha, finding.name, area, held))
        names = [finding.name for finding in case.findings]
        prompt = prompt_for(info, names) if names and joint and info.region_maps else ""
        made = (MemberJob(VARIANT, tuple(edits), prompt),) if edits else ()
        job = GroupJob(prepared.request.seed, case.index, 0, mask, info.healthy_prompt, made)
        if joint and made:
            yield replace(job, members=())
        yield job
