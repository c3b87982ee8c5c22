"""Images made for cases, kept in a folder with the seconds of each stage of sampling, measured from outside the
sampler."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from xreal_synth.dataset.png import decode_png, encode_png
from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.cases import Case
from xreal_synth.evaluation.kept import claim, json_bytes
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.opening import parse_json
from xreal_synth.sampling.jobs import GroupImages
from xreal_synth.sampling.noise import NoiseKey, philox
from xreal_synth.seeds import Purpose
from xreal_synth.storage import LocalStore
from xreal_synth.types import GreyImage, Role

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
IDENTITY: Final = "images.json"
SECONDS: Final = "seconds.json"


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
