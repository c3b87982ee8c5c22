"""The gate of a run: which checks can run with this bundle and recipe, and what a film is before the gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xreal_synth.errors import BundleError, Problem, RecipeError
from xreal_synth.models.bundle_file import bounded_config
from xreal_synth.models.describe import BundleInfo
from xreal_synth.quality.checks import JudgedFilm
from xreal_synth.quality.copies import index_threshold
from xreal_synth.recipe.edits import ImagesSource
from xreal_synth.recipe.quality import FILES, NEGATIVE_BELOW, CheckFile, check_file, resolve_quality
from xreal_synth.recipe.schema import Recipe
from xreal_synth.storage import sha256_file
from xreal_synth.types import Film, MemberSpec, QualitySettings, SampleSpec

if TYPE_CHECKING:
    from xreal_synth.engine.setup import Run
    from xreal_synth.sampling.jobs import GroupFilms, GroupJob

HEALTHY = "h"


def open_quality(recipe: Recipe, bundle: BundleInfo) -> QualitySettings:
    """The recipe's gate with this bundle, without loading a network.

    Raises RecipeError where the recipe asks for a check that cannot run, BundleError for a file that is not one.
    """
    files = {name: _file(recipe, name) for name in FILES}
    known = {name: file for name, file in files.items() if file is not None}
    checked = recipe.labels.unrequested == "checked"
    if checked and "classifier" not in bundle.parts:
        raise RecipeError(
            "recipe",
            [
                Problem(
                    "labels.unrequested",
                    f"checked, but bundle {bundle.name} has no classifier",
                    "a bundle with the part classifier",
                    "write negative or unknown",
                )
            ],
        )
    below = (recipe.labels.negative_below or NEGATIVE_BELOW) if checked else None
    return resolve_quality(recipe.quality, _unable(recipe, bundle, known), known, negative_below=below)


def classifier_findings(bundle: BundleInfo) -> tuple[str, ...]:
    """What the bundle's classifier knows, from its configuration; nothing without one."""
    if "classifier" not in bundle.parts:
        return ()
    config = bounded_config(bundle.read("classifier/config.json"), f"{bundle.name}: classifier/config.json")
    return tuple(config.get("findings", ()))


def judged_films(run: Run, spec: SampleSpec, job: GroupJob, films: GroupFilms) -> list[JudgedFilm | None]:
    """The members of a group as the gate sees them; None for a real film as it is, which is not judged.

    Films that were upscaled are judged at the size they were sampled at, as the means of blocks.
    """
    edits = {member.name: member.edits for member in job.members}
    twin = _small(films.films[HEALTHY], run.enlarging) if HEALTHY in films.films else None
    anatomy = spec.anatomy if spec.ctr is not None else None

    def judged(member: MemberSpec) -> JudgedFilm | None:
        if spec.film is not None and member.name == HEALTHY:
            return None
        if twin is None:
            return JudgedFilm(member.key, _small(films.films[member.name], run.enlarging), anatomy)
        if member.name == HEALTHY:
            return JudgedFilm(member.key, twin, anatomy)
        regions = [edit.region for edit in edits[member.name]]
        return JudgedFilm(
            key=member.key,
            film=_small(films.films[member.name], run.enlarging),
            anatomy=anatomy,
            twin=twin,
            region=np.any(regions, axis=0) if regions else np.zeros(twin.shape, bool),
            asked=_asked(member),
            sham=bool(member.sham),
            real=spec.film is not None,
        )

    return [judged(member) for member in spec.members]


def _asked(member: MemberSpec) -> tuple[str, ...]:
    """The findings that the film has to show more than its twin; a real film may have had some already."""
    source = member.source
    had = set() if source is None else {*source.labels, *(own.name for own in source.findings)}
    return tuple(dict.fromkeys(finding.name for finding in member.findings if finding.name not in had))


def _small(film: Film, times: int) -> Film:
    """The film with each block of times x times as its mean."""
    if times == 1:
        return film
    height, width = film.shape
    blocks = film.reshape(height // times, times, width // times, times)
    return np.asarray(blocks.mean(axis=(1, 3)).round().astype(np.uint8))


def _unable(recipe: Recipe, bundle: BundleInfo, files: dict[str, CheckFile]) -> dict[str, str]:
    """The checks that cannot run, each with the reason."""
    told: dict[str, str] = {}
    real = isinstance(recipe.anatomy.source, ImagesSource)
    if not real and recipe.sampling.control == "none":
        told["organs"] = "with control: none the organ masks are places, not what the films show"
    elif "organs" not in files and "segmenter" not in bundle.parts:
        told["organs"] = f"bundle {bundle.name} has no segmenter"
    known = classifier_findings(bundle)
    if not known:
        told["finding"] = f"bundle {bundle.name} has no classifier"
    elif (painted := _painted(recipe)) and not painted & set(known):
        told["finding"] = f"the bundle's classifier knows none of {', '.join(sorted(painted))}"
    if "copies" not in files:
        told["copies"] = "no quality.checks.copies.index is given"
    return told


def _painted(recipe: Recipe) -> set[str]:
    return {label.name for row in recipe.findings for _, labels in row.kinds for label in labels}


def _file(recipe: Recipe, check: str) -> CheckFile | None:
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
            mend="check the path (a relative one starts at the current folder)",
        )
    bounds = {"distance": index_threshold(path)} if check == "copies" else {}
    return CheckFile(sha256_file(path), bounds)
