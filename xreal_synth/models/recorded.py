"""The denoiser's kernels recorded once for each number of rows, and sent to the GPU as one.

The kernels are those that run one by one, so the bytes are the same; what goes is the time in which the host names
them. Neither a compiler nor a cache is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xreal_synth.errors import EngineError
from xreal_synth.models.devices import does_not_fit, is_sound

Pair = tuple[Tensor, Tensor]
Replay = Callable[[], None]
Record = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
"""Runs a function without arguments, and returns what runs it again, and where its result is then."""
WARM_UPS = 3


@dataclass(slots=True, eq=False)
class _Recording:
    """`still` are the tensors that a recording reads, `out` the one that it writes; `prompt` what was copied last."""

    still: tuple[Tensor, ...]
    prompt: list[Pair]
    replay: Replay
    out: Tensor


class Recorded:
    """`FastUNet.compute`, recorded for each shape of its latents. `record` is `cuda_graphs()` but for tests."""

    def __init__(self, compute: Callable[..., Tensor], record: Record | None = None) -> None:
        self._compute = compute
        self._record = record or cuda_graphs()
        self._kept: dict[tuple[object, ...], _Recording] = {}

    def __call__(
        self, z: Tensor, t: Tensor, prompt: list[Pair], added: Tensor | None, down: Sequence[Tensor],
        middle: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Takes and returns what `FastUNet.compute` does. Raises EngineError for a denoiser that cannot be recorded,
        torch.OutOfMemoryError and its like for one that does not fit."""
        key = (z.shape, len(down))
        fixed = [*(one for pair in prompt for one in pair), *([] if added is None else [added])]
        fresh = [z, t, *down, *([] if middle is None else [middle])]
        there = self._kept.get(key)
        if there is None:
            there = self._kept[key] = self._recorded(fresh, fixed, prompt, added, down)
        else:
            same = there.prompt is prompt
            for to, new in zip(there.still, fresh if same else fresh + fixed, strict=not same):
                to.copy_(new)
            there.prompt = prompt
        there.replay()
        return there.out.clone()

    def release(self) -> None:
        """Forgets the recordings, so that their memory is free for other numbers of rows."""
        self._kept.clear()

    def _recorded(
        self, fresh: list[Tensor], fixed: list[Tensor], prompt: list[Pair], added: Tensor | None, down: Sequence[Tensor]
    ) -> _Recording:
        still = tuple(one.clone() for one in (*fresh, *fixed))
        z, t, *residuals = still[: len(fresh)]
        held = list(still[len(fresh) :])
        pairs = list(zip(held[0 : 2 * len(prompt) : 2], held[1 : 2 * len(prompt) : 2], strict=True))
        given = (z, t, pairs, None if added is None else held[-1], residuals[: len(down)])
        middle = residuals[-1] if len(residuals) > len(down) else None
        try:
            replay, out = self._record(lambda: self._compute(*given, middle))
        except RuntimeError as error:
            if does_not_fit(error) or not is_sound(z.device):
                raise
            raise EngineError(
                found=f"the denoiser cannot be recorded as a CUDA graph: {error}",
                wanted="kernels that are named without looking at results",
                hint="set compute.compile: none; the images are the same, a little later",
            ) from error
        return _Recording(still, prompt, replay, out)


def cuda_graphs() -> Record:
    """Recordings of torch's, that share their memory: one is replayed after another, never two at once."""
    pool = torch.cuda.graph_pool_handle()

    def record(compute: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        here = torch.cuda.current_stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                compute()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            out = compute()
        return graph.replay, out

    return record
