"""The seam between the engine and what makes images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import tee
from typing import TYPE_CHECKING, Protocol

from xreal_synth.engine.enlarge import enlarged_fade
from xreal_synth.engine.micro_batch import LARGEST, Trial
from xreal_synth.quality.gate import Gate
from xreal_synth.run.resources import ActorShape
from xreal_synth.sampling.jobs import GroupImages, GroupJob

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run
    from xreal_synth.sampling.model import SamplerModel
    from xreal_synth.sampling.upscale import UpscalerModel

OnBatch = Callable[[float], None]
"""Told how many images were made, or what share of one."""


class Backend(Protocol):
    """Makes images of planned groups. Loaded once per actor."""

    @property
    def device(self) -> str:
        """The device kind in words, as the fingerprint states it."""
        ...

    @property
    def precision(self) -> str: ...

    @property
    def micro_batch(self) -> int: ...

    @property
    def gate(self) -> Gate:
        """The gate with its networks."""
        ...

    def render(self, jobs: Iterable[GroupJob], on_batch: OnBatch) -> Iterator[GroupImages]:
        """The images of each job, in order; `on_batch(images)` after each micro-batch. No more jobs are taken than
        are begun."""
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
        from xreal_synth.models.load import load_bundle
        from xreal_synth.models.precision import resolve_precision

        if shape.device == "cpu":
            torch.set_num_threads(1)
        precision = resolve_precision(shape.precision, shape.device)
        model = load_bundle(run.bundle, shape.device, precision, run.sampling.control)
        upscaler = None
        if run.sampling.upscale_steps is not None:
            from xreal_synth.models.upscaler import load_upscaler

            upscaler = load_upscaler(run.bundle, shape.device, precision)
        gate = Gate(run.quality, open_networks(run.quality, run.bundle, shape.device))
        backend = TorchBackend(
            run, model, gate, _device_name(shape.device), precision, shape.micro_batch or 1, upscaler
        )
        if shape.micro_batch is None:
            backend.find_micro_batch(shape.gpus)
        return backend


class TorchBackend:
    """Images from a loaded bundle."""

    def __init__(
        self, run: Run, model: SamplerModel, gate: Gate, device: str, precision: str, micro_batch: int,
        upscaler: UpscalerModel | None = None,
    ) -> None:  # fmt: skip
        self._run = run
        self._model = model
        self._upscaler = upscaler
        self.gate = gate
        self.device = device
        self.precision = precision
        self.micro_batch = micro_batch
        self.trials: tuple[Trial, ...] = ()

    def serving(self, run: Run) -> TorchBackend:
        """The same loaded networks for another run of the same bundle, control and quality."""
        return TorchBackend(
            run, self._model, self.gate, self.device, self.precision, self.micro_batch, self._upscaler
        )

    def find_micro_batch(self, share: float) -> None:
        """Sets the micro-batch by micro_batch.py's rule; `share` is the actor's part of a GPU. Raises
        EngineError."""
        from xreal_synth.engine.micro_batch import find_micro_batch, measure_torch

        largest = min(LARGEST, self._run.recipe.output.shard_size, self._run.recipe.anatomies)
        found = find_micro_batch(lambda size: measure_torch(self._run, self, size, share), largest)
        self.micro_batch, self.trials = found.micro_batch, found.trials

    def render(self, jobs: Iterable[GroupJob], on_batch: OnBatch) -> Iterator[GroupImages]:
        from xreal_synth.sampling.groups import sample_groups

        jobs, once_more = tee(jobs)
        groups = sample_groups(
            self._model, self._run.sampling, jobs, micro_batch=self.micro_batch, on_batch=on_batch
        )
        steps = self._run.sampling.upscale_steps
        if self._upscaler is None or steps is None:
            return groups
        from xreal_synth.sampling.upscale import upscale_groups

        times = self._run.enlarging
        return upscale_groups(
            self._upscaler, groups, once_more, steps=steps, on_images=on_batch,
            fade=lambda region: enlarged_fade(region, times),
        )  # fmt: skip


def _device_name(device: str) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"
