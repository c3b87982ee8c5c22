"""A backend that notes when its actor comes to what, and how many films it has made for how much CPU."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xreal_synth.engine.backend import Backend, BackendSpec, Networks, OnBatch, import_networks
from xreal_synth.engine.micro_batch import Trial
from xreal_synth.engine.resources import ActorShape
from xreal_synth.opening import parse_json
from xreal_synth.quality.gate import Gate
from xreal_synth.sampling.jobs import GroupFilms, GroupJob

if TYPE_CHECKING:
    from xreal_synth.engine.setup import Run


@dataclass(slots=True)
class Marks:
    """What one actor has noted. Moments are seconds since the epoch: `called` when it was to load, `imported` with
    torch and the networks' code, `loaded` with the models, `first_film` when it had films first. `cpu_s` is its
    process's time from `loaded` on, `films` were made in it."""

    called: float = 0.0
    imported: float = 0.0
    loaded: float = 0.0
    begun: float | None = None
    first_film: float | None = None
    films: int = 0
    cpu_s: float = 0.0


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
    def micro_batch(self) -> int:
        return self.inner.micro_batch

    @property
    def gate(self) -> Gate:
        return self.inner.gate

    @property
    def trials(self) -> tuple[Trial, ...]:
        return getattr(self.inner, "trials", ())

    def render(self, jobs: Iterable[GroupJob], on_batch: OnBatch) -> Iterator[GroupFilms]:
        self.marks.begun = self.marks.begun or time.time()
        for group in self.inner.render(jobs, on_batch):
            if self.marks.first_film is None:
                self.marks.first_film = time.time()
                self._write()
            self.marks.films += len(group.films)
            yield group
        self._write()

    def _write(self) -> None:
        if self.file is None:
            return
        self.marks.cpu_s = time.process_time() - self._cpu_began
        written = self.file.with_suffix(".part")
        written.write_text(json.dumps(asdict(self.marks)))
        written.replace(self.file)


def read_marks(folder: Path) -> list[Marks]:
    """The marks of every actor that made films."""
    return [Marks(**parse_json(file.read_text())) for file in sorted(folder.glob("*.json"))]
