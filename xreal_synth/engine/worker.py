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

from xreal_synth.anatomy.label_map import enlarged
from xreal_synth.anatomy.regions import pathology_mask
from xreal_synth.dataset.names import parse_key
from xreal_synth.dataset.record import build_record
from xreal_synth.dataset.table import build_rejects, build_table
from xreal_synth.dataset.tar import TableRow
from xreal_synth.engine.backend import Backend, OnBatch
from xreal_synth.engine.enlarge import enlarged_finding, enlarged_source
from xreal_synth.engine.publish import ShardFiles, publish
from xreal_synth.engine.shard_encoder import ShardEncoder
from xreal_synth.errors import DatasetError
from xreal_synth.planning.image_labels import image_labels
from xreal_synth.planning.labels import labels_for
from xreal_synth.run.attempts import Attempts, Due, plan_group
from xreal_synth.run.fingerprint import fingerprint
from xreal_synth.run.group_job import group_job, painted_by
from xreal_synth.run.quality import judged_images
from xreal_synth.run.stopwatch import GATE, MAKE, MODEL, Stopwatch
from xreal_synth.sampling.jobs import GroupImages, GroupJob
from xreal_synth.storage import Store
from xreal_synth.types import (
    GreyImage,
    ImageQuality,
    LabelValue,
    MemberSpec,
    Rejected,
    Role,
    Sample,
    SampleMeta,
    SampleSpec,
    ShardPlan,
    ShardRecord,
    Verdict,
)

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run

AHEAD = 16
"""Micro-batches that groups may be ahead of one that the gate has refused: bounds what waits to be written in order."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedGroup:
    """An attempt's images, and the gate's verdict on each member; None where no gate looked."""

    run: Run
    spec: SampleSpec
    images: GroupImages
    verdicts: tuple[Verdict | None, ...]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What is delivered of it, built anew at each call."""
        spec, real = self.spec, real_twin(self.spec)
        twin = self.images.images.get(Role.healthy) if real is None else real

        def built(member: MemberSpec, verdict: Verdict | None) -> Sample:
            image = (
                twin if member.name == Role.healthy and twin is not None else self.images.images[member.name]
            )
            change = np.zeros_like(image) if twin is None else changed(image, twin)
            return build_sample(self.run, spec, member, image, change, verdict)

        return tuple(map(built, spec.members, self.verdicts))

    @property
    def refused(self) -> Rejected | None:
        """Why this attempt is not delivered: the first image that the gate refuses; None if there is none."""
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
    run: Run,
    spec: SampleSpec,
    member: MemberSpec,
    image: GreyImage,
    change: GreyImage,
    verdict: Verdict | None = None,
) -> Sample:
    """An image with its masks, labels, provenance and verdict, and its change from the twin (0 where there is none).

    Masks, regions and boxes of an image that was upscaled are those of the small one, each pixel a block.
    """
    height, width = image.shape
    times = run.enlarging
    assert height == times * spec.anatomy.shape[0], (
        f"an image of {height} pixels, wanted {run.delivered_size}"
    )
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
    pathology = pathology_mask([spec.regions[one] for one in member.findings], spec.anatomy.shape)
    return Sample(image, enlarged(spec.anatomy, times), enlarged(pathology, times), meta, spec.split, change)


def real_twin(spec: SampleSpec) -> GreyImage | None:
    """The real image in the twin's place, as it is delivered; it comes from the plan."""
    return spec.image if spec.large is None else spec.large


def changed(image: GreyImage, twin: GreyImage) -> GreyImage:
    """|image - twin|, uint8 [H, W]."""
    return np.asarray(np.maximum(image, twin) - np.minimum(image, twin))


def _quality(run: Run, verdict: Verdict | None) -> ImageQuality | None:
    """What of the verdict is told of a delivered image; nothing without checks."""
    if verdict is None or not run.quality.checks:
        return None
    return ImageQuality(run.quality.profile, dict(verdict.scores), verdict.flags)


def _labels(
    run: Run, spec: SampleSpec, member: MemberSpec, verdict: Verdict | None
) -> dict[str, dict[str, LabelValue]]:
    if member.source is not None:
        return image_labels(member.source, member.findings)
    assert spec.ctr is not None, "a drawn anatomy has a ratio"
    passed = verdict.passed if verdict is not None and verdict.passed is not None else frozenset[str]()
    return labels_for(member.findings, run.recipe.labels.unrequested, spec.ctr, passed)


def _prompt(run: Run, member: MemberSpec, row: int) -> str:
    """The prompts in the order in which they were painted; a real image as it is has none."""
    if member.sham:
        return run.bundle.healthy_prompt
    prompts = [painted_by(run, finding, row) for finding in member.findings]
    if member.source is not None and member.source.removed:
        prompts.insert(0, run.bundle.healthy_prompt)
    if prompts:
        return " + ".join(prompts)
    return run.bundle.healthy_prompt if member.source is None else ""


def render_groups(
    run: Run, backend: Backend, specs: Iterable[SampleSpec], on_batch: OnBatch = lambda images: None
) -> Iterator[GeneratedGroup]:
    """The images of each group with their verdicts, in the order of `specs`."""
    return _made(run, backend, (Due(spec, group_job(run, spec)) for spec in specs), on_batch, Stopwatch())


def _made(
    run: Run, backend: Backend, attempts: Iterable[Due], on_batch: OnBatch, watch: Stopwatch
) -> Iterator[GeneratedGroup]:
    """Attempts are taken as the sampler comes to them; what has come of earlier ones may decide which they are."""
    begun: deque[Due] = deque()

    def jobs() -> Iterator[GroupJob]:
        for due in attempts:
            begun.append(due)
            yield due.job

    images = watch.each(MODEL, backend.render(jobs(), on_batch))
    while batch := [(begun.popleft(), one) for one in islice(images, backend.micro_batch)]:
        yield from _judged(run, backend, batch, watch)
    assert not begun, f"no images of group {begun[0].spec.index}"


def _judged(
    run: Run, backend: Backend, batch: Sequence[tuple[Due, GroupImages]], watch: Stopwatch
) -> Iterator[GeneratedGroup]:
    """The gate looks at a micro-batch of groups together."""
    for due, images in batch:
        assert images.index == due.spec.index, f"images of group {images.index}, not of {due.spec.index}"
    seen = [
        judged_images(run, due.spec, due.job, images) if run.quality.gated else [] for due, images in batch
    ]
    with watch.within(GATE):
        judged = backend.gate.judge([image for images in seen for image in images if image is not None])
    reported = iter(judged)
    for (due, images), looked_at in zip(batch, seen, strict=True):
        verdicts = [None if image is None else next(reported) for image in looked_at] or [None] * len(
            due.spec.members
        )
        yield GeneratedGroup(run, due.spec, images, tuple(verdicts))


def make_group(run: Run, backend: Backend, index: int, attempt: int | None = None) -> tuple[Sample, ...]:
    """The delivered images of one group, as a shard would hold them; empty if the group is dropped.

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
    """Makes one image again from its key. Raises DatasetError if the recipe delivers no such image."""
    group, _ = parse_key(key)
    if group < run.recipe.anatomies:
        for sample in make_group(run, backend, group, attempt):
            if sample.meta.key == key:
                return sample
    raise DatasetError(
        found=f"this recipe delivers no image {key}",
        wanted=f"a key of its groups 0 to {run.recipe.anatomies - 1}, as samples.parquet lists them",
        hint="look the key up there; twins (h) are delivered with pairs.twin or without findings",
    )


def run_shard(
    run: Run,
    backend: Backend,
    shard: ShardPlan,
    store: Store,
    *,
    attempt: int = 0,
    actor: str = "local",
    heartbeat: OnBatch = lambda images: None,
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
    """A shard whose last images may still be on the encoder, on their way into the tar in a temporary folder, and what
    its table and record are made of."""

    shard: ShardPlan
    folder: tempfile.TemporaryDirectory[str]
    tar: Path
    encoder: ShardEncoder
    rejected: list[Rejected]
    environment: dict[str, str]
    timings: dict[str, float]


def render_shard(
    run: Run, backend: Backend, shard: ShardPlan, heartbeat: OnBatch = lambda images: None
) -> RenderedShard:
    """Makes a shard's images; nothing is published yet. Raises whatever the models raise; then nothing is left."""
    began, watch = time.monotonic(), Stopwatch()
    folder = tempfile.TemporaryDirectory(prefix="xreal-shard-")
    try:
        tar = Path(folder.name) / f"{shard.stem}.tar"
        encoder = ShardEncoder(tar, watch)
        try:
            rejected = _render(run, backend, shard, encoder, heartbeat, watch)
        except BaseException:
            encoder.abandon()
            raise
    except BaseException:
        folder.cleanup()
        raise
    timings = {MAKE: time.monotonic() - began} | watch.seconds
    return RenderedShard(shard, folder, tar, encoder, rejected, environment(backend), timings)


def publish_shard(
    run: Run, rendered: RenderedShard, store: Store, *, actor: str, attempt: int, replacing: bool
) -> ShardRecord:
    """Ends a rendered shard's tar, publishes it and removes its temporary folder, while another may be rendered.

    Raises StorageError, DatasetError, and what the encoder raised.
    """
    with rendered.folder:
        return publish_rows(
            run, rendered.shard, rendered.encoder.close(), rendered.rejected, rendered.tar, store,
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
    run: Run, backend: Backend, shard: ShardPlan, encoder: ShardEncoder, heartbeat: OnBatch, watch: Stopwatch
) -> list[Rejected]:
    """Renders and judges; what is delivered goes to the encoder. A thread beside the model's plans what comes next.

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
                    encoder.take(made)
                encoder.write(attempts.frontier)
    return sorted(attempts.rejected, key=lambda reject: (reject.group, reject.attempt))
