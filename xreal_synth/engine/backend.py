"""The seam between the engine and what makes images."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from xreal_synth.engine.micro_batch import LARGEST, PER_SHARD, Trial, find_micro_batch, measure_torch
from xreal_synth.engine.samples import enlarged_fade
from xreal_synth.errors import NotFiniteError
from xreal_synth.quality.gate import Gate
from xreal_synth.run.group_job import first_jobs
from xreal_synth.run.resources import ActorShape
from xreal_synth.sampling.jobs import GroupImages, GroupJob, Renderer, in_batches

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run
    from xreal_synth.sampling.model import SamplerModel
    from xreal_synth.sampling.upscale import UpscalerModel

_CANARIES = 8
"""First groups of which one, at least, should have a place for its findings."""

OnBatch = Callable[[float], None]
"""Told how many images were made, or what share of one."""


class Backend(Protocol):
    """Makes images of planned groups. Loaded once per actor."""

    @property
    def device(self) -> str:
        """The device kind in words, as the fingerprint states it."""

    @property
    def precision(self) -> str: ...

    @property
    def facts(self) -> Mapping[str, str]:
        """What else changes bytes on the device, for the fingerprint."""

    @property
    def micro_batch(self) -> int: ...

    @property
    def gate(self) -> Gate:
        """The gate with its networks."""

    @property
    def canary(self) -> str:
        """The hash of an image that every backend of the run makes when it is opened; empty where none is made."""

    def is_sound(self) -> bool:
        """Whether the device still computes what is known beforehand; asked after a failure."""
        ...

    def settle(self, micro_batch: int | None) -> None:
        """Fixes the micro-batch of one that waits for it, finds it where it is None, and makes the canary's image."""
        ...

    def renderer(self, on_batch: OnBatch = lambda images: None) -> Renderer:
        """What makes images from now on; `on_batch(images)` after each micro-batch."""
        ...


class BackendSpec(Protocol):
    """What is sent to an actor, which opens it there."""

    def open(self, run: Run, shape: ActorShape) -> Backend: ...


def import_networks() -> None:
    """Imports torch and what opening a bundle takes: most of an actor's start."""
    with absent("transformers"):
        pass


@contextmanager
def absent(package: str) -> Iterator[None]:
    """While it lasts the package is as if not installed, unless it is imported already.

    diffusers imports all of transformers where it finds it, a quarter of an actor's start, and needs nothing of it
    for a bundle's networks.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # Python's own mark of what cannot be imported
    try:
        yield
    finally:
        del sys.modules[package]


@dataclass(frozen=True, slots=True)
class Networks:
    """The recipe's bundle, on the actor's device."""

    def open(self, run: Run, shape: ActorShape) -> TorchBackend:
        """Loads the networks, hashes checked first. Raises BundleError."""
        import_networks()
        import torch

        from xreal_synth.engine.gate_networks import open_networks
        from xreal_synth.models.devices import device_facts, device_name, open_device, resolve_compile
        from xreal_synth.models.layers import resolve_precision
        from xreal_synth.models.load import load_bundle, load_upscaler

        if shape.device == "cpu":
            torch.set_num_threads(1)
        open_device(shape.device, shape.gpus)
        precision = resolve_precision(shape.precision, shape.device)
        model = load_bundle(run.bundle, shape.device, precision, run.sampling.control)
        compiled = resolve_compile(shape.compile, shape.device, suited=model.suited)
        model.compile(compiled)
        upscaler = None
        if run.sampling.upscale_steps is not None:
            upscaler = load_upscaler(run.bundle, shape.device, precision)
        gate = Gate(run.quality, open_networks(run.quality, run.bundle, shape.device))
        backend = TorchBackend(
            run, model, gate, device_name(shape.device), precision, shape.micro_batch or 1, upscaler,
            device_facts(shape.device, compiled), shape.gpus,
        )  # fmt: skip
        if not shape.waits:
            backend.settle(shape.micro_batch)
        return backend


@dataclass(slots=True, eq=False)
class TorchBackend:
    """Images from a loaded bundle. `share` is the actor's part of a GPU, 0 on a CPU; `trials` are those by which the
    micro-batch was found."""

    run: Run
    model: SamplerModel
    gate: Gate
    device: str
    precision: str
    micro_batch: int
    upscaler: UpscalerModel | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    share: float = 0.0
    trials: tuple[Trial, ...] = ()
    canary: str = ""

    def serving(self, run: Run) -> TorchBackend:
        """The same loaded networks for another run of the same bundle, control and quality."""
        return replace(self, run=run, trials=(), canary="")

    def settle(self, micro_batch: int | None) -> None:
        """Raises EngineError where not even one group fits."""
        if micro_batch is None:
            largest = min(LARGEST, self.run.recipe.output.shard_size // PER_SHARD, self.run.recipe.anatomies)
            measure = partial(measure_torch, self.run, self, share=self.share)
            self.micro_batch, self.trials = find_micro_batch(measure, largest)
        else:
            self.micro_batch = micro_batch
        if self.share > 0:
            self.canary = self.draw_canary()

    def is_sound(self) -> bool:
        from xreal_synth.models.devices import is_sound

        return is_sound(self.model.device)

    def draw_canary(self) -> str:
        """sha256 of the images of the first group that can be placed, in a micro-batch of the run's own size."""
        job = next(first_jobs(self.run, _CANARIES), None)
        if job is None:
            return ""
        try:
            made = list(in_batches(self.renderer(), [job], self.micro_batch))
        except NotFiniteError as error:
            return sha256(error.found.encode()).hexdigest()
        images = [image for batch in made for group in batch for _, image in sorted(group.images.items())]
        return sha256(b"".join(image.tobytes() for image in images)).hexdigest()

    def release(self) -> None:
        """Forgets what was recorded for another micro-batch, whose memory is free then."""
        if (release := getattr(self.model, "release", None)) is not None:
            release()

    def renderer(self, on_batch: OnBatch = lambda images: None) -> Renderer:
        from xreal_synth.sampling.groups import GroupSampler

        sampler = GroupSampler(self.model, self.run.sampling, self.micro_batch, on_batch=on_batch)
        if self.upscaler is None:
            return sampler
        return _Upscaled(self.run, self.upscaler, sampler, on_batch)


@dataclass(frozen=True, slots=True)
class _Upscaled:
    """`inner`'s images made larger; groups come in the order in which they were begun."""

    run: Run
    upscaler: UpscalerModel
    inner: Renderer
    on_batch: OnBatch
    jobs: deque[GroupJob] = field(default_factory=deque)

    def begin(self, jobs: Sequence[GroupJob]) -> list[GroupImages]:
        self.jobs.extend(jobs)
        return self._enlarged(self.inner.begin(jobs))

    def finish(self) -> list[GroupImages]:
        return self._enlarged(self.inner.finish())

    def _enlarged(self, groups: list[GroupImages]) -> list[GroupImages]:
        from xreal_synth.sampling.upscale import upscale_groups

        steps, times = self.run.sampling.upscale_steps, self.run.enlarging
        assert steps is not None, "an upscaler is loaded where it is asked for"
        jobs = [self.jobs.popleft() for _ in groups]
        return list(
            upscale_groups(
                self.upscaler, groups, jobs, steps=steps, on_images=self.on_batch,
                fade=lambda region: enlarged_fade(region, times),
            )
        )  # fmt: skip
