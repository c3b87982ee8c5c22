"""Films made from cases, once: a folder keeps them, so that figures can be redone without sampling."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from PIL import Image

from xreal_synth.anatomy.regions import FEATHER_SHARE, feather, region_mask, shown_area
from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.cases import Case, CaseReader
from xreal_synth.evaluation.stage_watch import StageWatch
from xreal_synth.models.describe import BundleInfo, prompt_for
from xreal_synth.models.load import LoadedBundle
from xreal_synth.opening import UnreadableError, open_image, parse_json
from xreal_synth.sampling.groups import TWIN, sample_groups
from xreal_synth.sampling.jobs import Edit, GroupFilms, GroupJob, MemberJob
from xreal_synth.storage import LocalStore
from xreal_synth.types import Film, Mask, SamplingSettings

VARIANT: Final = "v0"
IDENTITY: Final = "films.json"
SECONDS: Final = "seconds.json"
_CHUNK: Final = 8
"""Micro-batches between two entries in the record of seconds."""


class FilmFolder:
    """Made films by case: `films/NUMBER-h.png`, `-v0.png`, and `made/NUMBER.json` last, which says what they are.

    `films.json` states what made them; another identity in the same folder is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._store = LocalStore(folder)
        self.folder = folder
        record = json.loads(json.dumps(identity))
        if not self._store.put_if_absent(IDENTITY, _text(record)):
            self._check_identity(record)

    def has(self, case: Case) -> bool:
        """Whether the case's films are made; raises DatasetError if they were made with other boxes."""
        key = f"made/{case.index:06d}.json"
        if not self._store.exists(key):
            return False
        if self._store.read_bytes(key) != _text(_request(case)):
            raise DatasetError(
                where=str(self.folder / key),
                found="films of the same row with other findings or boxes",
                wanted=f"what is asked for now: {json.dumps(_request(case))}",
                mend="give --films another folder: the data or the placement has changed",
            )
        return True

    def add(self, case: Case, films: GroupFilms) -> None:
        for member, film in films.films.items():
            self._store.replace(_film_key(case, member), _png(film))
        self._store.replace(f"made/{case.index:06d}.json", _text(_request(case)))

    def twin(self, case: Case) -> Film:
        """The healthy twin uint8 [H, W]; raises DatasetError if its file cannot be read."""
        return self._film(_film_key(case, TWIN))

    def labelled(self, case: Case) -> Film:
        """The film with the case's findings; the twin where there are none."""
        return self._film(_film_key(case, VARIANT if case.findings else TWIN))

    def add_seconds(self, films: int, edits: int, watch: StageWatch) -> None:
        """Adds to the record of time spent."""
        record = self._time()
        record["films"] += films
        record["edits"] += edits
        for clock, spent in (("wall", watch.seconds), ("core", watch.core_seconds)):
            for stage, seconds in spent.items():
                record[clock][stage] = record[clock].get(stage, 0.0) + seconds
        self._store.replace(SECONDS, _text(record))

    def seconds(self, clock: Literal["wall", "core"] = "wall") -> dict[str, float]:
        """Seconds per film and stage over all films that were timed; stage B is per finding.

        `core` counts CPU seconds; it is empty on other devices. Both are empty before any film.
        """
        record = self._time()
        films, edits = record["films"], record["edits"]
        counts = {"stage B": max(edits, 1), "decode": films + edits, "encode": films + edits}
        return {stage: spent / counts.get(stage, films) for stage, spent in record[clock].items()}

    def _time(self) -> dict[str, Any]:
        none: dict[str, Any] = {"films": 0, "edits": 0, "wall": {}, "core": {}}
        if not self._store.exists(SECONDS):
            return none
        found: dict[str, Any] = parse_json(self._store.read_bytes(SECONDS))
        return found if found.keys() == none.keys() else none

    def _check_identity(self, now: dict[str, Any]) -> None:
        try:
            former = parse_json(self._store.read_bytes(IDENTITY))
            other = [
                f"{key} {former.get(key)!r}, now {now[key]!r}" for key in now if former.get(key) != now[key]
            ]
        except (ValueError, AttributeError) as error:
            other = [f"{IDENTITY} cannot be read: {error}"]
        if other:
            raise DatasetError(
                where=str(self.folder),
                found="films made otherwise: " + "; ".join(other),
                wanted="films made with these settings",
                mend="give --films another folder, or the former settings again",
            )

    def _film(self, key: str) -> Film:
        try:
            with open_image(self._store.read_bytes(key)) as image:
                return np.asarray(image.convert("L"))
        except UnreadableError as error:
            raise DatasetError(
                where=str(self.folder / key),
                found=f"cannot be read: {error}",
                wanted="a film that was made here",
                mend="give --films another folder",
            ) from error


@dataclass(frozen=True, slots=True)
class Maker:
    """What films are made with."""

    info: BundleInfo
    model: LoadedBundle
    settings: SamplingSettings
    seed: int
    micro_batch: int


def make_films(
    maker: Maker,
    cases: Sequence[Case],
    reader: CaseReader,
    folder: FilmFolder,
    on_films: Callable[[int], None] = lambda films: None,
) -> None:
    """Makes the films that the folder does not have yet: every case's twin, and the film with its findings."""
    todo = []
    for case in cases:
        if folder.has(case):
            on_films(members(case))
        else:
            todo.append(case)
    size = _CHUNK * maker.micro_batch
    for start in range(0, len(todo), size):
        chunk = todo[start : start + size]
        watch = StageWatch(maker.model)
        made = sample_groups(
            watch, maker.settings, _jobs(maker, chunk, reader), micro_batch=maker.micro_batch,
            noise=watch.noise, on_batch=on_films,
        )  # fmt: skip
        for case in chunk:
            films = next(made)
            if maker.settings.mode == "joint" and case.findings:
                films = GroupFilms(films.index, films.films | next(made).films)
            folder.add(case, films)
        folder.add_seconds(len(chunk), sum(len(case.findings) for case in chunk), watch)


def members(case: Case) -> int:
    """How many films a case has made."""
    return 1 + bool(case.findings)


def film_seconds(per_stage: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a healthy film and of one with a finding (its twin included) from seconds per stage."""
    twin = sum(per_stage.get(stage, 0.0) for stage in ("controller", "encode", "stage A", "decode"))
    edit = sum(per_stage.get(stage, 0.0) for stage in ("encode", "stage B", "decode"))
    return {"healthy film": twin, "film with a finding": twin + edit} if per_stage else {}


def _jobs(maker: Maker, cases: Sequence[Case], reader: CaseReader) -> Iterator[GroupJob]:
    """A group a case; in mode joint, which makes no twins, its healthy film is a group before it."""
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
        held, area = finding.region == "heart", shown_area(finding, region)
        edits.append(Edit(region, prompt_for(info, (finding.name,)), alpha, finding.name, area, held))
    names = [finding.name for finding in case.findings]
    prompt = prompt_for(info, names) if names and maker.settings.mode == "joint" and info.region_maps else ""
    made = (MemberJob(VARIANT, tuple(edits), prompt),) if edits else ()
    return GroupJob(maker.seed, case.index, 0, mask, info.healthy_prompt, made)


def _request(case: Case) -> dict[str, Any]:
    return {"image": case.name, "findings": [asdict(finding) for finding in case.findings]}


def _film_key(case: Case, member: str) -> str:
    return f"films/{case.index:06d}-{member}.png"


def _png(film: Film) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(film).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _text(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1) + "\n").encode()
