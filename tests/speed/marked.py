"""A backend that notes when its actor comes to what, and how many images it has made for how much CPU."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xreal_synth.engine.backend import Backend, BackendSpec, Networks, OnBatch, import_networks
from xreal_synth.engine.micro_batch import Trial
from xreal_synth.opening import parse_json
from xreal_synth.quality.gate import Gate
from xreal_synth.run.resources import ActorShape
from xreal_synth.sampling.jobs import GroupImages, GroupJob, Renderer

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run


@dataclass(slots=True)
class Marks:
    """What one actor has noted. Moments are seconds since the epoch: `called` when it was to load, `imported` with
    torch and the networks' code, `loaded` with the models, `first_image` when it had images first. `cpu_s` is its
    process's time from `loaded` on, `model_cpu_s` its model's thread's in the model; `images` were made in it."""

    called: float = 0.0
    imported: float = 0.0
    loaded: float = 0.0
    begun: float | None = None
    first_image: float | None = None
    images: int = 0
    cpu_s: float = 0.0
    model_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Marked:
    """Opens `inner` and keeps its marks in a file of `folder`, which all actors see."""

    inner: BackendSpec
    folder: str

    def open(self, run: Run, shape: ActorShape) -> Backend:
        """Raises what `inner` raises."""
        marks = Marks(called=time.time())
        if isinstance(self.inner, Networks):
            import_networks()
        marks.imported = time.time()
        backend = self.inner.open(run, shape)
        marks.loaded = time.time()
        return MarkedBackend(backend, marks, Path(self.folder) / f"{os.getpid()}.json")


@dataclass(slots=True)
class MarkedBackend:
    """`inner`, watched; without a file the marks are for this process alone."""

    inner: Backend
    marks: Marks
    file: Path | None = None
    _cpu_began: float = field(default_factory=time.process_time)

    @property
    def device(self) -> str:
        return self.inner.device

    @property
    def precision(self) -> str:
        return self.inner.precision

    @property
    def canary(self) -> str:
        return self.inner.canary

    def settle(self, micro_batch: int | None) -> None:
        self.inner.settle(micro_batch)

    def is_sound(self) -> bool:
        return self.inner.is_sound()

    @property
    def facts(self) -> Mapping[str, str]:
        return self.inner.facts

    @property
    def micro_batch(self) -> int:
        return self.inner.micro_batch

    @property
    def gate(self) -> Gate:
        return self.inner.gate

    @property
    def trials(self) -> tuple[Trial, ...]:
        return getattr(self.inner, "trials", ())

    def renderer(self, on_batch: OnBatch = lambda images: None) -> Renderer:
        return _MarkedRenderer(self, self.inner.renderer(on_batch))

    def write(self) -> None:
        if self.file is None:
            return
        self.marks.cpu_s = time.process_time() - self._cpu_began
        written = self.file.with_suffix(".part")
        written.write_text(json.dumps(asdict(self.marks)))
        written.replace(self.file)


@dataclass(frozen=True, slots=True)
class _MarkedRenderer:
    backend: MarkedBackend
    inner: Renderer

    def begin(self, jobs: Sequence[GroupJob]) -> list[GroupImages]:
        self.backend.marks.begun = self.backend.marks.begun or time.time()
        return self._noted(lambda: self.inner.begin(jobs))

    def finish(self) -> list[GroupImages]:
        return self._noted(self.inner.finish)

    def _noted(self, make: Callable[[], list[GroupImages]]) -> list[GroupImages]:
        marks, began = self.backend.marks, time.thread_time()
        groups = make()
        marks.model_cpu_s += time.thread_time() - began
        if groups:
            marks.first_image = marks.first_image or time.time()
        marks.images += sum(len(group.images) for group in groups)
        self.backend.write()
        return groups


def read_marks(folder: Path) -> list[Marks]:
    """The marks of every actor that generated images."""
    return [Marks(**parse_json(file.read_text())) for file in sorted(folder.glob("*.json"))]
