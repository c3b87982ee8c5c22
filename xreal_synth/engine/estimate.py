"""What a run will cost: network evaluations, bytes, device time where the bundle states its speed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xreal_synth.recipe.findings import EditRule
from xreal_synth.sampling.schedule import mode_timesteps
from xreal_synth.types import SamplingSettings

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run

BYTES_PER_PIXEL = 0.55
"""Of an image as PNG beside its two masks and its JSON: measured on 256-pixel images."""
OVERHEAD_BYTES = 8_000
PARTS = ("unet", "controlnet")
SHORTEST_S = 30.0
"""Of a shard: below it a large cluster's one driver, and its storage, have more to do than they should."""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Rows that the denoiser computes; `evaluations_per_edit` counts guidance's second row. `device_seconds` by device,
    empty if unknown."""

    evaluations_per_twin: int
    evaluations_per_edit: int
    evaluations: float
    bytes: float
    device_seconds: dict[str, float] = field(default_factory=dict)


def estimate(run: Run, images: float) -> CostEstimate:
    """The cost of `images` delivered images; every group's twin is made, delivered or not, but for real images and in
    mode joint. Rows that fill up a last micro-batch, and groups that the gate refuses, are not counted."""
    sampling, recipe = run.sampling, run.recipe
    held = sampling.hold_steps
    per_twin = 0 if run.plan.on_images else _rows(sampling, held, replaced=sampling.replaced_steps())
    if sampling.mode == "joint":
        per_edit = _rows(sampling, held, _asked(run), replaced=sampling.replaced_steps(freed=True))
        images_with = sum(row.weight * len(row.kinds) for row in recipe.findings if row.paints)
        healthy = sum(row.weight for row in recipe.findings if not row.paints)
        per_group = healthy * per_twin + images_with * recipe.pairs.variants * per_edit
        total = recipe.anatomies * per_group / sum(row.weight for row in recipe.findings)
    else:
        start = sampling.branch_step if sampling.mode == "branch" else 0
        per_edit = _rows(sampling, sampling.steps, _asked(run), first=start)
        total = recipe.anatomies * per_twin + _edits(run) * per_edit
    pixels = run.delivered_size**2
    cost = total * _controlnet_factor(run)
    speeds = {device: cost * seconds for device, seconds in run.bundle.seconds_per_evaluation.items()}
    return CostEstimate(
        evaluations_per_twin=per_twin,
        evaluations_per_edit=per_edit,
        evaluations=float(total),
        bytes=images * (pixels * BYTES_PER_PIXEL + OVERHEAD_BYTES),
        device_seconds=speeds,
    )


def short_shards(run: Run, cost: CostEstimate) -> dict[str, float]:
    """Seconds of a whole shard, by device, where there are several and they take less than SHORTEST_S."""
    shards = run.recipe.anatomies / run.recipe.output.shard_size
    seconds = {device: whole / shards for device, whole in cost.device_seconds.items()}
    return {device: one for device, one in seconds.items() if shards > 1 and one < SHORTEST_S}


def _rows(
    sampling: SamplingSettings, held: int, asked: tuple[int, int, int] = (1, 1, 0), *, first: int = 0, replaced: int = 0
) -> int:
    """Rows of one stage, by the rules of `sampling.controlled.run_steps`; `asked` as `_asked` says it."""
    guided, unguided, floor = asked
    rows, last = 0, sampling.steps - 1
    timesteps = mode_timesteps(sampling.steps, sampling.mode, sampling.spacing)
    for i in range(max(first, replaced), sampling.steps):
        rounds = sampling.resample if i < min(held, last) else 1
        rows += rounds * (guided if timesteps[i] >= floor else unguided)
    return rows


def _asked(run: Run) -> tuple[int, int, int]:
    """Rows of an evaluation under guidance and without, and the timestep below which there is none.

    A denoiser that knows no regions takes in mode joint one for each prompt: a micro-batch as many as the image with
    most findings.
    """
    sampling, bundle, floor = run.sampling, run.bundle, run.sampling.guidance_floor or 0
    if sampling.mode == "joint" and not bundle.region_maps:
        most = max(len(labels) for row in run.recipe.findings for _, labels in row.kinds)
        return 1 + (bundle.null_prompt != bundle.healthy_prompt) + most, 1 + most, floor
    return 1 if sampling.guidance == 1.0 else 2, 1, floor


def _controlnet_factor(run: Run) -> float:
    """Cost of an evaluation with a ControlNet over one without, as their weights' sizes have it."""
    if run.sampling.control != "controlnet":
        return 1.0
    sizes = [sum(s.bytes for s in run.bundle.files if s.path.startswith(f"{part}/")) for part in PARTS]
    return sum(sizes) / sizes[0]


def _edits(run: Run) -> float:
    """Expected passes of stage B, over all groups, variants and shams; one for each part of a real image's edit."""
    rows, pairs = run.recipe.findings, run.recipe.pairs
    passes = negatives = painted = first = 0.0
    for row in rows:
        kinds = [len(labels) + _parts(row.edit) for _, labels in row.kinds]
        negatives += row.weight * run.recipe.edits_negative(row)
        if run.recipe.takes_sham(row):
            painted += row.weight
            first += row.weight * kinds[0]
        passes += row.weight * (pairs.variants * sum(kinds) + run.recipe.sham_share(row) * kinds[0])
    passes += negatives * first / (painted or 1.0)
    return float(run.recipe.anatomies * passes / sum(row.weight for row in rows))


def _parts(edit: EditRule | None) -> int:
    """Passes of an edit on an image with one box of each kind: painting over takes one, each finding one."""
    if edit is None:
        return 0
    return int(edit.uses_own) + len(edit.moved) + len(edit.resized) + (edit.add is not None)
