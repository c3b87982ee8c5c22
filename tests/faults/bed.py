"""Where faults are tried: one recipe of many tiny shards, the bytes it must give, and what a run showed."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.doubles.fake_backend import FakeImages
from tests.doubles.local_cluster import ClusterNode, LocalCluster
from tests.doubles.shards import run_shard
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.names import INDEX, RECORDS, REJECTED, SAMPLES, SHARDS, TABLES, shards_in, stem_of
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.progress import ActorLost, Event, RunSummary, ShardDone, ShardRetried
from xreal_synth.engine.ray_driver import generate
from xreal_synth.engine.schedule import Limits
from xreal_synth.engine.worker import environment
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run, claim, open_run
from xreal_synth.storage import LocalStore, Store, open_store

SHARD_COUNT = 8
RECIPE = f"""\
version: 1
name: chaos
seed: 11
anatomies: {2 * SHARD_COUNT}
bundle: xreal-tiny
findings:
  - {{weight: 1, labels: []}}
  - {{weight: 2, labels: [{{name: Pneumonia}}]}}
pairs: {{twin: true}}
sampling: {{steps: 5}}
quality: {{profile: none}}
split: {{val: 0.3}}
output: {{uri: unset, shard_samples: 2}}
compute: {{micro_batch: 2}}
"""
LIMITS = Limits(tick_s=0.1, hang_s=240, drain_s=60)
QUICK = FakeImages(sleep_s=0.1)
DRIVER_S = 180.0


@dataclass(slots=True)
class Watched:
    """A run's summary, and its events with the seconds at which they came."""

    summary: RunSummary | None = None
    events: list[tuple[float, Event]] = field(default_factory=list)

    def of(self, *kinds: type) -> list[Event]:
        return [event for _, event in self.events if isinstance(event, kinds)]

    def first(self, *kinds: type, after: float = 0.0) -> float | None:
        times = (at for at, event in self.events if at >= after and isinstance(event, kinds))
        return next(times, None)

    @property
    def exit_code(self) -> int:
        assert self.summary is not None, "the run has ended"
        return self.summary.exit_code


@dataclass(slots=True)
class Seen:
    """What a fault's trial showed. `wrong` holds everything that was not as it must be."""

    exit_code: int
    said: str = ""
    detected_s: float | None = None
    retried: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    bytes_equal: bool = True

    def must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)


class Bed:
    """`cluster` is joined by this process; outputs go into new folders below `folder`."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self._numbers = itertools.count()
        self._struck_at = 0.0
        self._adding = threading.Lock()
        self._whole: dict[str, str] | None = None

    @property
    def whole(self) -> dict[str, str]:
        """The files of an undisturbed run, made here shard after shard without Ray, with their hashes."""
        if self._whole is None:
            run, folder = self.run(), self.folder / "undisturbed"
            store = LocalStore(folder)
            backend = FakeImages().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
            head = claim(run, store, environment(backend))
            for shard in range(run.plan.shard_count):
                run_shard(run, backend, run.plan.shard(shard), store)
            finish(store, head, split_of=run.plan.split, asked=run.recipe.anatomies)
            self._whole = hashes(folder)
        return self._whole

    @property
    def whole_folder(self) -> Path:
        """The undisturbed run's dataset; not to be written to."""
        assert self.whole
        return self.folder / "undisturbed"

    def output(self) -> Path:
        """A place for one dataset that is not there yet."""
        folder = self.folder / f"{next(self._numbers):02d}"
        folder.mkdir()
        return folder / "out"

    def marks(self) -> str:
        """A folder for the marks of faults that happen once."""
        folder = self.folder / f"{next(self._numbers):02d}-marks"
        folder.mkdir()
        return str(folder)

    def run(self, **settings: object) -> Run:
        """The recipe's run; keywords replace settings, `__` for a dot (compute__actors=2)."""
        overrides = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in settings.items()]
        return open_run(LoadedRecipe(recipe_from_text(RECIPE, overrides=overrides), RECIPE))

    def drive(
        self, out: Path | str, backend: FakeImages = QUICK, *, run: Run | None = None, limits: Limits = LIMITS,
        on_event: Callable[[Event], None] | None = None, stop: threading.Event | None = None,
        again: Collection[int] = (), leave: Mapping[int, str] = MappingProxyType({}),
    ) -> Watched:  # fmt: skip
        """One run of the real driver, in this process, with two actors unless `run` says otherwise."""
        watched = Watched()

        def note(event: Event) -> None:
            watched.events.append((time.monotonic(), event))
            if on_event is not None:
                on_event(event)

        watched.summary = generate(
            run or self.run(compute__actors=2), open_store(str(out)), address=self.cluster.address,
            backend=backend, limits=limits, on_event=note, stop=stop, again=again,
            leave=leave,
        )  # fmt: skip
        return watched

    def driver(
        self, out: Path, *, sleep_s: float = 0.3, address: str | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.Popen[str]:  # fmt: skip
        """A run by a process of its own with one actor, on this cluster or on the one at `address`."""
        return subprocess.Popen(
            self.driver_command(out, sleep_s=sleep_s, address=address), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment_here(), **environment},
        )  # fmt: skip

    def driver_command(
        self, out: Path, *, sleep_s: float, address: str | None = None, held: tuple[int, Path] | None = None
    ) -> list[str]:
        """`held` is a group that waits, and the folder of its marks."""
        place = [str(out), address or self.cluster.address, str(sleep_s)]
        held_at = [] if held is None else [str(held[0]), str(held[1])]
        return [sys.executable, "-m", "tests.faults.drive", *place, *held_at]

    def gpu_nodes(self, count: int) -> list[ClusterNode]:
        """So many nodes of one (pretended) GPU each, besides the head that has none."""
        with self._adding:
            while len(self.cluster.nodes) < count:
                self.cluster.add_node(cpus=1, gpus=1)
        return self.cluster.nodes[:count]

    def trap(self, group: int, blow: Callable[[int], object], *others: str) -> dict[str, Any]:
        """Settings of a fake that holds `group` until the damage is done: `blow(pid)` of the process that
        makes it, with everyone else at work. The marks of `others` are waited for, too."""
        folder = Path(self.marks())

        def spring() -> None:
            deadline = time.monotonic() + DRIVER_S
            marks = [folder / f"at-{each}" for each in (group, *others)]
            while not all(mark.exists() for mark in marks) and time.monotonic() < deadline:
                time.sleep(0.02)
            pid = int(marks[0].read_text())
            try:
                self.strike(lambda: blow(pid))
                while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                    time.sleep(0.02)  # an orphan of a dead node may live on for a moment, and end its shard
            finally:
                (folder / "go").touch()

        threading.Thread(target=spring, daemon=True).start()
        return {"held": frozenset({group}), "hold": str(folder)}

    def happened(self, marks: str, fault: str) -> None:
        """Takes the time of a fault from the mark that it left."""
        self._struck_at = time.monotonic() - (time.time() - Path(marks, fault).stat().st_mtime)

    def strike(self, blow: Callable[[], object]) -> None:
        """Does the damage and notes when."""
        self._struck_at = time.monotonic()
        blow()

    def seen(self, watched: Watched, out: Path, *, without: Collection[int] = ()) -> Seen:
        """What a run has left, held against the undisturbed one; shards `without` may be missing."""
        assert watched.summary is not None, "the run has ended"
        noticed = watched.first(ActorLost, ShardRetried, after=self._struck_at)
        seen = Seen(
            watched.exit_code,
            said=watched.summary.message,
            detected_s=None if noticed is None or not self._struck_at else noticed - self._struck_at,
            retried=len(watched.of(ShardRetried)),
        )
        self._struck_at = 0.0
        self.check(seen, out, without=without)
        reported = [event.shard for event in watched.of(ShardDone) if isinstance(event, ShardDone)]
        seen.must(len(reported) == len(set(reported)), f"shards reported done twice: {reported}")
        return seen

    def check(self, seen: Seen, out: Path, *, without: Collection[int] = ()) -> None:
        """Every shard but those once and whole, equal to the undisturbed run's; everything agrees."""
        store: Store = LocalStore(out)
        done = shards_in(store, RECORDS, "chaos")
        wanted = sorted(set(range(SHARD_COUNT)) - set(without))
        seen.lost += len(set(wanted) - set(done))
        seen.doubled += len(done) - len(set(done)) + len(set(done) - set(wanted))
        stems = {stem_of("chaos", shard) for shard in without}
        ends = {SAMPLES, REJECTED, INDEX} if without else set()
        expected = {
            path: sha
            for path, sha in self.whole.items()
            if Path(path).name.split(".")[0] not in stems and path not in ends
        }
        found = {path: sha for path, sha in hashes(out).items() if path not in ends}
        differing = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
        seen.bytes_equal = seen.bytes_equal and not differing
        seen.must(not differing, f"files that differ from the undisturbed run's: {', '.join(differing[:4])}")
        problems = [str(problem) for problem in verify(store).problems if problem.shard not in without]
        seen.must(not problems, f"verify: {'; '.join(problems[:3])}")


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of tars, tables and the files at the end, by path."""
    ends = [folder / name for name in (SAMPLES, REJECTED, INDEX)]
    files = [path for part in (SHARDS, TABLES) for path in (folder / part).glob("[!.]*")] + ends
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if path.is_file()
    }


def environment_here() -> dict[str, str]:
    """What a process needs to import this very package and its tests."""
    root = str(Path(__file__).parents[2])
    return {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))}
