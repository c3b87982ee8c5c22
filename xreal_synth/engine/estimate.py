"""What a run will cost: network evaluations, bytes, device time where the bundle states its speed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xreal_synth.recipe.edits import EditRule

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run

BYTES_PER_PIXEL = 0.55
"""Of an image as PNG beside its two masks and its JSON: measured on 256-pixel images."""
OVERHEAD_BYTES = 8_000
PARTS = ("unet", "controlnet")


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """`evaluations_per_edit` counts guidance's second row; `device_seconds` by device, empty if unknown."""

    evaluations_per_twin: int
    evaluations_per_edit: int
    evaluations: float
    bytes: float
    device_seconds: dict[str, float] = field(default_factory=dict)


def estimate(run: Run, images: float) -> CostEstimate:
    """The cost of `images` delivered images; every group's twin is made, delivered or not, but for real images."""
    sampling, recipe = run.sampling, run.recipe
    again, last = sampling.resample - 1, sampling.steps - 1
    per_twin = 0 if run.plan.on_images else sampling.steps + again * min(sampling.hold_steps, last)
    start = sampling.branch_step if sampling.mode == "branch" else 0
    rows = 1 if sampling.guidance == 1.0 else 2
    per_edit = rows * (sampling.steps - start + again * max(last - start, 0))
    if sampling.mode == "joint":
        per_edit = rows * per_twin
        with_findings = sum(row.weight for row in recipe.findings if row.labels or row.variants)
        healthy = recipe.anatomies * (1 - with_findings / sum(row.weight for row in recipe.findings))
        images_with = (recipe.anatomies - healthy) * recipe.pairs.variants
        total = healthy * per_twin + images_with * per_edit
    else:
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
        if row.takes_sham(on_images=run.plan.on_images):
            painted += row.weight
            first += row.weight * kinds[0]
        shams = pairs.sham * row.takes_sham(on_images=run.plan.on_images)
        passes += row.weight * (pairs.variants * sum(kinds) + shams * kinds[0])
    passes += negatives * first / (painted or 1.0)
    return float(run.recipe.anatomies * passes / sum(row.weight for row in rows))


def _parts(edit: EditRule | None) -> int:
    """Passes of an edit on an image with one box of each kind: painting over takes one, each finding one."""
    if edit is None:
        return 0
    return int(edit.uses_own) + len(edit.moved) + len(edit.resized) + (edit.add is not None)
