"""The engine's speed against a bare loop over the same model, in one run.

Three ways make the same groups in the same micro-batches: `bare`, where jobs that were planned beforehand go through
a `Renderer` and nothing is done with the images; `worker`, which makes and publishes the shards in this process;
and `engine`, the whole of it, with actors of Ray. They take turns, and of each way's passes the fastest counts: what
else runs on the machine only ever adds time. CPU seconds are those of the process that makes the images, all threads
together: what a machine whose cores are all at work would have to give.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from tests.doubles.fake_backend import FakeImages
from tests.speed.marked import Marked, MarkedBackend, Marks, read_marks
from xreal_synth.engine.account import images_per_group
from xreal_synth.engine.backend import BackendSpec
from xreal_synth.engine.progress import ActorUp, Event, ShardDone
from xreal_synth.engine.publish import OpenShard, publish_shard
from xreal_synth.engine.ray_actor import WAITING
from xreal_synth.engine.ray_driver import generate
from xreal_synth.engine.ray_session import session
from xreal_synth.engine.worker import Worker
from xreal_synth.errors import EngineError
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text, with_overrides
from xreal_synth.run.attempts import plan_group
from xreal_synth.run.group_job import group_job
from xreal_synth.run.resources import ActorShape
from xreal_synth.run.setup import Run, open_run
from xreal_synth.run.stopwatch import GATE, MODEL, WAIT
from xreal_synth.sampling.jobs import GroupJob, in_batches
from xreal_synth.storage import LocalStore

Way = Literal["bare", "worker", "engine"]
WAYS: Final[tuple[Way, ...]] = ("bare", "worker", "engine")

RECIPE: Final = """\
version: 1
name: speed
seed: 7
anatomies: 1
bundle: {bundle}
findings:
  - {{weight: 1, labels: []}}
  - {{weight: 1, labels: [{{name: Pneumonia}}]}}
  - {{weight: 1, labels: [{{name: Effusion, side: right}}]}}
  - {{weight: 1, labels: [{{name: Edema}}]}}
pairs: {{twin: true}}
output: {{uri: unset}}
"""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of a way: images that the model made, wall seconds, CPU seconds of the process that made them, and
    its threads' seconds by stopwatch.py's names. `actors` of them generated images beside one another. `beside_s` are
    CPU seconds of the model's thread outside the model, where it is this process's."""

    way: Way
    images: int
    seconds: float
    cpu_s: float
    spent: Mapping[str, float]
    actors: int = 1
    beside_s: float = 0.0

    def share(self, name: str) -> float:
        """Of the actors' wall time, what went under that name."""
        return self.spent.get(name, 0.0) / (self.seconds * self.actors)

    @property
    def outside(self) -> float:
        """The share of the actors' wall time in neither the sampler nor the gate."""
        return 1.0 - self.share(MODEL) - self.share(GATE)


@dataclass(frozen=True, slots=True)
class WayFigures:
    """A way's fastest pass; `wall` and `cpu` are its images per second of each kind over the bare loop's, per actor.

    `outside` is the share of the actors' time in neither sampler nor gate, `gate` and `waiting` those in the gate
    and waiting for planner or encoder, all of the fastest pass.
    """

    way: Way
    images: int
    images_per_s: float
    cpu_s_per_image: float
    wall: float
    cpu: float
    outside: float
    gate: float
    waiting: float


@dataclass(frozen=True, slots=True)
class Task:
    """What is timed: `shards` shards of `groups` groups for each actor, with settings of a recipe in `settings`."""

    bundle: str
    groups: int
    shards: int
    settings: Mapping[str, object]

    def run(self, actors: int = 1, **settings: object) -> Run:
        """The recipe for so many actors; `__` stands for a dot. Raises RecipeError, BundleError."""
        text = RECIPE.format(bundle=json.dumps(self.bundle))
        recipe = recipe_from_text(text, overrides=self._overrides(self.groups * self.shards, actors, settings))
        return open_run(LoadedRecipe(recipe, text))

    def text(self, actors: int, micro_batch: int) -> str:
        """The recipe of one micro-batch as a file has it."""
        overrides = self._overrides(micro_batch, actors, {"compute__micro_batch": micro_batch})
        return with_overrides(RECIPE.format(bundle=json.dumps(self.bundle)), overrides)

    def _overrides(self, anatomies: int, actors: int, settings: Mapping[str, object]) -> list[str]:
        given = {
            "anatomies": anatomies,
            "output.shard_samples": self.groups,
            "compute.actors": json.dumps({"min": actors, "max": actors}),
            **self.settings,
            **{key.replace("__", "."): value for key, value in settings.items()},
        }
        return [f"{key}={value}" for key, value in given.items()]


def sleeping(run: Run, image_s: float) -> FakeImages:
    """A model that only sleeps, `image_s` for each image on average."""
    return FakeImages(sleep_s=image_s * images_per_group(run.recipe).made)


class WaysBench:
    """Makes passes. The model is opened once in this process; every pass of the engine starts its own actors."""

    def __init__(self, task: Task, spec: BackendSpec, shape: ActorShape, actors: int) -> None:
        self._task, self._spec, self._actors = task, spec, actors
        run = task.run()
        self.backend = MarkedBackend(spec.open(run, shape), Marks())
        self._run = task.run(compute__micro_batch=self.backend.micro_batch)
        self._jobs = list(_planned(self._run))

    def measure(
        self, repeats: int, ways: Sequence[Way] = WAYS, on_pass: Callable[[Way], None] = lambda way: None
    ) -> list[Pass]:
        """Every way `repeats` times, in turn. Raises EngineError if a run of the engine does not end well."""
        make: dict[Way, Callable[[Path], Pass]] = {
            "bare": lambda folder: self._bare(), "worker": self._worker, "engine": self._engine
        }  # fmt: skip
        passes = []
        with ExitStack() as stack:
            if "engine" in ways:
                stack.enter_context(session(None, self._task.run(self._actors).recipe.compute))
            for _ in range(repeats):
                for way in ways:
                    with tempfile.TemporaryDirectory(prefix="xreal-speed-") as folder:
                        passes.append(make[way](Path(folder)))
                    on_pass(way)
        return passes

    def _bare(self) -> Pass:
        images, cpu, began = self.backend.marks.images, time.process_time(), time.monotonic()
        for jobs in self._jobs:
            deque(in_batches(self.backend.renderer(), jobs, self.backend.micro_batch), maxlen=0)
        seconds = time.monotonic() - began
        cpu_s = time.process_time() - cpu
        return Pass("bare", self.backend.marks.images - images, seconds, cpu_s, {MODEL: seconds})

    def _worker(self, folder: Path) -> Pass:
        """As an actor does it: one worker for all shards, each published while the next is made."""
        run, store, spent = self._run, LocalStore(folder), Counter[str]()
        marks, own = self.backend.marks, time.thread_time()
        images, model_cpu, cpu, began = marks.images, marks.model_cpu_s, time.process_time(), time.monotonic()
        publisher, records = ThreadPoolExecutor(1), []

        def deliver(rendered: OpenShard) -> None:
            publish = partial(publish_shard, actor="local", attempt=0, replacing=False)
            records.append(publisher.submit(publish, run, rendered, store))

        with publisher, Worker(run, self.backend, deliver) as worker:
            for k in range(run.plan.shard_count):
                worker.make(run.plan.shard(k), WAITING)
            worker.finish()
        for record in records:
            spent.update(record.result().timings)
        seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu
        beside = time.thread_time() - own - (marks.model_cpu_s - model_cpu)
        return Pass("worker", marks.images - images, seconds, cpu_s, spent, beside_s=beside)

    def _engine(self, folder: Path) -> Pass:
        marks = folder / "marks"
        marks.mkdir()
        _free_device()
        run = self._task.run(self._actors, compute__micro_batch=self.backend.micro_batch)
        seen: list[tuple[float, ActorUp | ShardDone]] = []

        def on_event(event: Event) -> None:
            if isinstance(event, ActorUp | ShardDone):
                seen.append((time.monotonic(), event))

        spec = Marked(self._spec, str(marks))
        summary = generate(run, LocalStore(folder / "out"), on_event=on_event, backend=spec)
        up = [at for at, event in seen if isinstance(event, ActorUp)]
        done = [(at, event) for at, event in seen if isinstance(event, ShardDone)]
        if summary.exit_code or len(up) != self._actors or len(done) != run.plan.shard_count:
            raise EngineError(
                found=f"exit code {summary.exit_code}, {len(up)} of {self._actors} actors, {len(done)} of "
                f"{run.plan.shard_count} shards",
                wanted="a run that nothing disturbs",
            )
        made, spent = read_marks(marks), Counter[str]()
        for _, event in done:
            spent.update(event.timings)
        return Pass(
            "engine", sum(one.images for one in made), done[-1][0] - up[-1], sum(one.cpu_s for one in made),
            spent, self._actors,
        )  # fmt: skip


def figures(passes: list[Pass]) -> list[WayFigures]:
    """A row for each way, against the bare loop's passes."""
    ways = list(dict.fromkeys(one.way for one in passes))
    bare_s, bare_cpu = (
        min(value(one) for one in passes if one.way == "bare") for value in (_wall_per_image, _cpu_per_image)
    )
    rows = []
    for way in ways:
        own = [one for one in passes if one.way == way]
        best = min(own, key=_wall_per_image)
        cpu = min(map(_cpu_per_image, own))
        rows.append(
            WayFigures(
                way=way,
                images=best.images,
                images_per_s=best.images / best.seconds,
                cpu_s_per_image=cpu,
                wall=bare_s / _wall_per_image(best),
                cpu=bare_cpu / cpu,
                outside=best.outside,
                gate=best.share(GATE),
                waiting=best.share(WAIT),
            )
        )
    return rows


def _wall_per_image(one: Pass) -> float:
    return one.seconds * one.actors / one.images


def _cpu_per_image(one: Pass) -> float:
    return one.cpu_s / one.images


def _planned(run: Run) -> Iterator[list[GroupJob]]:
    """The first attempts' jobs, by shard."""
    for k in range(run.plan.shard_count):
        shard = run.plan.shard(k)
        specs = [plan_group(run, index)[0] for index in range(shard.start, shard.stop)]
        yield [group_job(run, spec) for spec in specs if spec is not None]


def _free_device() -> None:
    """What this process keeps of a GPU beside the model goes, so that an actor finds room."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
