"""The keys for real images: what is taken, what is refused, and what identifies a dataset made of them."""

from __future__ import annotations

import jsonschema
import pytest
import yaml

from xreal_synth.errors import Problem, RecipeError
from xreal_synth.recipe.digest import digested_settings, findings_rows
from xreal_synth.recipe.load import recipe_from_text
from xreal_synth.recipe.sampling import resolve_sampling
from xreal_synth.recipe.schema import Recipe, json_schema
from xreal_synth.types import SamplingDefaults

IMAGES = """\
version: 1
name: images
anatomies: 3
bundle: xreal-tiny
anatomy: {source: {images: {path: images/, boxes: boxes.csv, places: places.json}}}
findings:
  - {weight: 1, labels: [{name: Pneumonia}], images: healthy}
  - {weight: 1, labels: [], edit: {remove: all}}
  - {weight: 1, labels: [{name: Edema}], edit: {remove: [Pleural Effusion], move: {findings: [Mass], side: left}}}
  - {weight: 1, labels: [], edit: {resize: {findings: [Nodule], scale: [0.5, 0.8]}, add: [Pneumonia]}}
output: {uri: out/images}
"""
SYNTHETIC = IMAGES.replace("anatomy: {source: {images: {path: images/, boxes: boxes.csv, places: places.json}}}\n", "")


def problems(text: str, *overrides: str) -> dict[str, Problem]:
    with pytest.raises(RecipeError) as caught:
        recipe_from_text(text, "r.yaml", overrides)
    return {p.path: p for p in caught.value.problems}


def settings(*overrides: str, images: str = "f" * 64) -> dict[str, object]:
    recipe = recipe_from_text(IMAGES, overrides=overrides)
    defaults = SamplingDefaults(steps=10, hold=0.5, branch=0.2, guidance=3.0)
    return digested_settings(recipe, resolve_sampling(recipe.sampling, defaults), images)


def test_edits_of_real_images_are_read() -> None:
    recipe = recipe_from_text(IMAGES)
    assert [row.paints for row in recipe.findings] == [True] * 4
    _, remove, both, last = (row.edit for row in recipe.findings)
    assert remove is not None
    assert both is not None
    assert last is not None
    assert remove.removes("Hernia")
    assert [both.removes(name) for name in ("Effusion", "Mass", "Nodule")] == [True, True, False]
    assert (both.draws, last.draws, last.uses_own) == (True, False, True)
    assert last.adds("Pneumonia")
    assert not last.adds("Mass")
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(IMAGES))


BAD = [
    ("findings[1].edit={}", "findings[1].edit", "does nothing", "remove, move", ""),
    ("findings[1].edit=remove", "findings[1].edit", "remove", "group of keys", ""),
    ("findings[1].edit={remove: most}", "findings[1].edit.remove", "most", "all, or a list", ""),
    ("findings[1].edit={remove: [Massx]}", "findings[1].edit.remove", "Massx", "finding", "`Mass`"),
    ("findings[1].edit={remove: [Mass, Mass]}", "findings[1].edit.remove", "Mass", "once", ""),
    ("findings[1].edit={removed: all}", "findings[1].edit.removed", "unknown key", "remove, move", "`remove`"),
    ("findings[2].edit.remove=all", "findings[2].edit.move", "Mass in move", "one edit", "remove only"),
    ("findings[2].edit.move.side=both", "findings[2].edit.move.side", "both", "left, right", ""),
    ("findings[2].edit.move={side: left}", "findings[2].edit.move.findings", "not given", "moved", "add"),
    ("findings[2].edit.move.findings=[Edema]", "findings[2].edit.move", "Edema", "both lungs", "labels"),
    ("findings[3].edit.resize.scale=[0.8, 0.5]", "findings[3].edit.resize.scale", "0.8", "rising", ""),
    ("findings[3].edit.resize.scale=[0.1, 1]", "findings[3].edit.resize.scale", "0.1", "0.25 to 4", ""),
    ("findings[0].images=sick", "findings[0].images", "sick", "any, healthy", ""),
    ("anatomy.source={images: {boxes: b.csv}}", "anatomy.source.images.path", "not given", "Folder with", ""),
    ("anatomy.source.images.order=random", "anatomy.source.images.order", "random", "shuffled, listed", ""),
    ("anatomy.source.images.fit=x", "anatomy.source.images.fit", "unknown key", "path, boxes", ""),
    ("anatomy.source.images.places=null", "findings[3].edit.add", "without places", "boxes", "labels"),
    ("anatomy.augment={shift: 0}", "anatomy.augment", "with real images", "as they are", "remove"),
    ("labels.unrequested=negative", "labels.unrequested", "with real images", "unknown", "remove"),
]


@pytest.mark.parametrize(("change", "path", "found", "wanted", "hint"), BAD, ids=[case[0] for case in BAD])
def test_bad_edits_are_reported(change: str, path: str, found: str, wanted: str, hint: str) -> None:
    reported = problems(IMAGES, change)
    assert list(reported) == [path]
    assert found in reported[path].found
    assert wanted in reported[path].wanted
    assert hint in reported[path].hint


def test_edits_without_real_images_are_reported_row_by_row_with_their_line() -> None:
    reported = problems(SYNTHETIC)
    assert list(reported) == ["findings[0].images", *(f"findings[{i}].edit" for i in (1, 2, 3))]
    assert "(line 7)" in reported["findings[1].edit"].found
    assert "images: {path: FOLDER}" in reported["findings[1].edit"].hint


def test_real_images_are_known_by_their_content_and_not_by_their_place() -> None:
    assert settings() == settings("anatomy.source.images.path=/elsewhere")
    assert settings() != settings(images="e" * 64)
    assert settings() != settings("anatomy.source.images.order=listed")
    assert "augment" not in settings()["anatomy"]  # type: ignore[operator]


def test_digested_settings_of_real_images_make_the_recipe_again() -> None:
    document = settings() | {"name": "images", "anatomies": 3, "bundle": "xreal-tiny"}
    document["output"] = {"uri": "out/images", "shard_samples": 64}
    document["anatomy"]["source"]["images"]["path"] = "images/"  # type: ignore[index]
    assert document["findings"][0]["films"] == "healthy", "the key that older digests have"
    document["findings"] = findings_rows(document)
    again = Recipe.model_validate(document)
    assert again.findings == recipe_from_text(IMAGES).findings
    assert settings("anatomy.source.images.content=" + "f" * 64) == settings()
