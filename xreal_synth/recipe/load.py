"""Recipe files, with what the command line sets in them => `Recipe`, or one RecipeError with every problem in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from xreal_synth.errors import Problem, RecipeError
from xreal_synth.opening import UnreadableError, read_file
from xreal_synth.recipe.explain import problems_of
from xreal_synth.recipe.findings import ImagesSource
from xreal_synth.recipe.kinds import near, shown
from xreal_synth.recipe.schema import Recipe
from xreal_synth.recipe.yaml_text import MAX_BYTES, Document, KeyPath, parse, path_text

SHIPPED: Final = Path(__file__).parent.parent / "recipes"
"""Recipes that come with the package: given by name, without folder and suffix."""

_PART: Final = re.compile(r"([^.\[\]=]+)((?:\[[0-9]{1,6}\])*)")
_FORM: Final = "KEY.PATH=VALUE, e.g. sampling.steps=10 or findings[0].weight=2"
_FOLDER: Final = "add anatomy: {source: {images: {path: FOLDER}}}"

_Found = tuple[KeyPath, str, str, str]


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A valid recipe and its text: that of its file as given, or, with overrides, YAML that has them in it."""

    recipe: Recipe
    text: str


def in_todays_words(text: str) -> str:
    """The text of a recipe kept with a dataset, with the keys that had another name when it was written."""
    text = re.sub(r"(?m)^samples:", "anatomies:", text)
    return re.sub(r"\bfilms:(?=\s*(any|healthy)\b)", "images:", text)


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def recipe_file(path: Path) -> Path:
    """The file of a recipe: a name without folder and suffix is a shipped one's where no such file is."""
    named = not path.suffix and len(path.parts) == 1 and not path.exists()
    return shipped_recipes().get(str(path), path) if named else path


def shipped_file(place: str) -> str:
    """What a recipe names: a tar without folder is a shipped one where no such file is."""
    shipped = SHIPPED / place
    alone = place.endswith(".tar") and len(Path(place).parts) == 1 and not Path(place).exists()
    return str(shipped) if alone and shipped.is_file() else place


def load_recipe(path: Path, *, overrides: Sequence[str] = (), output: str | None = None) -> LoadedRecipe:
    """Reads and validates a recipe file, or a shipped recipe by its name.

    `overrides` are `key.path=value` texts, `output` replaces output.uri. Raises RecipeError with all
    problems of the file and of the overrides at once.
    """
    text = _read(recipe_file(path))
    recipe = recipe_from_text(text, str(path), overrides, output)
    return LoadedRecipe(recipe, with_overrides(text, overrides) if overrides else text)


def recipe_from_text(
    text: str, source: str = "recipe", overrides: Sequence[str] = (), output: str | None = None
) -> Recipe:
    """The recipe in a YAML text; `source` names it in errors. Raises RecipeError."""
    document = parse(text)
    if document.problems:
        raise RecipeError(source, document.problems)
    if not isinstance(document.value, dict):
        found = "an empty file" if document.value is None else shown(document.value)
        raise RecipeError(source, [Problem("", found, "a recipe: `key: value` lines", "begin with `version: 1`")])
    apply(document, overrides)
    if output is not None:
        section = document.value.setdefault("output", {})
        if isinstance(section, dict):
            section["uri"] = output
            document.touched.add(("output", "uri"))
    try:
        recipe = Recipe.model_validate(document.value)
    except ValidationError as error:
        document.problems += problems_of(error, document)
    else:
        document.problems += _disagreements(recipe, document)
    if document.problems:
        raise RecipeError(source, document.problems)
    return recipe


def with_overrides(text: str, overrides: Sequence[str]) -> str:
    """A recipe's text with overrides in it: the one kept with a dataset must give that dataset. Comments are lost."""
    document = parse(text)
    apply(document, overrides)
    return "# as given, with what --set replaced in it\n" + yaml.safe_dump(
        document.value, sort_keys=False, allow_unicode=True
    )


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(str(path), [Problem("", f"a file of over {MAX_BYTES} bytes", "a recipe of a few kB")])
        return read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RecipeError(str(path), [Problem("", "not a text file", "YAML in UTF-8")]) from None
    except (OSError, UnreadableError) as error:
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        hint = _neighbours(path)
        raise RecipeError(str(path), [Problem("", f"cannot be read: {reason}", "a recipe file", hint)]) from None


def _neighbours(path: Path) -> str:
    try:
        names = sorted(p.name for p in path.parent.glob("*.y*ml"))[:8]
    except OSError:
        names = []
    if close := near(path.name, [*names, *shipped_recipes()]):
        return close
    there = f"recipes in that folder: {', '.join(names)}; " if names else ""
    return f"{there}by name: {', '.join(shipped_recipes())}"


def apply(document: Document, overrides: Sequence[str]) -> None:
    """Sets every override in a document's value, `key.path=value` each, and notes what is wrong with them.

    Overrides apply in order, the last wins. Whether a key exists is for the schema to say.
    """
    for text in overrides:
        target, _, written = text.partition("=")
        path = _parsed_path(target.strip())
        if path is None or "=" not in text:
            document.problems.append(Problem(f"--set {text}", "not an override", _FORM))
            continue
        new = parse(written)
        if new.problems:
            document.problems += [Problem(f"--set {text}", p.found, p.wanted, p.hint) for p in new.problems]
            continue
        if problem := _set(document.value, path, new.value, text):
            document.problems.append(problem)
        document.touched.add(path)


def _parsed_path(text: str) -> KeyPath | None:
    """`findings[0].weight` as ("findings", 0, "weight"); None if it is no such path."""
    path: list[str | int] = []
    for part in text.split("."):
        match = _PART.fullmatch(part)
        if match is None:
            return None
        path.append(match[1].strip())
        path.extend(int(number) for number in re.findall(r"[0-9]+", match[2]))
    return tuple(path)


def _set(node: Any, path: KeyPath, new: object, text: str) -> Problem | None:
    """Sets the value at a path below `node`, with the groups of keys on the way; what is wrong, if something is."""
    for depth, part in enumerate(path):
        here = path_text(path[:depth]) or "the recipe"
        last = depth == len(path) - 1
        if isinstance(part, int):
            if not isinstance(node, list):
                return Problem(f"--set {text}", f"`{here}` is {shown(node)}", "a list")
            if part >= len(node):
                count = f"items 0 to {len(node) - 1}" if node else "no items"
                return Problem(f"--set {text}", f"item [{part}]", f"`{here}` has {count}")
            if last:
                node[part] = new
            node = node[part]
            continue
        if not isinstance(node, dict):
            hint = f"set `{here}` as a whole: --set '{here}={{...}}'"
            if isinstance(node, list):
                hint = f"name an item of it: {here}[0].{part}"
            found = f"`{here}` is {shown(node)}, which has no keys"
            return Problem(f"--set {text}", found, "a group of keys", hint)
        if last:
            node[part] = new
        elif node.get(part) is None:
            node[part] = {}
        node = node[part]
    return None


def _disagreements(recipe: Recipe, document: Document) -> list[Problem]:
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
    return [Problem(path_text(path), what + document.place(path), wanted, hint) for path, what, wanted, hint in found]


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
