"""From a shard's plan to a finished shard. No Ray here: an actor, a test and `replay` call the same code.

Bytes depend on (recipe, bundle, environment) alone: never on the actor, the order or what ran before.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xreal_synth.anatomy.codes import enlarged
from xreal_synth.anatomy.regions import pathology_mask
from xreal_synth.engine.attempts import Attempts, Due, plan_group
from xreal_synth.engine.backend import Backend, OnBatch
from xreal_synth.engine.desk import Desk
from xreal_synth.engine.enlarge import enlarged_finding, enlarged_source
from xreal_synth.engine.fingerprint import fingerprint
from xreal_synth.engine.group_job import group_job, painted_by
from xreal_synth.engine.publish import ShardFiles, publish
from xreal_synth.engine.quality import HEALTHY, judged_films
from xreal_synth.engine.stopwatch import GATE, MAKE, MODEL, Stopwatch
from xreal_synth.errors import DatasetError
from xreal_synth.plan.film_labels import film_labels
from xreal_synth.plan.labels import labels_for
from xreal_synth.sampling.jobs import GroupFilms, GroupJob
from xreal_synth.shards.names import parse_key
from xreal_synth.shards.record import build_record
from xreal_synth.shards.table import build_rejects, build_table
from xreal_synth.shards.tar import TableRow
from xreal_synth.storage import Store
from xreal_synth.types import (
    Film,
    FilmQuality,
    LabelValue,
    MemberSpec,
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

AHEAD = 16
"""Micro-batches that groups may be ahead of one that the gate has refused: bounds what waits to be written in order."""


@dataclass(frozen=True, slots=True, eq=False)
class MadeGroup:
    """An attempt's films, and the gate's verdict on each member; None where no gate looked."""

    run: Run
    spec: SampleSpec
    films: GroupFilms
    verdicts: tuple[Verdict | None, ...]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What is delivered of it, built anew at each call."""
        spec, real = self.spec, real_twin(self.spec)
        twin = self.films.films.get(HEALTHY) if real is None else real

        def built(member: MemberSpec, verdict: Verdict | None) -> Sample:
            film = twin if member.name == HEALTHY and twin is not None else self.films.films[member.name]
            change = np.zeros_like(film) if twin is None else changed(film, twin)
            return build_sample(self.run, spec, member, film, change, verdict)

        return tuple(map(built, spec.members, self.verdicts))

    @property
    def refused(self) -> Rejected | None:
        """Why this attempt is not delivered: the first film that the gate refuses; None if there is none."""
        for refused, verdict in zip(self.spec.members, self.verdicts, strict=True):
            if verdict is not None and not verdict.accepted:
                spec, names = self.spec, [f.name for member in self.spec.members for f in member.findings]
                reason = "; ".join(verdict.reasons[: len(verdict.refused)])
                return Rejected(
                    spec.index, spec.attempt, spec.row, reason, dropped=False, check=verdict.refused[0],
                    member=refused.name, findings=tuple(dict.fromkeys(names)), scores=verdict.scores,
                )  # fmt: skip
        return None


def build_sample(
    run: Run, spec: SampleSpec, member: MemberSpec, film: Film, change: Film, verdict: Verdict | None = None
) -> Sample:
    """A film with its masks, labels, provenance and verdict, and its change from the twin (0 where there is none).

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
    prompts = [painted_by(run, finding, row) for finding in member.findings]
    if member.source is not None and member.source.healed:
        prompts.insert(0, run.bundle.healthy_prompt)
    if prompts:
        return " + ".join(prompts)
    return run.bundle.healthy_prompt if member.source is None else ""


def render_groups(
    run: Run, backend: Backend, specs: Iterable[SampleSpec], on_batch: OnBatch = lambda films: None
) -> Iterator[MadeGroup]:
    """The films of each group with their verdicts, in the order of `specs`."""
    return _made(run, backend, (Due(spec, group_job(run, spec)) for spec in specs), on_batch, Stopwatch())


def _made(
    run: Run, backend: Backend, attempts: Iterable[Due], on_batch: OnBatch, watch: Stopwatch
) -> Iterator[MadeGroup]:
    """Attempts are taken as the sampler comes to them; what has come of earlier ones may decide which they are."""
    begun: deque[Due] = deque()

    def jobs() -> Iterator[GroupJob]:
        for due in attempts:
            begun.append(due)
            yield due.job

    films = watch.each(MODEL, backend.render(jobs(), on_batch))
    while batch := [(begun.popleft(), one) for one in islice(films, backend.micro_batch)]:
        yield from _judged(run, backend, batch, watch)
    assert not begun, f"no films of group {begun[0].spec.index}"


def _judged(
    run: Run, backend: Backend, batch: Sequence[tuple[Due, GroupFilms]], watch: Stopwatch
) -> Iterator[MadeGroup]:
    """The gate looks at a micro-batch of groups together."""
    for due, films in batch:
        assert films.index == due.spec.index, f"films of group {films.index}, not of {due.spec.index}"
    seen = [judged_films(run, due.spec, due.job, films) if run.quality.gated else [] for due, films in batch]
    with watch.within(GATE):
        judged = backend.gate.judge([film for films in seen for film in films if film is not None])
    told = iter(judged)
    for (due, films), looked_at in zip(batch, seen, strict=True):
        verdicts = [None if film is None else next(told) for film in looked_at] or [None] * len(
            due.spec.members
        )
        yield MadeGroup(run, due.spec, films, tuple(verdicts))


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
    rendered = render_shard(run, backend, shard, heartbeat)
    return publish_shard(run, rendered, store, actor=actor, attempt=attempt, replacing=replacing)


@dataclass(frozen=True, slots=True, eq=False)
class RenderedShard:
    """A shard whose last films may still be on the desk, on their way into the tar in a temporary folder, and what
    its table and record are made of."""

    shard: ShardPlan
    folder: tempfile.TemporaryDirectory[str]
    tar: Path
    desk: Desk
    rejected: list[Rejected]
    environment: dict[str, str]
    timings: dict[str, float]


def render_shard(
    run: Run, backend: Backend, shard: ShardPlan, heartbeat: OnBatch = lambda films: None
) -> RenderedShard:
    """Makes a shard's films; nothing is published yet. Raises whatever the models raise; then nothing is left."""
    began, watch = time.monotonic(), Stopwatch()
    folder = tempfile.TemporaryDirectory(prefix="xreal-shard-")
    try:
        tar = Path(folder.name) / f"{shard.stem}.tar"
        desk = Desk(tar, watch)
        try:
            rejected = _render(run, backend, shard, desk, heartbeat, watch)
        except BaseException:
            desk.abandon()
            raise
    except BaseException:
        folder.cleanup()
        raise
    timings = {MAKE: time.monotonic() - began} | watch.seconds
    return RenderedShard(shard, folder, tar, desk, rejected, environment(backend), timings)


def publish_shard(
    run: Run, rendered: RenderedShard, store: Store, *, actor: str, attempt: int, replacing: bool
) -> ShardRecord:
    """Ends a rendered shard's tar, publishes it and removes its temporary folder, while another may be rendered.

    Raises StorageError, DatasetError, and what the encoder raised.
    """
    with rendered.folder:
        return publish_rows(
            run, rendered.shard, rendered.desk.close(), rendered.rejected, rendered.tar, store,
            environment=rendered.environment, timings=rendered.timings,
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


def _render(
    run: Run, backend: Backend, shard: ShardPlan, desk: Desk, heartbeat: OnBatch, watch: Stopwatch
) -> list[Rejected]:
    """Renders and judges; what is delivered goes to the desk. A thread beside the model's plans what comes next.

    Returns the refused attempts in order.
    """
    size = backend.micro_batch
    with ThreadPoolExecutor(1, thread_name_prefix="plan") as planner:
        attempts = Attempts(run, shard, size, AHEAD * size, planner, partial(group_job, run), watch)
        while (due := attempts.next()) is not None:
            for made in _made(run, backend, chain([due], iter(attempts.next, None)), heartbeat, watch):
                if (refused := made.refused) is not None:
                    attempts.refuse(made.spec, refused)
                else:
                    attempts.accept(made.spec)
                    desk.take(made)
                desk.write(attempts.frontier)
    return sorted(attempts.rejected, key=lambda reject: (reject.group, reject.attempt))
