"""Images made for cases, kept in a folder with the seconds of each stage of sampling, measured from outside the
sampler."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xreal_synth.anatomy.regions import FEATHER_SHARE, feather, region_mask, shown_area
from xreal_synth.dataset.png import decode_png, encode_png
from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.cases import Case, CaseReader
from xreal_synth.evaluation.kept import claim, json_bytes
from xreal_synth.findings import REGIONS
from xreal_synth.models.describe import BundleInfo, prompt_for
from xreal_synth.models.load import LoadedBundle
from xreal_synth.opening import parse_json
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.jobs import Edit, GroupImages, GroupJob, MemberJob
from xreal_synth.sampling.noise import NoiseKey, philox
from xreal_synth.seeds import Purpose
from xreal_synth.storage import LocalStore
from xreal_synth.types import GreyImage, Mask, Role, SamplingSettings

_Result = TypeVar("_Result")


class StageWatch:
    """A model that counts the seconds in each of its networks; whatever else is asked of it is the model's own.

    The noise x_T of `noise`, or the controller, begins stage A and the decoder ends it: what is denoised after
    that is stage B.
    """

    def __init__(self, model: LoadedBundle) -> None:
        self._model = model
        self._seconds = {"controller": 0.0, "encode": 0.0, "stage A": 0.0, "stage B": 0.0, "decode": 0.0}
        self._core_seconds = dict(self._seconds)
        self._stage = "stage A"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @property
    def seconds(self) -> dict[str, float]:
        """Spent in each stage so far, by the clock on the wall."""
        return dict(self._seconds)

    @property
    def core_seconds(self) -> dict[str, float]:
        """The same in seconds of all CPU cores together: with one thread, what a core of one's own would take.

        Empty on other devices.
        """
        return dict(self._core_seconds) if self._model.device.type == "cpu" else {}

    def noise(
        self, shape: tuple[int, ...], key: NoiseKey, purpose: Purpose, step: int, repeat: int
    ) -> npt.NDArray[np.float32]:
        """The noise of every dataset, for the sampler that is watched."""
        if purpose == "a.x_T":
            self._stage = "stage A"
        return philox(shape, key, purpose, step, repeat)

    def denoise(self, *given: Any, **named: Any) -> Tensor:
        return self._timed(self._stage, lambda: self._model.denoise(*given, **named))

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return self._timed("encode", lambda: self._model.encode(x_BCHW))

    def decode(self, z_BChw: Tensor, decoder_noise: Tensor | None = None) -> Tensor:
        self._stage = "stage B"
        return self._timed("decode", lambda: self._model.decode(z_BChw, decoder_noise))

    def control(self, label_map_BHW: Tensor) -> Tensor:
        self._stage = "stage A"
        return self._timed("controller", lambda: self._model.control(label_map_BHW))

    def hint(self, label_map_BHW: Tensor) -> Tensor:
        return self._timed("controller", lambda: self._model.hint(label_map_BHW))

    def _timed(self, stage: str, call: Callable[[], _Result]) -> _Result:
        began, core_began = time.perf_counter(), time.process_time()
        result = call()
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        self._seconds[stage] += time.perf_counter() - began
        self._core_seconds[stage] += time.process_time() - core_began
        return result


VARIANT: Final = Role.variant.member()
IDENTITY: Final = "images.json"
SECONDS: Final = "seconds.json"
_CHUNK: Final = 8
"""Micro-batches between two entries in the record of seconds."""


class GeneratedFolder:
    """Generated images by case: `images/NUMBER-h.png`, `-v0.png`, and `made/NUMBER.json` last: what they are.

    `images.json` states what made them; another identity in the same folder is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._store = LocalStore(folder)
        self.folder = folder
        claim(
            self._store, IDENTITY, identity, found="images made otherwise",
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

    def add(self, case: Case, images: GroupImages) -> None:
        """Keeps a case's images, and last the note that makes it done."""
        for member, image in images.images.items():
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
        for clock, spent in (("wall", watch.seconds), ("core", watch.core_seconds)):
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


@dataclass(frozen=True, slots=True)
class Maker:
    """Bundle, model and settings that images are made with."""

    info: BundleInfo
    model: LoadedBundle
    settings: SamplingSettings
    seed: int
    micro_batch: int


def generate_images(
    maker: Maker,
    cases: Sequence[Case],
    reader: CaseReader,
    folder: GeneratedFolder,
    on_images: Callable[[int], None] = lambda images: None,
) -> None:
    """Makes images that the folder does not have yet: every case's twin, and the image with its findings."""
    size = _CHUNK * maker.micro_batch
    for start in range(0, len(cases), size):
        chunk = cases[start : start + size]
        watch = StageWatch(maker.model)
        made = sample_groups(
            cast(Any, watch), maker.settings, _jobs(maker, chunk, reader), micro_batch=maker.micro_batch,
            noise=watch.noise, on_batch=on_images,
        )  # fmt: skip
        for case in chunk:
            images = next(made)
            if maker.settings.mode == "joint" and case.findings:
                images = GroupImages(images.index, images.images | next(made).images)
            folder.add(case, images)
        folder.add_seconds(len(chunk), sum(len(case.findings) for case in chunk), watch)


def members(case: Case) -> int:
    """How many images a case has made."""
    return 1 + bool(case.findings)


def image_seconds(per_stage: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a healthy image and of one with a finding (its twin included) from seconds per stage."""
    twin = sum(per_stage.get(stage, 0.0) for stage in ("controller", "encode", "stage A", "decode"))
    edit = sum(per_stage.get(stage, 0.0) for stage in ("encode", "stage B", "decode"))
    return {"healthy image": twin, "image with a finding": twin + edit} if per_stage else {}


def _jobs(maker: Maker, cases: Sequence[Case], reader: CaseReader) -> Iterator[GroupJob]:
    """A group a case; in mode joint, which makes no twins, its healthy image is a group before it."""
    for case in cases:
        job = _job(maker, case, reader.read(case.row).mask)
        if maker.settings.mode == "joint" and job.members:
            yield replace(job, members=())
        yield job


def _job(maker: Maker, case: Case, mask: Mask) -> GroupJob:
    info = maker.info
    edits = []
    for finding in case.findings:
        region = region_mask(finding, mask)
        alpha = feather(region, FEATHER_SHARE * info.image_size)
        held, area = REGIONS[finding.region].held, shown_area(finding, region)
        edits.append(Edit(region, prompt_for(info, (finding.name,)), alpha, finding.name, area, held))
    names = [finding.name for finding in case.findings]
    prompt = prompt_for(info, names) if names and maker.settings.mode == "joint" and info.region_maps else ""
    made = (MemberJob(VARIANT, tuple(edits), prompt),) if edits else ()
    return GroupJob(maker.seed, case.index, 0, mask, info.healthy_prompt, made)


def _request(case: Case) -> dict[str, Any]:
    return {"image": case.name, "findings": [asdict(finding) for finding in case.findings]}


def _image_key(case: Case, member: str) -> str:
    return f"images/{case.index:06d}-{member}.png"
