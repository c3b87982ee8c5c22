"""The speed of sampling against the plain loop, with everything measured in one run.

A pass makes one image with a finding (and on the way its healthy twin) for each of a row's anatomies. Rows
take turns, and of each row's passes the fastest counts: what else runs on the machine only ever adds time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from xreal_synth.anatomy.regions import FEATHER_SHARE, feather
from xreal_synth.anatomy.sources import BankSource
from xreal_synth.evaluation.machine import Clock, PeakMemory, clock, matmul_tflops, stated_peak
from xreal_synth.evaluation.plain_loop import PlainLoop
from xreal_synth.evaluation.request import sampling_settings
from xreal_synth.models.describe import BundleInfo
from xreal_synth.models.fast_unet import CompileHow
from xreal_synth.models.load import LoadedBundle, load_bundle
from xreal_synth.models.precision import Precision
from xreal_synth.models.text.ldm_bert import TextEncoder, TextShape
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.jobs import Edit, GroupJob, MemberJob
from xreal_synth.types import Role, SamplingSettings

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
    compiled: CompileHow | None = None


@dataclass(frozen=True, slots=True)
class RowFigures:
    """`seconds` of the fastest pass, `first_seconds` of the first one (with compiling, if any).

    `ratio` is to the plain loop in the same precision; `memory` the peak above the loaded networks, bytes;
    `tflops` counted multiplications and additions per second; `utilisation` their share of the peak. All
    None where a row ran out of memory (`seconds` too) or what it needs is not known.
    """

    row: LoopTiming
    seconds: float | None
    first_seconds: float | None
    images_per_second: float | None
    ratio: float | None
    memory: int | None
    tflops: float | None
    utilisation: float | None


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
    seed: int = 0
    _models: dict[tuple[Precision, str], LoadedBundle] = field(default_factory=dict)
    _jobs: list[GroupJob] = field(default_factory=list)
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
        flops = {row.loop: self._flops(row.loop, row.precision) for row in _one_per_loop(rows)}
        spent: dict[LoopTiming, list[float] | None] = {row: [] for row in rows}
        memory: dict[LoopTiming, int | None] = {}
        for turn in range(repeats + 1):
            for row in rows:
                times = spent[row]
                if times is None or (turn == repeats and row.compiled is None):
                    continue
                try:
                    seconds, memory[row] = self._timed(row)
                    times.append(seconds)
                except torch.OutOfMemoryError:
                    spent[row] = None
                on_pass(row)
        peaks = {row.precision: self._peak(row.precision, peak) for row in rows}
        best = {row: min(times) for row, times in spent.items() if times}
        plain = {row.precision: best[row] for row in best if row.loop == "plain"}
        figures = [
            _figures(row, spent[row] or [], plain.get(row.precision), memory.get(row), flops[row.loop],
                     peaks[row.precision].tflops)
            for row in rows
        ]  # fmt: skip
        return SampleFigures(self.settings, peaks, flops, figures)

    def passes(self, rows: Sequence[LoopTiming], repeats: int) -> int:
        """How often `measure` calls on_pass, if nothing runs out of memory."""
        return sum(repeats + (row.compiled is not None) for row in rows)

    def _timed(self, row: LoopTiming) -> tuple[float, int | None]:
        run, now, memory = self._ready(row), clock(self.device, self.clock), PeakMemory(self.device)
        memory.begin()
        began = now()
        run()
        return now() - began, memory.bytes()

    def _ready(self, row: LoopTiming, *, tuned: bool = True) -> Callable[[], object]:
        """The row's pass, with its model loaded."""
        jobs, settings = self.jobs(row.micro_batch), self.settings[row.loop]
        if row.loop in PLAIN:
            text = self._text_encoder(row.precision) if row.loop == "plain" else None
            ids = None if text is None else torch.zeros(1, 150, dtype=torch.long, device=self.device)
            fused = row.loop == "plain-fused"
            loop = PlainLoop(self._model(row.precision, "plain"), settings, text, ids, fused)
            return lambda: [_plain(loop, job) for job in jobs]
        model = self._model(row.precision, row.compiled or ("tuned" if tuned else "plain"))
        return lambda: list(sample_groups(model, settings, jobs, micro_batch=row.micro_batch))

    def _model(self, precision: Precision, kind: Literal["plain", "tuned"] | CompileHow) -> LoadedBundle:
        key = (precision, kind)
        if key not in self._models:
            model = load_bundle(self.info, self.device, precision, tuned=kind != "plain")
            if kind != "plain" and kind != "tuned":
                model.compile(kind)
            self._models[key] = model
        return self._models[key]

    def _text_encoder(self, precision: Precision) -> TextEncoder | None:
        if self.text is None:
            return None
        if precision not in self._text:
            with torch.random.fork_rng(devices=[]):
                encoder = TextEncoder(self.text).eval().requires_grad_(False)
            self._text[precision] = encoder.to(
                self.device, torch.bfloat16 if precision == "bf16" else torch.float32
            )
        return self._text[precision]

    def _flops(self, loop: Loop, precision: Precision) -> float:
        """Multiplications and additions of one image, counted while diffusers' own denoiser makes it."""
        run = self._ready(LoopTiming(loop, 1, precision), tuned=False)
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            run()
        return float(counter.get_total_flops())

    def _peak(self, precision: Precision, given: float | None) -> Peak:
        stated = given or stated_peak(self.device, precision)
        if stated is not None:
            return Peak(stated, "stated")
        return Peak(matmul_tflops(self.device, precision, clock(self.device, self.clock)), "matrix product")

    def jobs(self, count: int) -> list[GroupJob]:
        """The first `count` jobs: drawn anatomies, each with one finding in a fixed box."""
        size = self.info.image_size
        bank = BankSource(self.info.part("anatomy_bank"))
        region = np.zeros((size, size), dtype=bool)
        y0, x0, y1, x1 = (round(size * share) for share in BOX)
        region[y0:y1, x0:x1] = True
        prompt = next(iter(self.info.prompts.values()), self.info.healthy_prompt)
        edit = Edit(region, prompt, feather(region, FEATHER_SHARE * size))
        for index in range(len(self._jobs), count):
            anatomy, _ = bank.draw(np.random.default_rng((self.seed, index)), size)
            members = (MemberJob(Role.variant.member(), (edit,)),)
            self._jobs.append(GroupJob(self.seed, index, 0, anatomy, self.info.healthy_prompt, members))
        return self._jobs[:count]


def loop_settings(info: BundleInfo, steps: int) -> dict[Loop, SamplingSettings]:
    """How each loop samples; the plain ones as mode `reference`. Raises RecipeError for a wrong step count."""
    reference = sampling_settings({"mode": "reference", "steps": steps}, info)
    branch = sampling_settings({"mode": "branch", "steps": steps}, info)
    return {**dict.fromkeys(PLAIN, reference), "reference": reference, "branch": branch}


def rows_of(
    loops: Sequence[Loop],
    micro_batches: Sequence[int],
    precision: Precision,
    compiled: Sequence[CompileHow | None] = (None,),
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


def _plain(loop: PlainLoop, job: GroupJob) -> object:
    return loop.images(job.anatomy, job.members[0].edits[0], job.healthy_prompt)


def _one_per_loop(rows: Sequence[LoopTiming]) -> Iterator[LoopTiming]:
    yield from {row.loop: row for row in rows}.values()


def _figures(
    row: LoopTiming, times: list[float], plain: float | None, memory: int | None, flops: float, peak: float
) -> RowFigures:
    if not times:
        return RowFigures(row, None, None, None, None, None, None, None)
    seconds = min(times)
    rate = row.micro_batch / seconds
    tflops = rate * flops / 1e12
    return RowFigures(
        row=row,
        seconds=seconds,
        first_seconds=times[0],
        images_per_second=rate,
        ratio=None if plain is None else rate * plain,
        memory=memory,
        tflops=tflops,
        utilisation=tflops / peak,
    )


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
) -> int:
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[-2] * (width + value[-1])


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
