"""What a training would need, without data and without weights: sizes, memory, time.

The task is built and its loss differentiated under FakeTensorMode: every operation of a real step runs on
tensors that have shapes and no numbers.

- FLOPs are torch.utils.flop_counter's (two a multiply-add; matrix products, convolutions, attention), forward
  and backward, of the whole loss, frozen networks included.
- Activations are the bytes that autograd keeps for the backward pass, without the weights themselves.

Both are counted for two batch sizes, which splits them into a share for each image and a fixed share.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from xreal_synth.training.config import TrainConfig
from xreal_synth.training.draws import split
from xreal_synth.training.images import ImageBatch
from xreal_synth.training.loop import check_split
from xreal_synth.training.sketch import sketch_batch, sketch_task
from xreal_synth.training.tasks.base import TrainingTask

_flops: Any = flop_counter  # its formulas carry no types

FEW, MORE = 2, 3
UTILISATION = 0.35
PEAK_TFLOPS: dict[str, dict[str, float]] = {
    "bf16": {"NVIDIA H100 SXM": 989.0, "NVIDIA RTX A6000": 154.8},
    "fp32": {"NVIDIA H100 SXM": 66.9, "NVIDIA RTX A6000": 38.7},
}
"""Dense peaks of the makers' data sheets, in 10^12 operations a second. The paper trained on two RTX A6000."""

FLOAT32 = 4


def _attention(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    return int(_flops.sdpa_flop_count(query, key, value))


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **named: Any
) -> int:
    return int(_flops.sdpa_backward_flop_count(grad, query, key, value))


CPU_ATTENTION: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""torch's counter knows the attention kernels of GPUs; these are the CPU's, of the same shapes."""


@dataclass(frozen=True, slots=True)
class PartSize:
    """A network of the task: how many of its weights are trained, how many stay as they are."""

    name: str
    trained: int
    frozen: int


@dataclass(frozen=True, slots=True)
class CountedLinear:
    """A cost of `fixed` + `per_image` * images."""

    fixed: float
    per_image: float

    def of(self, images: int) -> float:
        return self.fixed + self.per_image * images


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on each worker's device.

    The weights set aside while the average stands in for them (`average_swap`) and what a step needs (gradients,
    buckets, activations) are never there at the same time: `total` counts the larger of the two.
    """

    weights: int
    gradients: int
    moments: int
    average: int
    average_swap: int
    buckets: int
    activations: int

    @property
    def total(self) -> int:
        kept = self.weights + self.moments + self.average
        return kept + max(self.average_swap, self.gradients + self.buckets + self.activations)


@dataclass(frozen=True, slots=True)
class DryRun:
    """A training's sizes. `flops` and `activations` are those of one part of a batch."""

    parts: tuple[PartSize, ...]
    flops: CountedLinear
    activations: CountedLinear
    steps: int
    batch: int
    accumulate: int
    workers: int
    precision: str

    @property
    def trained(self) -> int:
        return sum(part.trained for part in self.parts)

    @property
    def weights(self) -> int:
        return sum(part.trained + part.frozen for part in self.parts)

    @property
    def images_at_once(self) -> int:
        """Images in a worker's largest part of a batch."""
        return max(part.count for part in split(self.batch, self.accumulate * self.workers))

    def memory(self) -> Memory:
        """fp32 weights, gradients, AdamW's two moments, the weights' running average, and the copy of the
        weights that waits while the average stands in for them; with several workers their gradient buckets."""
        one = self.trained * FLOAT32
        return Memory(
            weights=self.weights * FLOAT32,
            gradients=one,
            moments=2 * one,
            average=one,
            average_swap=one,
            buckets=one if self.workers > 1 else 0,
            activations=round(self.activations.of(self.images_at_once)),
        )

    def flops_per_step(self) -> float:
        """Of all workers together."""
        return self.flops.per_image * self.batch + self.flops.fixed * self.accumulate * self.workers

    def seconds(self, flops_per_s: float) -> float:
        """Of the whole training, each worker computing at this rate; validation, reading and waiting left out."""
        return self.flops_per_step() * self.steps / (flops_per_s * self.workers)


def dry_run(config: TrainConfig, path: Path, workers: int = 1) -> DryRun:
    """Builds the config's task without weights and counts a step of its end, when every loss takes part.

    Raises TrainingError for a config that training would refuse, and where a network it stands on is not known.
    """
    loop = config.loop
    check_split(loop, workers)
    with FakeTensorMode():
        task = sketch_task(config, path)
        task.step = loop.steps
        counts = [
            count(
                task, sketch_batch(images, config.data.image_size, len(config.data.findings)), loop.precision
            )
            for images in (FEW, MORE)
        ]
        parts = sizes(task)
    flops, kept = (_linear(few, more) for few, more in zip(*counts, strict=True))
    return DryRun(parts, flops, kept, loop.steps, loop.batch, loop.accumulate, workers, loop.precision)


def sizes(task: TrainingTask) -> tuple[PartSize, ...]:
    """The networks that a task holds, each weight counted once."""
    seen: set[int] = set()
    found = []
    for name, network in task.networks().items():
        own = [p for p in network.parameters() if id(p) not in seen]
        seen.update(map(id, own))
        trained = sum(p.numel() for p in own if p.requires_grad)
        found.append(PartSize(name, trained, sum(p.numel() for p in own) - trained))
    return tuple(part for part in found if part.trained + part.frozen)


def measured_flops(device: str | None, precision: str, seconds: float = 1.0) -> float:
    """Operations a second of this machine in a 3x3 convolution of 128 channels, forward and backward."""
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    layer = nn.Conv2d(128, 128, 3, padding=1).to(kind)
    x = torch.randn(2, 128, 32, 32, device=kind, requires_grad=True)
    each = 3 * 2 * x.numel() * 128 * 9

    def once() -> None:
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16"):
            layer(x).float().sum().backward()
        if kind == "cuda":
            torch.cuda.synchronize()

    once()
    started, rounds = time.monotonic(), 0
    while rounds < 2 or time.monotonic() - started < seconds:
        once()
        rounds += 1
    return each * rounds / (time.monotonic() - started)


def count(task: TrainingTask, batch: ImageBatch, precision: str) -> tuple[float, float]:
    """(FLOPs, bytes kept for the backward pass) of a part of a batch, forward and backward, in training."""
    task.module.train()
    generator = torch.Generator().manual_seed(0)
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter, _kept(task) as kept:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = task.loss(batch, generator)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops()), float(kept.bytes)


@dataclass(slots=True)
class _KeptTensors:
    """Storages that autograd keeps, each counted once; they are held, so that no address comes twice."""

    own: set[int]
    storages: dict[int, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.own:
            self.storages[storage._cdata] = storage
        return tensor


@contextmanager
def _kept(task: TrainingTask) -> Iterator[_KeptTensors]:
    own = set()
    for network in task.networks().values():
        for tensor in (*network.parameters(), *network.buffers()):
            own.add(tensor.untyped_storage()._cdata)
    kept = _KeptTensors(own)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        yield kept


def _linear(few: float, more: float) -> CountedLinear:
    per_image = (more - few) / (MORE - FEW)
    return CountedLinear(max(0.0, few - per_image * FEW), per_image)
