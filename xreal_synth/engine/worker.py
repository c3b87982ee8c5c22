"""From a shard's plan to a finished shard. No Ray here: an actor, a test and `replay` call the same code.

Bytes depend on (recipe, bundle, environment) alone: never on the actor, the order or what ran before.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from xreal_synth.anatomy.codes import enlarged
from xreal_synth.anatomy.regions import FEATHER_SHARE, feather, pathology_mask, region_mask
from xreal_synth.engine.backend import Backend, OnBatch
from xreal_synth.engine.enlarge import enlarged_finding, enlarged_source
from xreal_synth.engine.fingerprint import fingerprint
from xreal_synth.engine.publish import ShardFiles, publish
from xreal_synth.errors import DatasetError, PlacementError
from xreal_synth.models.describe import prompt_for, prompt_of
from xreal_synth.plan.film_labels import film_labels
from xreal_synth.plan.labels import labels_for
from xreal_synth.sampling.jobs import Edit, GroupFilms, GroupJob, MemberJob
from xreal_synth.shards.names import parse_key
from xreal_synth.shards.record import build_record
from xreal_synth.shards.table import build_rejects, build_table
from xreal_synth.shards.tar import TableRow, TarWriter, encode_sample
from xreal_synth.storage import Store
from xreal_synth.types import (
    Film,
    LabelValue,
    MemberSpec,
    PixelBox,
    PlacedFinding,
    Rejected,
    Sample,
    SampleMeta,
    SampleSpec,
    ShardPlan,
    ShardRecord,
)

if TYPE_CHECKING:
    from xreal_synth.engine.setup import Run

HEALTHY = "h"


CHUNK = 8
"""Micro-batches planned and handed to the backend at once: bounds what a large shard holds in memory."""

_UNWRITTEN = 256
"""Groups that may wait for the encoder before rendering waits for it."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Groups that can be made, in order, and the refused attempts on the way there."""

    specs: tuple[SampleSpec, ...]
    rejected: tuple[Rejected, ...]


def plan_group(run: Run, index: int) -> tuple[SampleSpec | None, list[Rejected]]:
    """The first attempt at a group whose boxes can be placed, None if there is none.

    The attempts of one anatomy share their boxes, so a failure moves on to the next new anatomy: from
    attempt 0 to `quality.max_attempts` and then one by one.
    """
    rejected: list[Rejected] = []
    attempts = [0, *(attempt for attempt in run.plan.attempts if attempt >= run.recipe.quality.max_attempts)]
    for attempt in attempts:
        try:
            return run.plan.sample(index, attempt), rejected
        except PlacementError as error:
            last = attempt == attempts[-1]
            rejected.append(Rejected(index, attempt, run.plan.row(index), error.found, dropped=last))
    return None, rejected


def plan_shard(run: Run, shard: ShardPlan, chunk: int) -> Iterator[Planned]:
    """The shard's groups, `chunk` specs at a time. Pure: equal for equal (recipe, bundle) on any machine."""
    specs: list[SampleSpec] = []
    rejected: list[Rejected] = []
    for index in range(shard.start, shard.stop):
        spec, refused = plan_group(run, index)
        rejected += refused
        if spec is not None:
            specs.append(spec)
        if len(specs) == chunk:
            yield Planned(tuple(specs), tuple(rejected))
            specs, rejected = [], []
    yield Planned(tuple(specs), tuple(rejected))


def group_job(run: Run, spec: SampleSpec) -> GroupJob:
    """What the sampler is told of a group: regions, prompts and feathers; the twin is always made."""
    return GroupJob(
        seed=run.recipe.seed,
        index=spec.index,
        attempt=spec.attempt,
        anatomy=spec.anatomy,
        healthy_prompt=run.bundle.healthy_prompt,
        members=tuple(
            MemberJob(member.name, _edits(run, member, spec))
            for member in spec.members
            if member.name != HEALTHY
        ),
        film=spec.film,
        large=spec.large,
    )


def _edits(run: Run, member: MemberSpec, spec: SampleSpec) -> tuple[Edit, ...]:
    """What of a real film is painted over goes first, in one pass; then the findings, one after another.

    A sham has a pass for each of the first variant's findings, in its region.
    """
    if member.sham:
        healthy = run.bundle.healthy_prompt
        return tuple(_painting(run, region_mask(place, spec.anatomy), healthy) for place in member.sham)
    healed = member.source.healed if member.source is not None else ()
    first = (_healing(run, healed),) if healed else ()
    return first + tuple(_edit(run, finding, spec) for finding in member.findings)


def _healing(run: Run, boxes: Sequence[PixelBox]) -> Edit:
    region = np.zeros((run.bundle.image_size,) * 2, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        region[y0:y1, x0:x1] = True
    return _painting(run, region, run.bundle.healthy_prompt)


def _edit(run: Run, finding: PlacedFinding, spec: SampleSpec) -> Edit:
    prompt = _painted_by(run, finding, spec.row)
    return _painting(run, region_mask(finding, spec.anatomy), prompt)


def _painted_by(run: Run, finding: PlacedFinding, row: int) -> str:
    """A finding's prompt: its own, the bundle's, or what names all of its row's."""
    findings = run.recipe.findings[row]
    if findings.joint:
        return prompt_for(run.bundle, [label.name for label in findings.labels])
    return prompt_of(run.bundle, finding.name, finding.prompt)


def _painting(run: Run, region: npt.NDArray[np.bool_], prompt: str) -> Edit:
    return Edit(region=region, prompt=prompt, alpha=feather(region, FEATHER_SHARE * run.bundle.image_size))


def build_sample(run: Run, spec: SampleSpec, member: MemberSpec, film: Film, change: Film) -> Sample:
    """A film with its masks, labels and provenance, and its change from the twin.

    Masks, regions and boxes of a film that was upscaled are those of the small one, each pixel a block.
    """
    height, width = film.shape
    times = run.enlarging
    assert height == times * spec.anatomy.shape[0], f"a film of {height} pixels, wanted {run.film_size}"
    meta = SampleMeta(
        key=member.key,
        group=spec.index,
        member=member.name,
        attempt=spec.attempt,
        row=spec.row,
        digest=run.digest,
        bundle_name=run.bundle.name,
        bundle_hash=run.bundle.content_hash,
        seed=run.recipe.seed,
        anatomy_source=run.plan.source.source_name,
        anatomy_id=spec.anatomy_id,
        ctr=spec.ctr,
        image_size=(height, width),
        findings=tuple(enlarged_finding(finding, times) for finding in member.findings),
        labels=_labels(run, spec, member),
        prompt=_prompt(run, member, spec.row),
        sampling={key: value for key, value in asdict(run.sampling).items() if value is not None},
        source=None if member.source is None else enlarged_source(member.source, times),
        sham=tuple(enlarged_finding(place, times) for place in member.sham),
    )
    pathology = pathology_mask(member.findings, spec.anatomy)
    return Sample(film, enlarged(spec.anatomy, times), enlarged(pathology, times), meta, spec.split, change)


def real_twin(spec: SampleSpec) -> Film | None:
    """The real film in the twin's place, as it is delivered; it comes from the plan."""
    return spec.film if spec.large is None else spec.large


def changed(film: Film, twin: Film) -> Film:
    """|film - twin|, uint8 [H, W]."""
    return np.asarray(np.maximum(film, twin) - np.minimum(film, twin))


def _labels(run: Run, spec: SampleSpec, member: MemberSpec) -> dict[str, dict[str, LabelValue]]:
    if member.source is not None:
        return film_labels(member.source, member.findings)
    assert spec.ctr is not None, "a drawn anatomy has a ratio"
    return labels_for(member.findings, run.recipe.labels.unrequested, spec.ctr)


def _prompt(run: Run, member: MemberSpec, row: int) -> str:
    """The prompts in the order in which they were painted; a real film as it is has none."""
    if member.sham:
        return run.bundle.healthy_prompt
    prompts = [_painted_by(run, finding, row) for finding in member.findings]
    if member.source is not None and member.source.healed:
        prompts.insert(0, run.bundle.healthy_prompt)
    if prompts:
        return " + ".join(prompts)
    return run.bundle.healthy_prompt if member.source is None else ""


def render_groups(
    run: Run, backend: Backend, specs: Sequence[SampleSpec], on_batch: OnBatch = lambda films: None
) -> Iterator[tuple[Sample, ...]]:
    """The delivered samples of each group, in the order of `specs`."""
    jobs = [group_job(run, spec) for spec in specs]
    for spec, group in zip(specs, backend.render(jobs, on_batch), strict=True):
        assert group.index == spec.index, f"films of group {group.index} where {spec.index} was due"
        yield _samples(run, spec, group)


def _samples(run: Run, spec: SampleSpec, group: GroupFilms) -> tuple[Sample, ...]:
    real = real_twin(spec)
    twin = group.films[HEALTHY] if real is None else real

    def built(member: MemberSpec) -> Sample:
        film = twin if member.name == HEALTHY else group.films[member.name]
        return build_sample(run, spec, member, film, changed(film, twin))

    return tuple(map(built, spec.members))


def make_group(run: Run, backend: Backend, index: int, attempt: int | None = None) -> tuple[Sample, ...]:
    """The delivered films of one group, as a shard would hold them; empty if the group is dropped.

    `attempt` makes that very attempt. Raises PlacementError if its boxes cannot be placed.
    """
    spec = plan_group(run, index)[0] if attempt is None else run.plan.sample(index, attempt)
    return next(render_groups(run, backend, [spec])) if spec is not None else ()


def replay(run: Run, backend: Backend, key: str, attempt: int | None = None) -> Sample:
    """Makes one film again from its key. Raises DatasetError if the recipe delivers no such film."""
    group, _ = parse_key(key)
    if group < run.recipe.samples:
        for sample in make_group(run, backend, group, attempt):
            if sample.meta.key == key:
                return sample
    raise DatasetError(
        found=f"this recipe delivers no film {key}",
        wanted=f"a key of its groups 0 to {run.recipe.samples - 1}, as samples.parquet lists them",
        mend="look the key up there; twins (h) are delivered with pairs.twin or without findings",
    )


def run_shard(
    run: Run,
    backend: Backend,
    shard: ShardPlan,
    store: Store,
    *,
    attempt: int = 0,
    actor: str = "local",
    heartbeat: OnBatch = lambda films: None,
    replacing: bool = False,
) -> ShardRecord:
    """Makes a shard and publishes tar, table and record; returns the record.

    `attempt` counts tries at the shard. With `replacing` the shard's earlier files give way. Raises
    StorageError, DatasetError and whatever the models raise; then nothing but whole files is left behind.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="xreal-shard-") as folder:
        tar = Path(folder) / f"{shard.stem}.tar"
        rows, rejected = _write(run, backend, shard, tar, heartbeat)
        return publish_rows(
            run, shard, rows, rejected, tar, store,
            environment=environment(backend), timings={"make_s": time.monotonic() - began},
            actor=actor, attempt=attempt, replacing=replacing,
        )  # fmt: skip


def environment(backend: Backend) -> dict[str, str]:
    """The fingerprint under which this backend's bytes are promised."""
    return fingerprint(backend.device, backend.precision, backend.micro_batch)


def publish_rows(
    run: Run,
    shard: ShardPlan,
    rows: list[TableRow],
    rejected: Sequence[Rejected],
    tar: Path,
    store: Store,
    *,
    environment: dict[str, str],
    timings: dict[str, float],
    actor: str,
    attempt: int,
    replacing: bool,
) -> ShardRecord:
    """Table, rejects and record of a tar that lies in a file, published in order."""
    rejects = build_rejects(shard, rejected) if rejected else None
    files = ShardFiles(shard.stem, tar, build_table(shard, rows), rejects)
    tar_stamp, table_stamp, rejects_stamp = files.stamps
    record = build_record(
        shard, rows, rejected, tar=tar_stamp, table=table_stamp, rejects=rejects_stamp, digest=run.digest,
        fingerprint=environment, timings={name: round(value, 3) for name, value in timings.items()},
        actor=actor, attempt=attempt,
    )  # fmt: skip
    return publish(store, files, record, replacing=replacing)


def _write(
    run: Run, backend: Backend, shard: ShardPlan, tar: Path, heartbeat: OnBatch
) -> tuple[list[TableRow], list[Rejected]]:
    """Renders and writes. Beside the model run two threads: one plans the next chunk, one encodes and
    writes what is made."""
    rejected: list[Rejected] = []
    unwritten: deque[Future[None]] = deque()
    plans = plan_shard(run, shard, CHUNK * backend.micro_batch)
    with (
        TarWriter(tar) as writer,
        ThreadPoolExecutor(1, thread_name_prefix="plan") as planner,
        ThreadPoolExecutor(1, thread_name_prefix="encode") as encoder,
    ):
        following = planner.submit(next, plans, None)
        while (planned := following.result()) is not None:
            following = planner.submit(next, plans, None)
            rejected += planned.rejected
            for samples in render_groups(run, backend, planned.specs, heartbeat):
                unwritten.append(encoder.submit(_encode_all, writer, samples))
                while unwritten and (unwritten[0].done() or len(unwritten) > _UNWRITTEN):
                    unwritten.popleft().result()
        for written in unwritten:
            written.result()
    return writer.rows, rejected


def _encode_all(writer: TarWriter, samples: Sequence[Sample]) -> None:
    for sample in samples:
        writer.add(encode_sample(sample))
