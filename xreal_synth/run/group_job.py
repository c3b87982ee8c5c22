"""The sampler's job for a group that is planned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from xreal_synth.anatomy.regions import FEATHER_SHARE, feather, shown_area
from xreal_synth.findings import REGIONS
from xreal_synth.masks import boxes_region
from xreal_synth.models.describe import prompt_for, prompt_of
from xreal_synth.run.attempts import plan_group
from xreal_synth.sampling.jobs import Edit, GroupJob, MemberJob
from xreal_synth.types import MemberSpec, PlacedFinding, Role, SampleSpec

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run


def group_job(run: Run, spec: SampleSpec) -> GroupJob:
    """What the sampler is told of a group: regions, prompts and feathers; the twin is always made."""
    return GroupJob(
        seed=run.recipe.seed,
        index=spec.index,
        attempt=spec.attempt,
        anatomy=spec.anatomy,
        healthy_prompt=run.bundle.healthy_prompt,
        members=tuple(
            MemberJob(member.name, _edits(run, member, spec), _joint_prompt(run, member))
            for member in spec.members
            if member.name != Role.healthy
        ),
        image=spec.image,
        large=spec.large,
    )


def first_jobs(run: Run, groups: int) -> Iterator[GroupJob]:
    """The jobs of those of the first groups that can be placed."""
    specs = (plan_group(run, index)[0] for index in range(min(groups, run.recipe.anatomies)))
    return (group_job(run, spec) for spec in specs if spec is not None)


def _edits(run: Run, member: MemberSpec, spec: SampleSpec) -> tuple[Edit, ...]:
    """What of a real image is painted over goes first, in one pass; then the findings, one after another.

    A sham has a pass for each of the first variant's findings, in its region.
    """
    if member.sham:
        healthy = run.bundle.healthy_prompt
        return tuple(_painting(run, spec.regions[place], healthy) for place in member.sham)
    removed = member.source.removed if member.source is not None else ()
    size, healthy = run.bundle.image_size, run.bundle.healthy_prompt
    first = (_painting(run, boxes_region(removed, (size, size)), healthy),) if removed else ()
    return first + tuple(_edit(run, finding, spec) for finding in member.findings)


def _joint_prompt(run: Run, member: MemberSpec) -> str:
    """What mode joint asks a denoiser that knows regions for: all the member's findings at once."""
    if run.sampling.mode != "joint" or not run.bundle.region_maps:
        return ""
    return prompt_for(run.bundle, [finding.name for finding in member.findings])


def _edit(run: Run, finding: PlacedFinding, spec: SampleSpec) -> Edit:
    prompt = painted_by(run, finding, spec.row)
    region = spec.regions[finding]
    return replace(
        _painting(run, region, prompt),
        finding=finding.name,
        area=shown_area(finding, region),
        held=REGIONS[finding.region].held,
    )


def painted_by(run: Run, finding: PlacedFinding, row: int) -> str:
    """A finding's prompt: its own, the bundle's, or what names all of its row's."""
    findings = run.recipe.findings[row]
    if findings.joint:
        return prompt_for(run.bundle, [label.name for label in findings.labels])
    return prompt_of(run.bundle, finding.name, finding.prompt)


def _painting(run: Run, region: npt.NDArray[np.bool_], prompt: str) -> Edit:
    return Edit(region=region, prompt=prompt, alpha=feather(region, FEATHER_SHARE * run.bundle.image_size))
