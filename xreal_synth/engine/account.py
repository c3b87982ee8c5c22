"""What a run has made so far: told as it goes, and summed up at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.record import DatasetSummary, refused_by_check
from xreal_synth.engine.ledger import Totals
from xreal_synth.engine.pool import Clock
from xreal_synth.engine.progress import (
    COMPLETE,
    PARTIAL,
    STOPPED,
    Advanced,
    ExitCode,
    OnEvent,
    RunSummary,
    ShardDone,
    ShardFailure,
)
from xreal_synth.errors import XrealError
from xreal_synth.recipe.schema import Recipe
from xreal_synth.types import ShardRecord

if TYPE_CHECKING:
    from xreal_synth.dataset.head import DatasetHead
    from xreal_synth.run.setup import Run
    from xreal_synth.storage import Store

ADVANCE_EVERY_S = 0.5


_NEXT: dict[ExitCode, str] = {
    COMPLETE: "",
    PARTIAL: "the dataset is not complete: fix what failed, then run the same command again to go on",
    STOPPED: "stopped: run the same command again to go on",
}


@dataclass(frozen=True, slots=True)
class ImagesPerGroup:
    """Means over the findings rows: images delivered, and images the models make (the twin always; twice each
    where images are upscaled)."""

    delivered: float
    made: float

    def images(self, groups: int) -> int:
        """Delivered images expected of this many groups."""
        return round(groups * self.delivered)

    def share(self, made: float, groups: int) -> float:
        """Delivered images that `made` images of a shard of `groups` groups stand for, about."""
        return min(made, groups * self.made) * self.delivered / self.made


def images_per_group(recipe: Recipe) -> ImagesPerGroup:
    """A group without findings gives its healthy image, or a sham; any other its variants, and twin and sham."""
    pairs = recipe.pairs
    total = sum(row.weight for row in recipe.findings)
    delivered = made = 0.0
    for row in recipe.findings:
        share = row.weight / total
        edited = pairs.variants * len(row.kinds) + recipe.sham_share(row)
        negative = recipe.edits_negative(row)
        edited = edited if row.paints else float(negative)
        delivered += share * (edited + pairs.twin if row.paints or negative else 1)
        made += share * (1 + edited)
        if recipe.output.upscale is not None:
            made += share * (edited + (not recipe.on_images))
    return ImagesPerGroup(delivered=delivered, made=made)


class Meter:
    """Images per second over a sliding window of the run."""

    def __init__(self, window_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._window, self._clock = window_s, clock
        self._points: deque[tuple[float, int]] = deque([(clock(), 0)])

    def rate(self, images: int) -> float:
        """Images per second, given how many images this run has made by now."""
        now = self._clock()
        self._points.append((now, images))
        while len(self._points) > 2 and self._points[1][0] < now - self._window:
            self._points.popleft()
        then, before = self._points[0]
        return max(images - before, 0) / (now - then) if now > then else 0.0


class Account:
    """Counts images for the events and the summary. Made before Ray starts; `totals` grow with the run; `merge` is
    `finish`, or what stands in for it where no shard has files."""

    def __init__(
        self, run: Run, store: Store, totals: Totals, tell: OnEvent, clock: Clock = time.monotonic,
        merge: Callable[..., DatasetSummary | None] = finish,
    ) -> None:  # fmt: skip
        self.run, self.store, self.totals, self.tell = run, store, totals, tell
        self._clock, self._merge = clock, merge
        self._expected = images_per_group(run.recipe)
        self._began = self._advanced_at = clock()
        self._before = totals.samples
        self._meter = Meter(clock=self._clock)

    @property
    def images_total(self) -> int:
        """Images in hand, and those expected of the groups that are not."""
        covered = self.totals.groups + self.totals.dropped
        return self.totals.samples + self._expected.images(self.run.recipe.anatomies - covered)

    def start_clock(self) -> None:
        """From now on images are made: images per second count from here."""
        self._meter = Meter(clock=self._clock)

    def done(self, record: ShardRecord) -> None:
        self.totals.add(record)
        self.tell(
            ShardDone(
                shard=record.shard,
                images=record.samples,
                rejected=record.rejected,
                seconds=record.timings.get("make_s", 0.0),
                done=self.totals.shards,
                total=self.run.plan.shard_count,
                groups=record.groups,
                dropped=record.dropped,
                refused=refused_by_check(record),
                bytes=record.tar.bytes,
                timings=record.timings,
                actor=record.actor,
            )
        )

    @property
    def due(self) -> bool:
        """Whether it is time to tell how far the run is: twice a second at most."""
        return self._clock() - self._advanced_at >= ADVANCE_EVERY_S

    def advance(
        self, flights: Sequence[tuple[int, float]], states: Mapping[str, int], *, stopping: bool = False
    ) -> None:
        """Tells how far the run is, if it is time; `flights` are shards at work, with the images made in each, `states`
        counts the actors by state."""
        if not self.due:
            return
        self._advanced_at = self._clock()
        size, groups = self.run.recipe.output.shard_size, self.run.recipe.anatomies
        parts = (self._expected.share(images, min(size, groups - size * shard)) for shard, images in flights)
        images, total = round(self.totals.samples + sum(parts)), self.images_total
        rate = self._meter.rate(images - self._before)
        eta = (total - images) / rate if rate > 0 and not stopping else None
        actors = sum(states.values())
        self.tell(Advanced(min(images, total), total, rate, eta, actors, states, len(flights)))

    def summary(
        self, head: DatasetHead | None, given_up: Mapping[int, str], not_made: Mapping[int, str], *, stopped: bool
    ) -> RunSummary:
        """The run's end, with the reasons why shards were given up, or not made although nothing is wrong with them.
        Unless the run was stopped, the tables of the whole dataset are written anew."""
        code: ExitCode = PARTIAL if given_up or not_made else COMPLETE
        if stopped and not_made:
            code = STOPPED
        totals, seconds = self.totals, self._clock() - self._began
        made = totals.samples - self._before
        dataset, message = None, _NEXT[code]
        if head is not None and code != STOPPED:
            try:
                split, asked = self.run.plan.split, self.run.recipe.anatomies
                dataset = self._merge(self.store, head, split_of=split, asked=asked)
            except (OSError, XrealError) as error:
                code, message = PARTIAL, f"the dataset's tables were not written: {error}\n{_NEXT[PARTIAL]}"
        failed = [(given_up, True), (not_made, False)]
        return RunSummary(
            exit_code=code,
            uri=self.store.uri,
            shards_total=self.run.plan.shard_count,
            shards_done=totals.shards,
            samples=totals.samples,
            groups=totals.groups,
            rejected=totals.rejected,
            dropped=totals.dropped,
            generated_images=made,
            seconds=seconds,
            images_per_s=made / seconds if seconds > 0 else 0.0,
            label_counts=dict(totals.labels),
            gate=totals.gate,
            unchecked=self.run.quality.unchecked,
            failures=tuple(
                ShardFailure(shard, reason, quarantined)
                for reasons, quarantined in failed
                for shard, reason in sorted(reasons.items())
            ),
            message=message,
            dataset=dataset,
        )
