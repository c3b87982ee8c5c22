"""What is delivered of a group's images: each with its masks, labels, provenance and verdict; the larger ones too."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from xreal_synth.anatomy.label_map import enlarged
from xreal_synth.anatomy.regions import FEATHER_SHARE, feather, pathology_mask
from xreal_synth.planning.labels import image_labels, labels_of
from xreal_synth.run.group_job import painted_by
from xreal_synth.sampling.jobs import GroupImages
from xreal_synth.types import (
    ExistingFinding,
    GreyImage,
    ImageQuality,
    LabelValue,
    MemberSpec,
    PixelBox,
    PlacedFinding,
    Rejected,
    Role,
    Sample,
    SampleMeta,
    SampleSpec,
    SourceImage,
    Verdict,
)

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run

FADE_SHARE = FEATHER_SHARE / 4
"""Width of the paste at the large size, over the image's side: the image beneath it has faded already."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedGroup:
    """An attempt's images, and the gate's verdict on each member; None where no gate looked."""

    run: Run
    spec: SampleSpec
    images: GroupImages
    verdicts: tuple[Verdict | None, ...]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What is delivered of it, built anew at each call."""
        spec, real = self.spec, real_twin(self.spec)
        twin = self.images.images.get(Role.healthy) if real is None else real

        def built(member: MemberSpec, verdict: Verdict | None) -> Sample:
            image = twin if member.name == Role.healthy and twin is not None else self.images.images[member.name]
            change = np.zeros_like(image) if twin is None else changed(image, twin)
            return build_sample(self.run, spec, member, image, change, verdict)

        return tuple(map(built, spec.members, self.verdicts))

    @property
    def refused(self) -> Rejected | None:
        """Why this attempt is not delivered: the first image that the gate refuses; None if there is none."""
        for refused, verdict in zip(self.spec.members, self.verdicts, strict=True):
            if verdict is not None and not verdict.accepted:
                spec, names = self.spec, [f.name for member in self.spec.members for f in member.findings]
                reason = "; ".join(verdict.reasons[: len(verdict.refused)])
                return Rejected(
                    spec.index, spec.attempt, spec.row, reason, dropped=False, check=verdict.refused[0],
                    member=refused.name, findings=tuple(dict.fromkeys(names)), scores=verdict.scores,
                )  # fmt: skip
        return None


def build_sample(
    run: Run, spec: SampleSpec, member: MemberSpec, image: GreyImage, change: GreyImage, verdict: Verdict | None = None
) -> Sample:
    """An image with its masks, labels, provenance and verdict, and its change from the twin (0 where there is none).

    Masks, regions and boxes of an image that was upscaled are those of the small one, each pixel a block.
    The image and its change are uint8 [H, W].
    """
    height, width = image.shape
    times = run.enlarging
    assert height == times * spec.anatomy.shape[0], f"an image of {height} pixels, wanted {run.delivered_size}"
    meta = SampleMeta(
        key=member.key,
        group=spec.index,
        member=member.name,
        attempt=spec.attempt,
        row=spec.row,
        digest=run.digest,
        bundle_name=run.bundle.name,
        bundle_hash=run.bundle.content_hash,
        seed=run.recipe.seed,
        anatomy_source=run.plan.source.source_name,
        anatomy_id=spec.anatomy_id,
        ctr=spec.ctr,
        image_size=(height, width),
        findings=tuple(enlarged_finding(finding, times) for finding in member.findings),
        labels=_labels(run, spec, member, verdict),
        prompt=_prompt(run, member, spec.row),
        sampling={key: value for key, value in asdict(run.sampling).items() if value is not None},
        source=None if member.source is None else enlarged_source(member.source, times),
        sham=tuple(enlarged_finding(place, times) for place in member.sham),
        quality=_quality(run, verdict),
    )
    pathology = pathology_mask([spec.regions[one] for one in member.findings], spec.anatomy.shape)
    return Sample(image, enlarged(spec.anatomy, times), enlarged(pathology, times), meta, spec.split, change)


def real_twin(spec: SampleSpec) -> GreyImage | None:
    """The real image in the twin's place, as it is delivered; it comes from the plan. uint8 [H, W]."""
    return spec.image if spec.large is None else spec.large


def changed(image: GreyImage, twin: GreyImage) -> GreyImage:
    """|image - twin|, uint8 [H, W]."""
    return np.asarray(np.maximum(image, twin) - np.minimum(image, twin))


def _quality(run: Run, verdict: Verdict | None) -> ImageQuality | None:
    """What of the verdict is told of a delivered image; nothing without checks."""
    if verdict is None or not run.quality.checks:
        return None
    return ImageQuality(run.quality.profile, dict(verdict.scores), verdict.flags)


def _labels(
    run: Run, spec: SampleSpec, member: MemberSpec, verdict: Verdict | None
) -> dict[str, dict[str, LabelValue]]:
    if member.source is not None:
        return image_labels(member.source, member.findings)
    assert spec.ctr is not None, "a drawn anatomy has a ratio"
    passed = verdict.passed if verdict is not None and verdict.passed is not None else frozenset[str]()
    names = [finding.name for finding in member.findings]
    return labels_of(names, run.recipe.labels.unrequested, spec.ctr, passed)


def _prompt(run: Run, member: MemberSpec, row: int) -> str:
    """The prompts in the order in which they were painted; a real image as it is has none."""
    if member.sham:
        return run.bundle.healthy_prompt
    prompts = [painted_by(run, finding, row) for finding in member.findings]
    if member.source is not None and member.source.removed:
        prompts.insert(0, run.bundle.healthy_prompt)
    if prompts:
        return " + ".join(prompts)
    return run.bundle.healthy_prompt if member.source is None else ""


def enlarged_box(box: PixelBox, times: int) -> PixelBox:
    """The same place on an image `times` as large."""
    x0, y0, x1, y1 = box
    return x0 * times, y0 * times, x1 * times, y1 * times


def enlarged_finding(finding: PlacedFinding, times: int) -> PlacedFinding:
    return replace(finding, boxes=tuple(enlarged_box(box, times) for box in finding.boxes))


def enlarged_source(source: SourceImage, times: int) -> SourceImage:
    def own(one: ExistingFinding) -> ExistingFinding:
        removed = None if one.removed is None else enlarged_box(one.removed, times)
        return ExistingFinding(one.name, enlarged_box(one.box, times), removed)

    return replace(source, findings=tuple(map(own, source.findings)))


def enlarged_fade(region: npt.NDArray[np.bool_], times: int) -> npt.NDArray[np.float32]:
    """A region bool [h, w] -> the weights float32 [S, S] with which an edit is pasted, S = times * h."""
    large = enlarged(region, times)
    return feather(large, FADE_SHARE * large.shape[0])
