"""`python -m tests.scale simulate | sick | played | actors | dataset`: what grows with actors and shards; `make scale`.

simulate  the driver against thousands of simulated actors that fail, in virtual time, each row in its own process
sick      the same in a calm cluster with sick GPUs: how many shards they cost
played    the driver and Ray's calls, with thousands of actors that a few processes play by sleeping
actors    shards per second of 1, 2, 4 real actors whose model only sleeps
dataset   very many tiny shards listed, resumed, merged and verified, each step in its own process

Prints Markdown. Exit code 3 where a shard was lost or made twice, or the stated share or memory is missed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.doubles.tables import markdown
from tests.scale.world import ShardTimes, World
from xreal_synth.cli.evaluate_common import machine
from xreal_synth.cli.output import bytes_text, seconds_text
from xreal_synth.storage import open_store

MISSED = 3


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)

    def verb(run: Callable[[argparse.Namespace], int], **defaults: object) -> None:
        one = verbs.add_parser(run.__name__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        for name, value in defaults.items():
            kind = type(value[0] if isinstance(value, list) else value)
            many = {"nargs": "+"} if isinstance(value, list) else {}
            one.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value, **many)  # type: ignore[arg-type]
        one.set_defaults(run=run)

    verb(
        simulate, actors=[8, 64, 512, 4096], shards=100_000, shard_seconds=120.0, spread=0.2, shard_times="",
        deaths=0.01, node_losses=0.05, storage_errors=1e-3, hangs=1e-5, poison=2, killers=1, seed=1,
    )  # fmt: skip
    verb(
        sick, actors=[512, 4096], shards=12_000, shard_seconds=60.0, spread=0.2, failing=3, failing_seconds=0.2,
        overflowing=1, overflow_seconds=3.0, seed=1,
    )  # fmt: skip
    verb(played, actors=[8, 64, 512], shard_seconds=5.0, rounds=5, hosts=2)
    verb(actors, actors=[1, 2, 4], shards=8, shard_seconds=2.0, least=0.97)
    verb(dataset, shards=10_000, folder="", most_memory=1.0)
    given = parser.parse_args(arguments)
    print(f"Machine: {machine('cpu')}.\n")
    return int(given.run(given))


def simulate(given: argparse.Namespace) -> int:
    from tests.scale.run import simulate_apart

    times = ShardTimes(given.shard_seconds, given.spread)
    if given.shard_times:  # a dataset, whose records' seconds are drawn again
        times = ShardTimes.of_dataset(open_store(given.shard_times), None)
    chances = ("deaths", "node_losses", "storage_errors", "hangs", "poison", "killers", "seed")
    world = {name: getattr(given, name) for name in chances}
    rows = [simulate_apart(World(count, times, **world), given.shards) for count in given.actors]
    columns = (
        "actors", "shards", "virtual time", "driver CPU per shard", "driver's share of a core", "peak memory",
        "waiting for the driver", "lost to failures", "starting, ending", "actors lost", "given up", "lost",
        "doubled",
    )  # fmt: skip
    show(columns, (
        [f"{row.actors:,}", f"{row.shards:,}", seconds_text(row.virtual_s), f"{row.driver_us:.0f} us",
         f"{row.core:.3%}", bytes_text(row.peak_bytes), f"{row.idle:.3%}", f"{row.failures:.2%}",
         f"{row.start + row.tail:.2%}", row.happened.get("gone", 0) + row.happened.get("hung", 0),
         row.quarantined, row.lost, row.doubled] for row in rows
    ))  # fmt: skip
    return MISSED if any(row.lost or row.doubled for row in rows) else 0


def sick(given: argparse.Namespace) -> int:
    from tests.scale.run import simulate_apart

    times = ShardTimes(given.shard_seconds, given.spread)
    cards = {"failing": given.failing, "failing_s": given.failing_seconds, "overflowing": given.overflowing}
    worlds = [
        World(count, times, **cards, overflow_s=given.overflow_seconds, seed=given.seed) for count in given.actors
    ]
    rows = [simulate_apart(world, given.shards) for world in worlds]
    print(
        f"{given.failing} cards fail a shard after {given.failing_seconds:g} s, {given.overflowing} make numbers that "
        f"are not finite, seen after {given.overflow_seconds:g} s; a shard takes {given.shard_seconds:g} s.\n"
    )
    columns = ("actors", "shards", "virtual time", "retired", "tries lost", "given up", "lost", "doubled")
    show(columns, (
        [f"{row.actors:,}", f"{row.shards:,}", seconds_text(row.virtual_s), row.happened.get("retired", 0),
         row.retried, row.quarantined, row.lost, row.doubled] for row in rows
    ))  # fmt: skip
    return MISSED if any(row.quarantined or row.lost or row.doubled for row in rows) else 0


def played(given: argparse.Namespace) -> int:
    from tests.scale.played import measure_played

    with own_ray():
        rows = [measure_played(count, given.shard_seconds, given.rounds, given.hosts) for count in given.actors]
    columns = (
        "actors", "a shard", "shards", "shards/s", "actors busy", "driver's thread per shard",
        "driver's process per shard", "full at",
    )  # fmt: skip
    show(columns, (
        [f"{row.actors:,}", f"{row.shard_s:g} s", f"{row.shards:,}", f"{row.shards_per_s:.1f}", f"{row.busy:.1%}",
         f"{row.loop_us:.0f} us", f"{row.process_us:.0f} us", f"{row.limit_per_s:.0f} shards/s"] for row in rows
    ))  # fmt: skip
    return 0


def actors(given: argparse.Namespace) -> int:
    from tests.scale.actors import measure_scale

    with own_ray() as address, tempfile.TemporaryDirectory(prefix="xreal-scale-") as folder:
        rows = measure_scale(
            sorted(given.actors), Path(folder), shards_per_actor=given.shards, shard_s=given.shard_seconds,
            address=address,
        )  # fmt: skip
    show(("actors", "shards", "seconds", "shards/s", "of linear"), (
        [row.actors, row.shards, f"{row.seconds:.2f}", f"{row.shards_per_s:.2f}", f"{row.linear:.3f}"]
        for row in rows
    ))  # fmt: skip
    return MISSED if any(row.linear < given.least for row in rows) else 0


def dataset(given: argparse.Namespace) -> int:
    """In a temporary folder, or in `folder`, which is left and used again."""
    from tests.scale.dataset import write_dataset
    from tests.scale.steps import STEPS, measure_step

    with tempfile.TemporaryDirectory(prefix="xreal-scale-") as temporary:
        folder = Path(given.folder or temporary)
        write_dataset(folder, given.shards)
        rows = [measure_step(step, folder, given.shards) for step in STEPS]
    show(("step", "seconds", "CPU seconds", "ms per shard", "peak memory"), (
        [row.step, f"{row.seconds:.1f}", f"{row.cpu_s:.1f}", f"{row.ms_per_shard:.3f}", bytes_text(row.peak_bytes)]
        for row in rows
    ))  # fmt: skip
    return MISSED if any(row.peak_bytes > given.most_memory * 1e9 for row in rows) else 0


def show(columns: tuple[str, ...], rows: Iterator[list[object]]) -> None:
    print("\n".join(markdown(columns, rows)), flush=True)


@contextmanager
def own_ray() -> Iterator[str]:
    """A Ray of this machine that this process has joined; its address."""
    import ray

    from tests.doubles.local_cluster import local_cluster

    with local_cluster(cpus=3) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield cluster.address


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
