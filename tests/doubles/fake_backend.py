"""A backend without networks: fake images drawn from the organ masks, for tests and benches of the engine.

The images are a pure function of the plan, like a model's. Faults happen where they are asked for. No recipe
can choose this backend; it is an argument of `ray_driver.generate`.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from xreal_synth.anatomy.label_map import enlarged
from xreal_synth.engine.backend import Backend, OnBatch
from xreal_synth.errors import BundleError, NotFiniteError
from xreal_synth.quality.gate import Gate
from xreal_synth.run.resources import ActorShape
from xreal_synth.sampling.jobs import GroupImages, GroupJob, Renderer
from xreal_synth.seeds import normal
from xreal_synth.types import GreyImage, Role

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run

GREY = np.array([0.75, 0.25, 0.25, 0.8, 0.85], dtype=np.float32)
"""Of background and the organ codes 1..4."""


@dataclass(frozen=True, slots=True)
class FakeImages:
    """`sleep_s` per group. Groups in `poison` raise, those in `mistake` raise one of the project's errors,
    those in `hang` never end, those in `die` kill their process, those in `oom` raise what torch raises when a
    device is full: always, or once where `once` names a folder. `broken` fails to load, `boot_hang` never ends
    loading (once). Groups in `held` leave a file `at-INDEX` with their process's id in the folder `hold`, and wait
    there for a file `go`. No file may grow beyond `file_limit` bytes. Images of the (group, attempt) in `blank` are
    of one grey level, so that the gate's pixel check refuses them. `sick` is what the card of the second actor does:
    raise at every shard (error), make no finite number (overflow), compute other images (canary), or die once, so
    that nothing is right on it afterwards (dead).
    """

    sleep_s: float = 0.0
    poison: frozenset[int] = frozenset()
    mistake: frozenset[int] = frozenset()
    hang: frozenset[int] = frozenset()
    die: frozenset[int] = frozenset()
    oom: frozenset[int] = frozenset()
    held: frozenset[int] = frozenset()
    once: str | None = None
    hold: str | None = None
    broken: bool = False
    blank: frozenset[tuple[int, int]] = frozenset()
    boot_hang: bool = False
    file_limit: int | None = None
    sick: Literal["", "error", "overflow", "canary", "dead"] = ""

    def open(self, run: Run, shape: ActorShape) -> Backend:
        """Raises RuntimeError if it is `broken`."""
        if self.broken:
            raise RuntimeError("this backend was asked not to load")
        if self.boot_hang and self.due("boot"):
            time.sleep(1e6)
        if self.file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_limit, self.file_limit))
        backend = FakeBackend(self, shape.micro_batch or 1, run)
        if self.sick and not self.due("first-card") and self.due("second-card"):
            time.sleep(1.0)  # the other claims the dataset
            backend.sick = self.sick
        backend.canary = "odd" if backend.sick == "canary" else "usual"
        return backend

    def due(self, fault: str) -> bool:
        """Whether the fault is to happen now; it leaves a mark in the folder `once`."""
        if self.once is None:
            return True
        mark = Path(self.once) / fault
        if mark.exists():
            return False
        mark.touch()
        return True


class OutOfMemoryError(RuntimeError):
    """Named as torch's own, which this backend does without."""


class FakeBackend:
    """Draws fake images."""

    device = "fake"
    precision = "none"
    facts: ClassVar[Mapping[str, str]] = {}

    def __init__(self, settings: FakeImages, micro_batch: int, run: Run) -> None:
        self._settings = settings
        self._times = run.enlarging
        self.gate = Gate(run.quality)
        self.micro_batch = micro_batch
        self.sick = self.canary = ""

    def settle(self, micro_batch: int | None) -> None:
        """Two groups are what is found."""
        self.micro_batch = micro_batch or 2

    def is_sound(self) -> bool:
        return self.sick != "dead"

    def renderer(self, on_batch: OnBatch = lambda images: None) -> Renderer:
        return FakeRenderer(self, on_batch)

    def group(self, job: GroupJob) -> GroupImages:
        self._fault(job.index)
        time.sleep(self._settings.sleep_s)
        images = {Role.healthy.member(): fake(job)}
        for member in job.members:
            image = images[Role.healthy].astype(np.float32)
            for edit in member.edits:
                image += edit.alpha * 40.0
            images[member.name] = image.clip(0, 255).astype(np.uint8)
        if (job.index, job.attempt) in self._settings.blank:
            images = {name: np.full_like(image, 90) for name, image in images.items()}
        if self.sick == "canary":
            images = {name: image ^ np.uint8(1) for name, image in images.items()}
        images = {name: enlarged(image, self._times) for name, image in images.items()}
        return GroupImages(index=job.index, images=images)

    def _fault(self, index: int) -> None:
        settings = self._settings
        if self.sick in ("error", "dead"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if self.sick == "overflow":
            raise NotFiniteError(found=f"the denoiser's numbers overflow in group {index}")
        if index in settings.mistake:
            raise BundleError(found=f"group {index} was asked to be a mistake")
        if index in settings.poison:
            raise RuntimeError(f"group {index} is poison")
        if index in settings.held and settings.hold is not None:
            wait_for_go(Path(settings.hold), str(index))
        if index in settings.oom and settings.due(f"oom-{index}"):
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if index in settings.hang and settings.due(f"hang-{index}"):
            time.sleep(1e6)
        if index in settings.die and settings.due(f"die-{index}"):
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class FakeRenderer:
    """Every group is finished as soon as it is begun."""

    backend: FakeBackend
    on_batch: OnBatch

    def begin(self, jobs: Sequence[GroupJob]) -> list[GroupImages]:
        batch = [self.backend.group(job) for job in jobs]
        self.on_batch(sum(len(group.images) for group in batch))
        return batch

    def finish(self) -> list[GroupImages]:
        return []


def wait_for_go(folder: Path, name: str) -> None:
    """Leaves a file `at-NAME` with this process's id, and waits for a file `go`."""
    written = folder / f".at-{name}"
    written.write_text(str(os.getpid()))
    written.rename(folder / f"at-{name}")
    while not (folder / "go").exists():
        time.sleep(0.02)


def fake(job: GroupJob) -> GreyImage:
    """Organs in plain greys with the group's own noise, uint8 [H, W]; a real image as it is."""
    if job.image is not None:
        return job.image
    noise = normal(job.anatomy.shape, job.seed, job.index, job.attempt, "a.x_T")
    return ((GREY[job.anatomy] + 0.03 * noise) * 255).clip(0, 255).astype(np.uint8)
