"""From a shard's plan to a finished shard. No Ray here: an actor, a test and `replay` call the same code.

Bytes depend on (recipe, bundle, environment) alone: never on the actor, the order or what ran before or beside.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xreal_synth.dataset.names import parse_key
from xreal_synth.engine.backend import Backend, OnBatch
from xreal_synth.engine.publish import OpenShard, ShardEncoder
from xreal_synth.engine.samples import GeneratedGroup
from xreal_synth.errors import DatasetError
from xreal_synth.run.attempts import Attempts, Due, plan_group
from xreal_synth.run.fingerprint import fingerprint
from xreal_synth.run.group_job import group_job
from xreal_synth.run.quality import judged_images
from xreal_synth.run.stopwatch import GATE, MAKE, MODEL, OTHER, Stopwatch
from xreal_synth.sampling.jobs import GroupImages, in_batches
from xreal_synth.types import Sample, SampleSpec, ShardPlan

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run

AHEAD = 16
"""Micro-batches that groups may be ahead of one that the gate has refused: bounds what waits to be written in order."""


def render_groups(
    run: Run, backend: Backend, specs: Iterable[SampleSpec], on_batch: OnBatch = lambda images: None
) -> Iterator[GeneratedGroup]:
    """The images of each group with their verdicts, in the order of `specs`."""
    dues = {spec.index: Due(spec, group_job(run, spec)) for spec in specs}
    jobs = (due.job for due in dues.values())
    for batch in in_batches(backend.renderer(on_batch), jobs, backend.micro_batch):
        yield from _judged(run, backend, [(dues[images.index], images) for images in batch])


def _judged(run: Run, backend: Backend, batch: Sequence[tuple[Due, GroupImages]]) -> list[GeneratedGroup]:
    """The gate looks at groups together; what it says of one does not depend on the others."""
    seen = [judged_images(run, due.spec, due.job, images) if run.quality.gated else [] for due, images in batch]
    verdicts = iter(backend.gate.judge([image for each in seen for image in each if image is not None]))
    found = []
    for (due, images), looked_at in zip(batch, seen, strict=True):
        own = [None if image is None else next(verdicts) for image in looked_at]
        found.append(GeneratedGroup(run, due.spec, images, tuple(own or [None] * len(due.spec.members))))
    return found


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


class Worker:
    """Renders shards one after another: micro-batches of groups are taken, rendered, judged, and each group delivered
    or refused. A thread beside the model's plans what comes next, another judges what was rendered last.

    A micro-batch's verdicts are heard when the next full one is rendered, however long they took: what is made together
    does not depend on time. Refused groups, and what does not fill a micro-batch, may wait for the next shard's.
    `deliver` is called with each shard whose last group is through. Used as a context manager it leaves nothing behind.
    """

    def __init__(
        self, run: Run, backend: Backend, deliver: Callable[[OpenShard], None],
        on_batch: OnBatch = lambda images: None,
    ) -> None:  # fmt: skip
        self._run, self._backend, self._deliver, self._on_batch = run, backend, deliver, on_batch
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="plan")
        self._judge = ThreadPoolExecutor(1, thread_name_prefix="gate")
        self._watch = Stopwatch()
        self._open: dict[int, OpenShard] = {}
        self._last: int | None = None
        self._expected: tuple[int, Attempts] | None = None
        self._restart()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.abandon()
        self._planner.shutdown(cancel_futures=True)
        self._judge.shutdown(cancel_futures=True)

    @property
    def open(self) -> tuple[int, ...]:
        """The shards with groups that are not decided yet, oldest first."""
        return tuple(self._open)

    def make(self, plan: ShardPlan, waiting: int = 0) -> dict[str, float]:
        """Begins all groups of a shard, and decides them but for those of `waiting` shards at the most, which wait for
        the next shard's or for `finish`; the seconds that went, by name.

        Raises whatever the models, the encoder or `deliver` raise; then the open shards are to be abandoned.
        """
        folder = tempfile.TemporaryDirectory(prefix="xreal-shard-")
        tar = Path(folder.name) / f"{plan.stem}.tar"
        expected, self._expected = self._expected, None
        attempts = expected[1] if expected is not None and expected[0] == plan.shard else self._attempts(plan)
        self._following = plan.shard + (1 if self._last is None else plan.shard - self._last)
        self._last = plan.shard
        encoder = ShardEncoder(tar, self._watch)
        self._open[plan.shard] = OpenShard(plan, attempts, encoder, folder, tar, environment(self._backend))
        return self._work(attempts, waiting)

    def finish(self) -> dict[str, float]:
        """Decides every group that waits. Returns and raises as `make` does."""
        return self._work(None, 0)

    def abandon(self) -> tuple[int, ...]:
        """Gives up the open shards, but for those that what was rendered last ends, and returns them; nothing of
        them is left."""
        with suppress(Exception):  # the gate's, or a full disk's: its shards are given up
            self._settle(self._verdicts())
            self._close_shards()
        given_up, shards = self.open, list(self._open.values())
        self._open.clear()
        self._restart()
        for shard in shards:
            shard.encoder.abandon()
            shard.folder.cleanup()
        return given_up

    def _attempts(self, plan: ShardPlan) -> Attempts:
        size, job_of = self._backend.micro_batch, partial(group_job, self._run)
        return Attempts(self._run, plan, size, AHEAD * size, self._planner, job_of, self._watch)

    def _expect(self) -> None:
        """Has the first groups of the shard planned that comes next where shards come in even steps."""
        if self._expected is None and 0 <= self._following < self._run.plan.shard_count:
            self._expected = self._following, self._attempts(self._run.plan.shard(self._following))

    def _restart(self) -> None:
        self._watch.lap()
        self._judging: Future[list[GeneratedGroup]] | None = None
        self._due: list[Due] = []
        self._rendering: dict[int, Due] = {}
        self._renderer = self._backend.renderer(self._on_batch)

    def _work(self, newest: Attempts | None, waiting: int) -> dict[str, float]:
        spent: dict[str, float] = {}
        with self._watch.within(OTHER):
            while True:
                full = self._take()
                self._close_shards()
                begun = newest is None or newest.begun
                if waiting:
                    self._expect()
                if begun and not full and len(self._open) <= waiting:
                    return spent
                batch = [due.spec.index for due in self._due] or list(self._rendering)
                rendered = self._render() if full or self._judging is None else []
                judged = self._verdicts()
                if rendered:
                    self._judging = self._judge.submit(_judged, self._run, self._backend, rendered)
                seconds = self._watch.lap()
                _add(spent, seconds)
                batch = batch or [made.spec.index for made in judged]
                for group in batch:
                    _add(self._shard_of(group).timings, seconds, 1 / len(batch))
                self._settle(judged)

    def _verdicts(self) -> list[GeneratedGroup]:
        """What the gate says of the micro-batch before; waits for it."""
        judging, self._judging = self._judging, None
        if judging is None:
            return []
        with self._watch.within(GATE):
            return judging.result()

    def _take(self) -> bool:
        """Takes groups until a micro-batch is due, of the oldest shards first; whether there were enough."""
        size = self._backend.micro_batch
        for shard in self._open.values():
            while len(self._due) < size and (due := shard.attempts.next()) is not None:
                self._due.append(due)
        return len(self._due) == size

    def _render(self) -> list[tuple[Due, GroupImages]]:
        """Begins the groups that are due; finishes those that were begun where none is."""
        due, self._due = self._due, []
        self._rendering.update((one.spec.index, one) for one in due)
        with self._watch.within(MODEL):
            finished = self._renderer.begin([one.job for one in due]) if due else self._renderer.finish()
        return [(self._rendering.pop(images.index), images) for images in finished]

    def _settle(self, judged: Iterable[GeneratedGroup]) -> None:
        for made in judged:
            self._shard_of(made.spec.index).settle(made)

    def _shard_of(self, group: int) -> OpenShard:
        return next(shard for shard in self._open.values() if shard.shard.start <= group < shard.shard.stop)

    def _close_shards(self) -> None:
        """Has written what can be, and delivers the shards whose groups are all decided."""
        for shard in list(self._open.values()):
            shard.encoder.write(shard.attempts.frontier)
            if shard.attempts.decided:
                del self._open[shard.shard.shard]
                shard.timings[MAKE] = sum(shard.timings.values())
                self._deliver(shard)


def _add(total: dict[str, float], seconds: Mapping[str, float], share: float = 1.0) -> None:
    total.update({name: total.get(name, 0.0) + share * value for name, value in seconds.items()})


def environment(backend: Backend) -> dict[str, str]:
    """The fingerprint under which this backend's bytes are promised."""
    return fingerprint(backend.device, backend.precision, backend.micro_batch, backend.facts)
