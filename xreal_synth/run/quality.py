"""The gate of a run: which checks can run with this bundle and recipe, and what an image is before the gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xreal_synth.errors import BundleError, Problem, RecipeError
from xreal_synth.models.bundle_file import bounded_config
from xreal_synth.models.describe import BundleInfo
from xreal_synth.quality.checks import JudgedImage
from xreal_synth.quality.gate import CHECKS
from xreal_synth.recipe.quality import FILES, NEGATIVE_BELOW, KnownFile, check_file, resolve_quality
from xreal_synth.recipe.schema import Recipe
from xreal_synth.storage import sha256_file
from xreal_synth.types import GreyImage, MemberSpec, QualitySettings, Role, SampleSpec

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run
    from xreal_synth.sampling.jobs import GroupImages, GroupJob


def open_quality(recipe: Recipe, bundle: BundleInfo) -> QualitySettings:
    """The recipe's gate with this bundle, without loading a network.

    Raises RecipeError where the recipe asks for a check that cannot run, BundleError for a file that is not one.
    """
    files = {name: _file(recipe, name) for name in FILES}
    known = {name: file for name, file in files.items() if file is not None}
    checked = recipe.labels.unrequested == "checked"
    if checked and "classifier" not in bundle.parts:
        found, wanted = f"checked, but bundle {bundle.name} has no classifier", "a bundle with the part classifier"
        raise RecipeError("recipe", [Problem("labels.unrequested", found, wanted, "write negative or unknown")])
    below = (recipe.labels.negative_below or NEGATIVE_BELOW) if checked else None
    return resolve_quality(recipe.quality, _unable(recipe, bundle, known), known, negative_below=below)


def classifier_findings(bundle: BundleInfo) -> tuple[str, ...]:
    """What the bundle's classifier knows, from its configuration; nothing without one."""
    if "classifier" not in bundle.parts:
        return ()
    config = bounded_config(bundle.read("classifier/config.json"), f"{bundle.name}: classifier/config.json")
    return tuple(config.get("findings", ()))


def judged_images(run: Run, spec: SampleSpec, job: GroupJob, images: GroupImages) -> list[JudgedImage | None]:
    """The members of a group as the gate sees them; None for a real image as it is, which is not judged.

    Images that were upscaled are judged at the size they were sampled at, as the means of blocks.
    """
    edits = {member.name: member.edits for member in job.members}
    twin = _small(images.images[Role.healthy], run.enlarging) if Role.healthy in images.images else None
    anatomy = spec.anatomy if spec.ctr is not None else None

    def judged(member: MemberSpec) -> JudgedImage | None:
        if spec.image is not None and member.name == Role.healthy:
            return None
        if member.name == Role.healthy and twin is not None:
            return JudgedImage(member.key, twin, anatomy)
        regions = [edit.region for edit in edits[member.name]]
        if twin is None:
            region = np.any(regions, axis=0) if regions else None
            image = _small(images.images[member.name], run.enlarging)
            return JudgedImage(member.key, image, anatomy, region=region)
        return JudgedImage(
            key=member.key,
            image=_small(images.images[member.name], run.enlarging),
            anatomy=anatomy,
            twin=twin,
            region=np.any(regions, axis=0) if regions else np.zeros(twin.shape, bool),
            asked=_asked(member),
            gone=_gone(member),
            sham=bool(member.sham),
            real=spec.image is not None,
        )

    return [judged(member) for member in spec.members]


def _asked(member: MemberSpec) -> tuple[str, ...]:
    """The findings that the image has to show more than its twin; a real image may have had some already."""
    source = member.source
    had = set() if source is None else {*source.labels, *(own.name for own in source.findings)}
    return tuple(dict.fromkeys(finding.name for finding in member.findings if finding.name not in had))


def _gone(member: MemberSpec) -> tuple[str, ...]:
    """The findings of a real image that were painted over, and not painted again elsewhere."""
    painted = {finding.name for finding in member.findings}
    own = () if member.source is None else member.source.findings
    return tuple(dict.fromkeys(one.name for one in own if one.removed is not None and one.name not in painted))


def _small(image: GreyImage, times: int) -> GreyImage:
    """The image with each block of times x times as its mean."""
    if times == 1:
        return image
    height, width = image.shape
    blocks = image.reshape(height // times, times, width // times, times)
    return np.asarray(blocks.mean(axis=(1, 3)).round().astype(np.uint8))


def _unable(recipe: Recipe, bundle: BundleInfo, files: dict[str, KnownFile]) -> dict[str, str]:
    """The checks that cannot run, each with the reason."""
    reasons = {
        "segmenter": lambda name: _no_segmenter(recipe, bundle, name in files),
        "classifier": lambda name: _no_classifier(recipe, bundle),
        "file": lambda name: None if name in files else f"no quality.checks.{name}.{FILES[name]} is given",
    }
    reported = {name: reasons[entry.needs](name) for name, entry in CHECKS.items() if entry.needs is not None}
    return {name: why for name, why in reported.items() if why is not None}


def _no_segmenter(recipe: Recipe, bundle: BundleInfo, file: bool) -> str | None:
    if not recipe.on_images and recipe.sampling.control == "none":
        return "with control: none the organ masks are places, not what the images show"
    return None if file or "segmenter" in bundle.parts else f"bundle {bundle.name} has no segmenter"


def _no_classifier(recipe: Recipe, bundle: BundleInfo) -> str | None:
    known = classifier_findings(bundle)
    painted = {name for row in recipe.findings for name in row.names}
    if not known:
        return f"bundle {bundle.name} has no classifier"
    if painted and not painted & set(known):
        return f"the bundle's classifier knows none of {', '.join(sorted(painted))}"
    return None


def _file(recipe: Recipe, check: str) -> KnownFile | None:
    """What is known of the file that a check reads; its sha256, and a copy index's own threshold."""
    given = check_file(recipe.quality, check)
    if given is None:
        return None
    path = Path(given).expanduser()
    if not path.is_file():
        raise BundleError(
            where=f"quality.checks.{check}",
            found=f"no file {path}",
            wanted="the file that the check reads",
            hint="check the path (a relative one starts at the current folder)",
        )
    known = CHECKS[check].file
    assert known is not None, "only a check that reads a file has one"
    return KnownFile(sha256_file(path), known.bounds(path))
