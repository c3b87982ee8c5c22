"""From a shard's plan to a finished shard. No Ray here: an actor, a test and `replay` call the same code.

Bytes depend on (recipe, bundle, environment) alone: never on the actor, the order or what ran before.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from xreal_synth.anatomy.codes import enlarged
from xreal_synth.anatomy.regions import FEATHER_SHARE, feather, pathology_mask, region_mask
from xreal_synth.engine.attempts import Waves, plan_group
from xreal_synth.engine.backend import Backend, OnBatch
from xreal_synth.engine.enlarge import enlarged_finding, enlarged_source
from xreal_synth.engine.fingerprint import fingerprint
from xreal_synth.engine.publish import ShardFiles, publish
from xreal_synth.engine.quality import HEALTHY, judged_films
from xreal_synth.engine.stopwatch import GATE, MAKE, MODEL, WAIT, Stopwatch
from xreal_synth.errors import DatasetError
from xreal_synth.models.describe import prompt_for, prompt_of
from xreal_synth.plan.film_labels import film_labels
from xreal_synth.plan.labels import labels_for
from xreal_synth.sampling.jobs import Edit, GroupFilms, GroupJob, MemberJob
from xreal_synth.shards.names import parse_key
from xreal_synth.shards.record import build_record
from xreal_synth.shards.table import build_rejects, build_table
from xreal_synth.shards.tar import EncodedSample, TableRow, TarWriter, encode_sample
from xreal_synth.storage import Store
from xreal_synth.types import (
    Film,
    FilmQuality,
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
    Verdict,
)

if TYPE_CHECKING:
    from xreal_synth.engine.setup import Run

CHUNK = 8
"""Micro-batches planned and handed to the backend at once: bounds what a large shard holds in memory."""

_UNWRITTEN = 256
"""Groups that may wait for the encoder before rendering waits for it."""

AHEAD = 2
"""Waves that groups may be ahead of one that the gate has refused: bounds what waits to be written in order."""


@dataclass(frozen=True, slots=True, eq=False)
class MadeGroup:
    """A group's delivered films, each with the gate's verdict; None where no gate looked."""

    spec: SampleSpec
    samples: tuple[Sample, ...]
    verdicts: tuple[Verdict | None, ...]

    @property
    def refused(self) -> Rejected | None:
        """Why this attempt is not delivered: the first film that the gate refuses; None if there is none."""
        for sample, verdict in zip(self.samples, self.verdicts, strict=True):
            if verdict is not None and not verdict.accepted:
                spec, names = self.spec, [f.name for member in self.spec.members for f in member.findings]
                reason = "; ".join(verdict.reasons[: len(verdict.refused)])
                return Rejected(
                    spec.index, spec.attempt, spec.row, reason, dropped=False, check=verdict.refused[0],
                    member=sample.meta.member, findings=tuple(dict.fromkeys(names)), scores=verdict.scores,
                )  # fmt: skip
        return None


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


def build_sample(
    run: Run, spec: SampleSpec, member: MemberSpec, film: Film, change: Film, verdict: Verdict | None = None
) -> Sample:
    """A film with its masks, labels, provenance and verdict, and its change from the twin.

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
        labels=_labels(run, spec, member, verdict),
        prompt=_prompt(run, member, spec.row),
        sampling={key: value for key, value in asdict(run.sampling).items() if value is not None},
        source=None if member.source is None else enlarged_source(member.source, times),
        sham=tuple(enlarged_finding(place, times) for place in member.sham),
        quality=_quality(run, verdict),
    )
    pathology = pathology_mask(member.findings, spec.anatomy)
    return Sample(film, enlarged(spec.anatomy, times), enlarged(pathology, times), meta, spec.split, change)


def real_twin(spec: SampleSpec) -> Film | None:
    """The real film in the twin's place, as it is delivered; it comes from the plan."""
    return spec.film if spec.large is None else spec.large


def changed(film: Film, twin: Film) -> Film:
    """|film - twin|, uint8 [H, W]."""
    return np.asarray(np.maximum(film, twin) - np.minimum(film, twin))


def _quality(run: Run, verdict: Verdict | None) -> FilmQuality | None:
    """What of the verdict is told of a delivered film; nothing without checks."""
    if verdict is None or not run.quality.checks:
        return None
    return FilmQuality(run.quality.profile, dict(verdict.scores), verdict.flags)


def _labels(
    run: Run, spec: SampleSpec, member: MemberSpec, verdict: Verdict | None
) -> dict[str, dict[str, LabelValue]]:
    if member.source is not None:
        return film_labels(member.source, member.findings)
    assert spec.ctr is not None, "a drawn anatomy has a ratio"
    passed = verdict.passed if verdict is not None and verdict.passed is not None else frozenset[str]()
    return labels_for(member.findings, run.recipe.labels.unrequested, spec.ctr, passed)


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
    run: Run, backend: Backend, specs: Sequence[SampleSpec], on_batch: OnBatch = lambda films: None,
    watch: Stopwatch | None = None,
) -> Iterator[MadeGroup]:  # fmt: skip
    """The delivered samples of each group with their verdicts, in the order of `specs`."""
    watch = watch or Stopwatch()
    jobs = [group_job(run, spec) for spec in specs]
    films = watch.each(MODEL, backend.render(jobs, on_batch))
    rendered = zip(specs, jobs, films, strict=True)
    while batch := list(islice(rendered, backend.micro_batch)):
        yield from _judged(run, backend, batch, watch)


def _judged(
    run: Run, backend: Backend, batch: Sequence[tuple[SampleSpec, GroupJob, GroupFilms]], watch: Stopwatch
) -> Iterator[MadeGroup]:
    """The gate looks at a micro-batch of groups together."""
    for spec, _, films in batch:
        assert films.index == spec.index, f"films of group {films.index} where {spec.index} was due"
    seen = [judged_films(run, *rendered) if run.quality.gated else [] for rendered in batch]
    with watch.within(GATE):
        judged = backend.gate.judge([film for films in seen for film in films if film is not None])
    told = iter(judged)
    for (spec, _, films), looked_at in zip(batch, seen, strict=True):
        verdicts = [None if film is None else next(told) for film in looked_at] or [None] * len(spec.members)
        yield MadeGroup(spec, _samples(run, spec, films, verdicts), tuple(verdicts))


def _samples(
    run: Run, spec: SampleSpec, group: GroupFilms, verdicts: Sequence[Verdict | None]
) -> tuple[Sample, ...]:
    real = real_twin(spec)
    twin = group.films[HEALTHY] if real is None else real

    def built(member: MemberSpec, verdict: Verdict | None) -> Sample:
        film = twin if member.name == HEALTHY else group.films[member.name]
        return build_sample(run, spec, member, film, changed(film, twin), verdict)

    return tuple(map(built, spec.members, verdicts))


def make_group(run: Run, backend: Backend, index: int, attempt: int | None = None) -> tuple[Sample, ...]:
    """The delivered films of one group, as a shard would hold them; empty if the group is dropped.

    `attempt` makes that very attempt, whatever the gate says of it. Raises PlacementError if its boxes cannot be
    placed.
    """
    if attempt is not None:
        return next(render_groups(run, backend, [run.plan.sample(index, attempt)])).samples
    spec = plan_group(run, index)[0]
    while spec is not None:
        made = next(render_groups(run, backend, [spec]))
        if made.refused is None:
            return made.samples
        spec = plan_group(run, index, spec.attempt)[0]
    return ()


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
    began, watch = time.monotonic(), Stopwatch()
    with tempfile.TemporaryDirectory(prefix="xreal-shard-") as folder:
        tar = Path(folder) / f"{shard.stem}.tar"
        rows, rejected = _write(run, backend, shard, tar, heartbeat, watch)
        return publish_rows(
            run, shard, rows, rejected, tar, store,
            environment=environment(backend), timings={MAKE: time.monotonic() - began} | watch.seconds,
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
        actor=actor, attempt=attempt, gated=bool(run.quality.checks),
    )  # fmt: skip
    return publish(store, files, record, replacing=replacing)


def _write(
    run: Run, backend: Backend, shard: ShardPlan, tar: Path, heartbeat: OnBatch, watch: Stopwatch
) -> tuple[list[TableRow], list[Rejected]]:
    """Renders, judges and writes in the groups' order. Beside the model run two threads: one plans what comes
    next, one encodes what is delivered."""
    size = CHUNK * backend.micro_batch
    waiting: dict[int, Future[list[EncodedSample]]] = {}
    with (
        TarWriter(tar) as writer,
        ThreadPoolExecutor(1, thread_name_prefix="plan") as planner,
        ThreadPoolExecutor(1, thread_name_prefix="encode") as encoder,
    ):
        waves = Waves(run, shard, size, AHEAD * size, planner, watch)
        while wave := waves.next():
            for made in render_groups(run, backend, wave, heartbeat, watch):
                if made.refused is not None:
                    waves.refuse(made.spec, made.refused)
                else:
                    waves.accept(made.spec)
                    waiting[made.spec.index] = encoder.submit(_encode_all, made.samples)
                _write_decided(writer, waiting, waves.frontier, _UNWRITTEN, watch)
        _write_decided(writer, waiting, None, 0, watch)
    return writer.rows, sorted(waves.rejected, key=lambda reject: (reject.group, reject.attempt))


def _write_decided(
    writer: TarWriter, waiting: dict[int, Future[list[EncodedSample]]], frontier: int | None, most: int,
    watch: Stopwatch,
) -> None:  # fmt: skip
    """Writes the groups before the frontier in order, as far as they are encoded or too many wait."""
    for index in sorted(waiting):
        if (frontier is not None and index > frontier) or not (waiting[index].done() or len(waiting) > most):
            return
        with watch.within(WAIT):
            samples = waiting.pop(index).result()
        for encoded in samples:
            writer.add(encoded)


def _encode_all(samples: Sequence[Sample]) -> list[EncodedSample]:
    return [encode_sample(sample) for sample in samples]
