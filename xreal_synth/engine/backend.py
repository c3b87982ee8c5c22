"""The seam between the engine and what makes films."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from xreal_synth.engine.resources import ActorShape
from xreal_synth.sampling.jobs import GroupFilms, GroupJob

if TYPE_CHECKING:
    from xreal_synth.engine.setup import Run
    from xreal_synth.sampling.model import SamplerModel

OnBatch = Callable[[int], None]


class Backend(Protocol):
    """Makes films of planned groups. Loaded once per actor."""

    @property
    def device(self) -> str:
        """The device kind in words, as the fingerprint states it."""
        ...

    @property
    def precision(self) -> str: ...

    @property
    def micro_batch(self) -> int: ...

    def render(self, jobs: Sequence[GroupJob], on_batch: OnBatch) -> Iterator[GroupFilms]:
        """The films of each job, in order; `on_batch(films)` after each micro-batch."""
        ...


class BackendSpec(Protocol):
    """What is sent to an actor, which opens it there."""

    def open(self, run: Run, shape: ActorShape) -> Backend: ...


@dataclass(frozen=True, slots=True)
class Networks:
    """The recipe's bundle, on the actor's device."""

    def open(self, run: Run, shape: ActorShape) -> Backend:
        """Loads the networks, hashes checked first. Raises BundleError."""
        import torch

        from xreal_synth.models.load import load_bundle
        from xreal_synth.models.precision import resolve_precision

        if shape.device == "cpu":
            torch.set_num_threads(1)
        precision = resolve_precision(shape.precision, shape.device)
        model = load_bundle(run.bundle, shape.device, precision, run.sampling.control)
        return TorchBackend(run, model, _device_name(shape.device), precision, shape.micro_batch)


class TorchBackend:
    """Films from a loaded bundle."""

    def __init__(self, run: Run, model: SamplerModel, device: str, precision: str, micro_batch: int) -> None:
        self._run = run
        self._model = model
        self.device = device
        self.precision = precision
        self.micro_batch = micro_batch

    def render(self, jobs: Sequence[GroupJob], on_batch: OnBatch) -> Iterator[GroupFilms]:
        from xreal_synth.sampling.groups import sample_groups

        return sample_groups(
            self._model, self._run.sampling, jobs, micro_batch=self.micro_batch, on_batch=on_batch
        )


def _device_name(device: str) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"
