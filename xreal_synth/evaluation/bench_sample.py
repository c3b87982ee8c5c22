"""The speed of sampling against the plain loop, with everything measured in one run, and what a machine can do at best.

A pass makes one image with a finding (and on the way its healthy twin) for each of a row's anatomies. Rows
take turns, and of each row's passes the fastest counts: what else runs on the machine only ever adds time.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch.utils import flop_counter

from xreal_synth.anatomy.regions import FEATHER_SHARE, feather
from xreal_synth.anatomy.sources import BankSource
from xreal_synth.evaluation.plain_loop import PlainLoop
from xreal_synth.evaluation.request import sampling_settings
from xreal_synth.models.describe import BundleInfo
from xreal_synth.models.devices import Compile
from xreal_synth.models.layers import CPU_ATTENTION, DTYPES, Precision
from xreal_synth.models.load import load_bundle
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.models.text.ldm_bert import TextEncoder, TextShape
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.jobs import Edit, GroupJob, MemberJob
from xreal_synth.types import Role, SamplingSettings

Clock = Literal["wall", "cpu"]

BF16_PEAK_TFLOPS: Final = {
    "H200": 989.0,
    "H100 80GB HBM3": 989.0,
    "H100 PCIe": 756.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX A6000": 155.0,
}
"""Dense tensor-core peaks from the makers' data sheets, by a part of torch's name of the device."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def stated_peak(device: torch.device | str, precision: Precision) -> float | None:
    """The maker's TFLOP/s of a known GPU in bf16; None for what is not known."""
    if torch.device(device).type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in BF16_PEAK_TFLOPS.items() if part in name), None)


def clock(device: torch.device | str, kind: Clock) -> Callable[[], float]:
    """Seconds: `wall` by the clock, once the device is done; `cpu` the time this process was given.

    On a machine that others use too, `cpu` with one thread is what `wall` would be alone.
    """
    if kind == "cpu":
        return time.process_time
    if torch.device(device).type != "cuda":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def matmul_tflops(device: torch.device | str, precision: Precision, now: Callable[[], float]) -> float:
    """TFLOP/s of a square matrix product, the best of five: what can be had of this machine."""
    side = 8192 if torch.device(device).type == "cuda" else 1024
    a = torch.randn(side, side, device=device).to(DTYPES[precision])
    best = float("inf")
    for _ in range(5):
        began = now()
        a @ a
        best = min(best, now() - began)
    return 2 * side**3 / best / 1e12


def timed(run: Callable[[], object], device: torch.device, now: Callable[[], float]) -> tuple[float, int | None]:
    """Seconds of a run, and the most memory in use meanwhile, in bytes above what was in use before.

    On a GPU what torch allocated; on Linux the process's resident memory; elsewhere None.
    """
    on_gpu, before = device.type == "cuda", None
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            _CLEAR.write_text("5")  # resets VmHWM
            before = _resident("VmRSS")
    began = now()
    run()
    seconds = now() - began
    if before is None:
        return seconds, None
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else _resident("VmHWM")
    return seconds, max(peak - before, 0)


def _resident(field: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


Loop = Literal["plain", "plain-cached", "plain-fused", "reference", "branch"]
PLAIN: Final = ("plain", "plain-cached", "plain-fused")

BOX = (0.375, 0.1875, 0.625, 0.4375)
"""Rows and columns of the finding's region: in the right lung, 1/16 of the picture."""


@dataclass(frozen=True, slots=True)
class LoopTiming:
    """One way of making images; `plain` is the loop of the released code, `plain-cached` the same with its label
    embeddings computed before, `plain-fused` that with guidance by one call in the place of two."""

    loop: Loop
    micro_batch: int = 1
    precision: Precision = "fp32"
    compiled: Compile | None = None


@dataclass(frozen=True, slots=True)
class RowFigures:
    """`seconds` of the fastest pass, `first_seconds` of the first one (with compiling, if any).

    `ratio` is to the plain loop in the same precision; `memory` the peak above the loaded networks, bytes;
    `tflops` counted multiplications and additions per second; `utilisation` their share of the peak. All
    None where a row ran out of memory (`seconds` too) or what it needs is not known.
    """

    row: LoopTiming
    seconds: float | None = None
    first_seconds: float | None = None
    images_per_second: float | None = None
    ratio: float | None = None
    memory: int | None = None
    tflops: float | None = None
    utilisation: float | None = None


@dataclass(frozen=True, slots=True)
class Peak:
    """TFLOP/s of the device in the denoiser's precision: the maker's or the user's figure, or a matmul's."""

    tflops: float
    source: Literal["stated", "matrix product"]


@dataclass(frozen=True, slots=True)
class SampleFigures:
    """Figures of `bench sample`; `flops` are of one image with a finding, by loop."""

    settings: dict[Loop, SamplingSettings]
    peak: dict[Precision, Peak]
    flops: dict[Loop, float]
    rows: list[RowFigures]


@dataclass(slots=True)
class SampleBench:
    """The models of a bench, each loaded when its first row runs."""

    info: BundleInfo
    settings: dict[Loop, SamplingSettings]
    device: torch.device
    text: TextShape | None
    clock: Clock = "wall"
    _models: dict[tuple[Precision, str], LoadedBundle] = field(default_factory=dict)
    _text: dict[Precision, TextEncoder] = field(default_factory=dict)

    def measure(
        self,
        rows: Sequence[LoopTiming],
        repeats: int,
        *,
        peak: float | None = None,
        on_pass: Callable[[LoopTiming], None] = lambda row: None,
    ) -> SampleFigures:
        """Runs every row `repeats` times in turn (compiled ones once more, to compile)."""
        flops = {loop: self._flops(loop, precision) for loop, precision in {r.loop: r.precision for r in rows}.items()}
        spent: dict[LoopTiming, list[float]] = {row: [] for row in rows}
        memory: dict[LoopTiming, int | None] = {}
        for turn in range(repeats + 1):
            for row in list(spent):
                if turn == repeats and row.compiled is None:
                    continue
                try:
                    seconds, memory[row] = timed(self._ready(row), self.device, clock(self.device, self.clock))
                    spent[row].append(seconds)
                except torch.OutOfMemoryError:
                    del spent[row]
                on_pass(row)
        peaks = {row.precision: self._peak(row.precision, peak) for row in rows}
        plain = {row.precision: min(times) for row, times in spent.items() if row.loop == "plain"}
        figures = []
        for row in rows:
            if (times := spent.get(row)) is None:
                figures.append(RowFigures(row))
                continue
            rate, one = row.micro_batch / min(times), plain.get(row.precision)
            ratio, tflops = None if one is None else rate * one, rate * flops[row.loop] / 1e12
            share = tflops / peaks[row.precision].tflops
            figures.append(RowFigures(row, min(times), times[0], rate, ratio, memory[row], tflops, share))
        return SampleFigures(self.settings, peaks, flops, figures)

    def passes(self, rows: Sequence[LoopTiming], repeats: int) -> int:
        """How often `measure` calls on_pass, if nothing runs out of memory."""
        return sum(repeats + (row.compiled is not None) for row in rows)

    def jobs(self, count: int) -> list[GroupJob]:
        """The first `count` jobs: drawn anatomies, each with one finding in a fixed box."""
        size = self.info.image_size
        bank = BankSource(self.info.part("anatomy_bank"))
        region = np.zeros((size, size), dtype=bool)
        y0, x0, y1, x1 = (round(size * share) for share in BOX)
        region[y0:y1, x0:x1] = True
        prompt = next(iter(self.info.prompts.values()), self.info.healthy_prompt)
        member = MemberJob(Role.variant.member(), (Edit(region, prompt, feather(region, FEATHER_SHARE * size)),))
        drawn = (bank.draw(np.random.default_rng((0, index)), size)[0] for index in range(count))
        return [
            GroupJob(0, index, 0, anatomy, self.info.healthy_prompt, (member,)) for index, anatomy in enumerate(drawn)
        ]

    def _ready(self, row: LoopTiming, *, tuned: bool = True) -> Callable[[], object]:
        """The row's pass, with its model loaded."""
        jobs, settings = self.jobs(row.micro_batch), self.settings[row.loop]
        if row.loop not in PLAIN:
            model = self._model(row.precision, row.compiled or ("tuned" if tuned else "plain"))
            return lambda: list(sample_groups(model, settings, jobs, micro_batch=row.micro_batch))
        text = self._text_encoder(row.precision) if row.loop == "plain" else None
        ids = None if text is None else torch.zeros(1, 150, dtype=torch.long, device=self.device)
        loop = PlainLoop(self._model(row.precision, "plain"), settings, text, ids, fused=row.loop == "plain-fused")
        return lambda: [loop.images(job.anatomy, job.members[0].edits[0], job.healthy_prompt) for job in jobs]

    def _model(self, precision: Precision, kind: Literal["plain", "tuned"] | Compile) -> LoadedBundle:
        if (precision, kind) not in self._models:
            model = load_bundle(self.info, self.device, precision, tuned=kind != "plain")
            if kind != "plain" and kind != "tuned":
                model.compile(kind)
            self._models[precision, kind] = model
        return self._models[precision, kind]

    def _text_encoder(self, precision: Precision) -> TextEncoder | None:
        if self.text is not None and precision not in self._text:
            with torch.random.fork_rng(devices=[]):
                encoder = TextEncoder(self.text).eval().requires_grad_(False)
            self._text[precision] = encoder.to(self.device, DTYPES[precision])
        return self._text.get(precision)

    def _flops(self, loop: Loop, precision: Precision) -> float:
        """Multiplications and additions of one image, counted while diffusers' own denoiser makes it."""
        run = self._ready(LoopTiming(loop, 1, precision), tuned=False)
        with flop_counter.FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            run()
        return float(counter.get_total_flops())

    def _peak(self, precision: Precision, given: float | None) -> Peak:
        stated = given or stated_peak(self.device, precision)
        if stated is not None:
            return Peak(stated, "stated")
        return Peak(matmul_tflops(self.device, precision, clock(self.device, self.clock)), "matrix product")


def loop_settings(info: BundleInfo, steps: int) -> dict[Loop, SamplingSettings]:
    """How each loop samples; the plain ones as mode `reference`. Raises RecipeError for a wrong step count."""
    reference = sampling_settings({"mode": "reference", "steps": steps}, info)
    branch = sampling_settings({"mode": "branch", "steps": steps}, info)
    return {**dict.fromkeys(PLAIN, reference), "reference": reference, "branch": branch}


def rows_of(
    loops: Sequence[Loop],
    micro_batches: Sequence[int],
    precision: Precision,
    compiled: Sequence[Compile | None] = (None,),
) -> list[LoopTiming]:
    """The plain loop in fp32 and in `precision`, its improvements in that, then the others at every
    micro-batch, each way compiled."""
    precisions: tuple[Precision, ...] = ("fp32", precision) if precision != "fp32" else ("fp32",)
    rows = [LoopTiming("plain", 1, each) for each in precisions if "plain" in loops]
    rows += [LoopTiming(loop, 1, precision) for loop in loops if loop in PLAIN[1:]]
    for how in compiled:
        for loop in loops:
            if loop not in PLAIN:
                rows += [LoopTiming(loop, size, precision, how) for size in micro_batches]
    return rows
