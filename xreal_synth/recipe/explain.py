"""pydantic's errors => problems in plain words, with the path, the line and the hint."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from xreal_synth.errors import Problem
from xreal_synth.recipe.kinds import near, percent, shown
from xreal_synth.recipe.schema import Recipe
from xreal_synth.recipe.yaml_text import Path, path_text

LATER: Final[dict[tuple[str, ...], tuple[str, ...]]] = {
    ("sampling", "paste"): ("hard", "poisson"),
}
_TAGGED: Final = (("anatomy", "source"), ("compute", "actors"))
_KINDS: Final[dict[str, str]] = {
    "int_type": "a whole number",
    "int_parsing_size": "a whole number of sensible size",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "model_type": "a group of keys",
    "model_attributes_type": "a group of keys",
    "dict_type": "a group of keys",
    "none_required": "null",
}
_LIMITS: Final[dict[str, tuple[str, str]]] = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def problems_of(error: ValidationError, lines: Mapping[Path, int], touched: set[Path]) -> list[Problem]:
    """A failed validation in our words. `lines` are of the file, `touched` the paths set by overrides."""
    return [
        _problem(detail, lines, touched)
        for detail in error.errors(include_url=False)
        if not (detail["type"] == "too_short" and detail["input"])  # items that failed are already listed
    ]


def _problem(error: ErrorDetails, lines: Mapping[Path, int], touched: set[Path]) -> Problem:
    path = _real_path(error["loc"])
    if at := error.get("ctx", {}).get("at"):
        path = (*path, str(at))
    found, wanted, hint = _words(error, path)
    return Problem(path_text(path), found + place_text(path, lines, touched), wanted, hint)


@cache
def known_keys() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Keys allowed at every place of a recipe; list items have the part `[]`."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    _collect(Recipe, (), found)
    return found


def _collect(kind: Any, at: tuple[str, ...], found: dict[tuple[str, ...], tuple[str, ...]]) -> None:
    origin = get_origin(kind)
    if origin is Annotated:
        _collect(get_args(kind)[0], at, found)
    elif origin is tuple:
        _collect(get_args(kind)[0], (*at, "[]"), found)
    elif origin in (typing.Union, types.UnionType):
        for option in get_args(kind):
            _collect(option, at, found)
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        found[at] = tuple(dict.fromkeys([*found.get(at, ()), *kind.model_fields]))
        for name, info in kind.model_fields.items():
            _collect(info.annotation, (*at, name), found)


def _real_path(loc: tuple[int | str, ...]) -> Path:
    """pydantic's location without the tag that it puts after a value of several kinds."""
    if loc[:2] in _TAGGED and len(loc) > 2:
        return (*loc[:2], *loc[3:])
    return loc


def _generic(path: Path) -> tuple[str, ...]:
    return tuple("[]" if isinstance(part, int) else part for part in path)


def place_text(path: Path, lines: Mapping[Path, int], touched: set[Path]) -> str:
    """Where in the file a path stands, ` (line 12)`, or that `--set` put it there; empty if nowhere."""
    if any(path[: len(one)] == one for one in touched):
        return " (set on the command line)"
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return f" (line {lines[path[:length]]})"
    return ""


def _words(error: ErrorDetails, path: Path) -> tuple[str, str, str]:
    """found, wanted, hint."""
    kind, value, ctx = error["type"], error["input"], error.get("ctx", {})
    if kind == "recipe":
        return str(ctx["found"]), str(ctx["wanted"]), str(ctx["hint"])
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return "not given", _meaning(path), _how_to_add(path)
    if kind == "literal_error":
        return _choice(value, str(ctx["expected"]), path)
    if kind in _LIMITS:
        word, key = _LIMITS[kind]
        limit = _tidy(ctx[key])
        return shown(value), f"a number {word} {shown(limit)}", _limit_hint(path) or percent(value, limit)
    if kind == "string_pattern_mismatch":
        hint = f"e.g. `{_slug(str(value))}`" if _slug(str(value)) else ""
        return (
            shown(value),
            "lower-case letters, digits, `.`, `_` and `-`, beginning with a letter or digit",
            hint,
        )
    if kind in ("too_short", "string_too_short"):
        return f"{shown(value)}, which is empty", _meaning(path), "give at least one"
    if kind in ("too_long", "string_too_long"):
        return f"{len(value)} of them", f"at most {ctx['max_length']}", ""
    if kind in _KINDS:
        return shown(value), _KINDS[kind], _kind_hint(kind, value, path)
    return f"{shown(value)}: {error['msg']}", _meaning(path), ""


SYNONYMS: Final = {
    "bilateral": "both",
    "apical": "upper",
    "apex": "upper",
    "basal": "lower",
    "hilar": "middle",
}
"""The clinic's words for a recipe's."""
RENAMED: Final = {"samples": "anatomies", "films": "images"}
"""Keys by the names that they had before."""
DIFFUSERS: Final = {"num_inference_steps": "steps", "guidance_scale": "guidance"}
"""Keys by diffusers' names."""


def _unknown_key(path: Path) -> tuple[str, str, str]:
    key, parent = str(path[-1]), _generic(path[:-1])
    allowed = known_keys().get(parent, ())
    today = RENAMED.get(key)
    hint = f"write `{today}`: so the key is called now" if today in allowed else near(key, allowed)
    if not hint:
        named = DIFFUSERS.get(key, key)
        homes = [
            ".".join(place).replace(".[]", "[]") for place, keys in known_keys().items() if named in keys
        ]
        hint = f"`{named}` belongs in `{homes[0]}`" if homes and homes[0] else ""
    return f"unknown key `{key}`", f"one of: {', '.join(allowed)}", hint or "remove it"


def _choice(value: object, expected: str, path: Path) -> tuple[str, str, str]:
    wanted = expected.replace("'", "").replace(" or ", ", ")
    if _generic(path) == ("version",):
        hint = (
            "this recipe is for a newer xreal_synth: upgrade" if isinstance(value, int) and value > 1 else ""
        )
        return shown(value), "version: 1", hint or "write version: 1"
    if value in LATER.get(_generic(path), ()):
        return f"{shown(value)} is not built yet", f"one of: {wanted}", "use one of those that are"
    hint = near(SYNONYMS.get(value, value), wanted.split(", ")) if isinstance(value, str) else ""
    return shown(value), f"one of: {wanted}" if "," in wanted else wanted, hint


def _kind_hint(kind: str, value: object, path: Path) -> str:
    if kind.startswith("model_") and isinstance(value, str) and len(path) > 1:
        label = f"{{name: {value}}}"
        return {"findings": f"write {{weight: 1, labels: [{label}]}}", "labels": f"write {label}"}.get(
            str(path[-2]), ""
        )
    if kind == "none_required":
        return f"`{path[-1]}` is not built yet: leave it out"
    if kind == "string_type" and isinstance(value, int | float | bool):
        return f'put it in quotes: "{shown(value)}"'
    if kind == "bool_type" and isinstance(value, str):
        word = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(value.casefold())
        return f"write {word}" if word else ""
    if kind in ("int_type", "int_from_float") and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if kind in ("int_type", "float_type") and isinstance(value, str) and value.replace("_", "").isdecimal():
        return f"write {int(value.replace('_', ''))}, without quotes or underscores"
    return ""


def _limit_hint(path: Path) -> str:
    if _generic(path) == ("findings", "[]", "weight"):
        return "remove the row if it should not be drawn"
    return ""


def _field(path: Path) -> Any:
    info: Any = None
    models: list[Any] = [Recipe]
    for part in path:
        if isinstance(part, str):
            info = next((model.model_fields[part] for model in models if part in model.model_fields), None)
            models = _models_in(info.annotation) if info else []
    return info if path and isinstance(path[-1], str) else None


def _models_in(kind: Any) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for option in get_args(kind) for model in _models_in(option)]


def _meaning(path: Path) -> str:
    info = _field(path)
    if info is None:
        return ""
    models = _models_in(info.annotation)
    return info.description or (models[0].__doc__ if models else "") or ""


def _how_to_add(path: Path) -> str:
    if path == ("output",) or path == ("output", "uri"):
        return "add `output: {uri: out/NAME}`, or give --output"
    return f"add `{path[-1]}: {'1' if path == ('version',) else '...'}`"


def _tidy(limit: float) -> float:
    return int(limit) if limit == int(limit) else limit


def _slug(text: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text.lower())
    return kept.strip("-._")[:80]
