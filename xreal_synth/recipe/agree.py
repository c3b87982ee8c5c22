"""Agreement among a recipe's keys: those that go with real images, and keys that do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from xreal_synth.errors import Problem
from xreal_synth.recipe.edits import ImagesSource
from xreal_synth.recipe.explain import place_text
from xreal_synth.recipe.schema import Recipe
from xreal_synth.recipe.yaml_text import Path, path_text

_Found = tuple[Path, str, str, str]
_FOLDER = "add anatomy: {source: {images: {path: FOLDER}}}"


def disagreements(recipe: Recipe, lines: Mapping[Path, int], touched: set[Path]) -> list[Problem]:
    """Keys that contradict one another, each with its path and its line."""
    source, on_images = recipe.anatomy.source, recipe.on_images
    sham_rows = any(map(recipe.takes_sham, recipe.findings))
    found = [*_on_images(recipe, source)] if isinstance(source, ImagesSource) else [*_without_images(recipe)]
    if recipe.anatomy.by_finding and source != "bank":
        what = "the bank: masks and images have their own outlines"
        found.append((("anatomy", "by_finding"), "`by_finding` without the bank", what, "remove it"))
    if recipe.pairs.sham > 0 and not sham_rows:
        what = "a row of `images: healthy` that paints findings in" if on_images else "a row with findings"
        found.append((("pairs", "sham"), "`sham` where no row can have one", what, "add one, or set 0"))
    if recipe.pairs.edit_negatives and not (sham_rows and any(map(recipe.edits_negative, recipe.findings))):
        what = "a row without findings (of healthy images) and one that paints some"
        found.append((("pairs", "edit_negatives"), "`edit_negatives` without both", what, "remove it"))
    if recipe.sampling.mode == "joint" and recipe.edits:
        what = next(
            words
            for words, holds in (
                ("real images", on_images),
                ("pairs.twin: true", recipe.pairs.twin),
                (f"pairs.sham: {recipe.pairs.sham:g}", recipe.pairs.sham > 0),
                ("pairs.edit_negatives: true", True),
            )
            if holds
        )
        path = ("sampling", "mode")
        wanted = "branch: in mode joint every image is one trajectory of its own, nothing is edited"
        found.append((path, f"`joint` with {what}", wanted, "set sampling.mode: branch, or leave it out"))
    if recipe.labels.negative_below is not None and recipe.labels.unrequested != "checked":
        path = ("labels", "negative_below")
        found.append((path, "`negative_below` without `checked`", "labels.unrequested: checked", "remove it"))
    if recipe.sampling.upscale_steps is not None and recipe.output.upscale is None:
        path = ("sampling", "upscale_steps")
        found.append((path, "`upscale_steps` without `output.upscale`", "both or neither", "remove it"))
    return [
        Problem(path_text(path), what + place_text(path, lines, touched), wanted, hint)
        for path, what, wanted, hint in found
    ]


def _without_images(recipe: Recipe) -> Iterator[_Found]:
    for i, row in enumerate(recipe.findings):
        for key in ("edit", "images"):
            if getattr(row, key) is not None:
                yield ("findings", i, key), f"`{key}` without real images", "source images", _FOLDER


def _on_images(recipe: Recipe, source: ImagesSource) -> Iterator[_Found]:
    if "augment" in recipe.anatomy.model_fields_set:
        yield (
            ("anatomy", "augment"), "`augment` with real images",
            "images as they are: their masks cannot be changed without them", "remove it",
        )  # fmt: skip
    if "unrequested" in recipe.labels.model_fields_set and recipe.labels.unrequested != "unknown":
        yield (
            ("labels", "unrequested"), f"{recipe.labels.unrequested} with real images",
            "unknown: a real image keeps its own labels, and nobody read it for the rest", "remove it",
        )  # fmt: skip
    for i, row in enumerate(recipe.findings):
        if row.edit is not None and row.edit.add is not None and source.images.places is None:
            yield (
                ("findings", i, "edit", "add"), "`add` without places",
                "boxes to paint into", "give anatomy.source.images.places: FILE; to draw them, use labels",
            )  # fmt: skip
