"""What a simulated cluster is like, and the chances in it. All times are virtual seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import RECORDS, shards_in, stem_of
from xreal_synth.dataset.record import read_record
from xreal_synth.errors import DatasetError
from xreal_synth.storage import Store
from xreal_synth.store import in_order, readers

_DRAWS = 4096
_MOST_RECORDS = 10_000


@dataclass(frozen=True, slots=True)
class ShardTimes:
    """How long a shard takes: drawn again from `measured` seconds, else log-normal of this mean with `spread`, the
    standard deviation of the logarithm."""

    mean_s: float
    spread: float = 0.0
    measured: tuple[float, ...] = ()

    @classmethod
    def of_dataset(cls, store: Store, mean_s: float | None) -> ShardTimes:
        """Of a real dataset's records, scaled to a mean where one is given. Raises DatasetError without any."""
        name = read_head(store).name
        shards = shards_in(store, RECORDS, name)[:_MOST_RECORDS]
        records = in_order(lambda shard: read_record(store, stem_of(name, shard)), shards, readers(store))
        reported = [record.timings.get("make_s", 0.0) for record in records if record is not None]
        seconds = [one for one in reported if one > 0]
        if not seconds:
            raise DatasetError(where=store.uri, found="no record with a time", wanted="shards that a run made")
        found = statistics.fmean(seconds)
        scale = 1.0 if mean_s is None else mean_s / found
        logs = [math.log(one) for one in seconds]
        spread = statistics.stdev(logs) if len(logs) > 1 else 0.0
        return cls(found * scale, spread, tuple(one * scale for one in seconds))

    def draws(self, rng: np.random.Generator) -> Iterator[float]:
        """Seconds, without end."""
        centre = math.log(self.mean_s) - self.spread**2 / 2
        while True:
            if self.measured:
                yield from rng.choice(np.array(self.measured), _DRAWS).tolist()
            else:
                yield from rng.lognormal(centre, self.spread, _DRAWS).tolist()


@dataclass(frozen=True, slots=True)
class World:
    """A cluster of `actors` GPUs, `per_node` on a node.

    Chances: actors die at `deaths` per actor hour; nodes go, with their actors, at `node_losses` per node hour and
    others come after `node_back_s` on average; a share `storage_errors` of the shards cannot be published, at a
    share `hangs` the actor hangs. `poison` shards raise always, `killers` always end their actor.
    `failing` cards fail every shard after `failing_s`, `overflowing` ones make numbers that are not finite, seen after
    `overflow_s`; they stay where they are, whatever actor comes to them.
    Times: `boot_s` to load the models, `search_s` for one to find the micro-batch (0: it is known); `publish_s` to
    write a shard's files, beside the next shard; `death_seen_s` and `node_seen_s` until the driver hears of an end;
    `answer_s` the driver spends on each answer with Ray.
    """

    actors: int
    times: ShardTimes
    per_node: int = 8
    deaths: float = 0.0
    node_losses: float = 0.0
    node_back_s: float = 300.0
    storage_errors: float = 0.0
    hangs: float = 0.0
    poison: int = 0
    killers: int = 0
    failing: int = 0
    failing_s: float = 0.2
    overflowing: int = 0
    overflow_s: float = 3.0
    boot_s: float = 30.0
    search_s: float = 0.0
    publish_s: float = 1.0
    death_seen_s: float = 1.0
    node_seen_s: float = 15.0
    answer_s: float = 0.0
    seed: int = 1


class Chances:
    """The world's draws, in the order in which they are asked for: equal for equal seeds."""

    def __init__(self, world: World) -> None:
        self._rng = np.random.default_rng(world.seed)
        self._shards = world.times.draws(np.random.default_rng([world.seed, 1]))
        self._uniform = self._uniforms(np.random.default_rng([world.seed, 2]))

    def shard_s(self) -> float:
        return next(self._shards)

    def happens(self, share: float) -> bool:
        return share > 0 and next(self._uniform) < share

    def after_s(self, per_hour: float) -> float:
        """Until something that happens so often; infinite where it never does."""
        return float(self._rng.exponential(3600.0 / per_hour)) if per_hour > 0 else math.inf

    def about_s(self, mean_s: float) -> float:
        """Within a fifth of the mean."""
        return mean_s * (0.8 + 0.4 * next(self._uniform))

    def some(self, count: int, among: int) -> Sequence[int]:
        """`count` different numbers below `among`."""
        return [int(one) for one in self._rng.choice(among, min(count, among), replace=False)]

    @staticmethod
    def _uniforms(rng: np.random.Generator) -> Iterator[float]:
        while True:
            yield from rng.random(_DRAWS).tolist()
