"""Recipe files => `Recipe`, or one RecipeError with every problem in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from pydantic import ValidationError

from xreal_synth.errors import Problem, RecipeError
from xreal_synth.opening import UnreadableError, read_file
from xreal_synth.recipe.agree import disagreements
from xreal_synth.recipe.explain import problems_of
from xreal_synth.recipe.kinds import near, shown
from xreal_synth.recipe.overrides import apply
from xreal_synth.recipe.schema import Recipe
from xreal_synth.recipe.yaml_text import MAX_BYTES, parse

SHIPPED: Final = Path(__file__).parent.parent / "recipes"
"""Recipes that come with the package: given by name, without folder and suffix."""


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
    value, problems, touched = apply(document.value, overrides)
    assert isinstance(value, dict)
    if output is not None:
        section = value.setdefault("output", {})
        if isinstance(section, dict):
            section["uri"] = output
            touched.add(("output", "uri"))
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        problems += problems_of(error, document.lines, touched)
    else:
        problems += disagreements(recipe, document.lines, touched)
    if problems:
        raise RecipeError(source, problems)
    return recipe


def with_overrides(text: str, overrides: Sequence[str]) -> str:
    """A recipe's text with overrides in it: the one kept with a dataset must give that dataset. Comments are lost."""
    value, _, _ = apply(parse(text).value, overrides)
    return "# as given, with what the command line replaced in it\n" + yaml.safe_dump(
        value, sort_keys=False, allow_unicode=True
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
