"""pydantic's errors => problems in plain words, with the path, the line and the hint."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from xreal_synth.errors import Problem
from xreal_synth.recipe.kinds import near, number_words, percent, shown
from xreal_synth.recipe.schema import Recipe
from xreal_synth.recipe.yaml_text import Document, KeyPath, path_text

_TAGGED: Final = (("anatomy", "source"), ("compute", "actors"))
_NUMBERS: Final[dict[str, str]] = {
    "int_type": "a whole number",
    "int_parsing_size": "a whole number of sensible size",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "",
    "greater_than_equal": "",
    "less_than": "",
    "less_than_equal": "",
}
_KINDS: Final[dict[str, str]] = {
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "model_type": "a group of keys",
    "model_attributes_type": "a group of keys",
    "dict_type": "a group of keys",
}

SYNONYMS: Final = {"bilateral": "both", "apical": "upper", "apex": "upper", "basal": "lower", "hilar": "middle"}
"""The clinic's words for a recipe's."""
RENAMED: Final = {"samples": "anatomies", "films": "images"}
"""Keys by the names that they had before."""
DIFFUSERS: Final = {"num_inference_steps": "steps", "guidance_scale": "guidance"}
"""Keys by diffusers' names."""

_Place = tuple[str, ...]
"""A path without the numbers of list items, which have the part `[]`."""


def problems_of(error: ValidationError, document: Document) -> list[Problem]:
    """A failed validation of the document's value, in our words."""
    found = []
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail["input"]:
            continue  # items that failed are already listed
        path = detail["loc"]
        if path[:2] in _TAGGED and len(path) > 2:
            path = (*path[:2], *path[3:])  # without the tag that pydantic puts after a value of several kinds
        if at := detail.get("ctx", {}).get("at"):
            path = (*path, str(at))
        what, wanted, hint = _words(detail, path)
        found.append(Problem(path_text(path), what + document.place(path), wanted, hint))
    return found


def _models(kind: Any, at: _Place = ()) -> Iterator[tuple[_Place, type[BaseModel]]]:
    """Every group of keys in a model, with its place."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield at, kind
        for name, info in kind.model_fields.items():
            yield from _models(info.annotation, (*at, name))
    elif get_origin(kind) is tuple:
        yield from _models(get_args(kind)[0], (*at, "[]"))
    else:
        for option in get_args(kind):
            yield from _models(option, at)


@cache
def known_keys() -> dict[_Place, tuple[str, ...]]:
    """Keys allowed at every place of a recipe; list items have the part `[]`."""
    found: dict[_Place, tuple[str, ...]] = {}
    for at, model in _models(Recipe):
        found[at] = tuple(dict.fromkeys([*found.get(at, ()), *model.model_fields]))
    return found


def _generic(path: KeyPath) -> _Place:
    return tuple("[]" if isinstance(part, int) else part for part in path)


def _words(error: ErrorDetails, path: KeyPath) -> tuple[str, str, str]:
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
    if kind in _NUMBERS:
        limits = _limits(_field(path)) or {key: ctx[key] for key in ("ge", "gt", "le", "lt") if key in ctx}
        whole = _NUMBERS[kind] or ("a whole number" if _is_whole(_field(path)) else "a number")
        hint = percent(value, limits.get("le")) or _kind_hint(kind, value, path)
        if _generic(path) == ("findings", "[]", "weight"):
            hint = "remove the row if it should not be drawn"
        return shown(value), number_words(whole, **limits), hint
    if kind == "string_pattern_mismatch":
        wanted = "lower-case letters, digits, `.`, `_` and `-`, beginning with a letter or digit"
        return shown(value), wanted, f"e.g. `{_slug(str(value))}`" if _slug(str(value)) else ""
    if kind in ("too_short", "string_too_short"):
        return f"{shown(value)}, which is empty", _meaning(path), "give at least one"
    if kind in ("too_long", "string_too_long"):
        return f"{len(value)} of them", f"at most {ctx['max_length']}", ""
    if kind in _KINDS:
        return shown(value), _KINDS[kind], _kind_hint(kind, value, path)
    return f"{shown(value)}: {error['msg']}", _meaning(path), ""


def _unknown_key(path: KeyPath) -> tuple[str, str, str]:
    key, parent = str(path[-1]), _generic(path[:-1])
    allowed = known_keys().get(parent, ())
    today = RENAMED.get(key)
    hint = f"write `{today}`: so the key is called now" if today in allowed else near(key, allowed)
    if not hint:
        named = DIFFUSERS.get(key, key)
        homes = [".".join(place).replace(".[]", "[]") for place, keys in known_keys().items() if named in keys]
        hint = f"`{named}` belongs in `{homes[0]}`" if homes and homes[0] else ""
    return f"unknown key `{key}`", f"one of: {', '.join(allowed)}", hint or "remove it"


def _choice(value: object, expected: str, path: KeyPath) -> tuple[str, str, str]:
    wanted = expected.replace("'", "").replace(" or ", ", ")
    if _generic(path) == ("version",):
        newer = isinstance(value, int) and value > 1
        hint = "this recipe is for a newer xreal_synth: upgrade" if newer else "write version: 1"
        return shown(value), "version: 1", hint
    hint = near(SYNONYMS.get(value, value), wanted.split(", ")) if isinstance(value, str) else ""
    return shown(value), f"one of: {wanted}" if "," in wanted else wanted, hint


def _kind_hint(kind: str, value: object, path: KeyPath) -> str:
    if kind.startswith("model_") and isinstance(value, str) and len(path) > 1:
        label = f"{{name: {value}}}"
        hints = {"findings": f"write {{weight: 1, labels: [{label}]}}", "labels": f"write {label}"}
        return hints.get(str(path[-2]), "")
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


def _field(path: KeyPath) -> FieldInfo | None:
    *place, name = _generic(path) or ("",)
    found = (one.model_fields.get(name) for at, one in _models(Recipe) if at == tuple(place))
    return next((info for info in found if info is not None), None)


def _limits(kind: Any) -> dict[str, Any]:
    """The limits of a field's numbers, by pydantic's names: ge, gt, le, lt; in its metadata or its annotation's."""
    info = kind if isinstance(kind, FieldInfo) else None
    parts = (*info.metadata, info.annotation) if info is not None else get_args(kind)
    found = {key: getattr(kind, key) for key in ("ge", "gt", "le", "lt") if hasattr(kind, key)}
    for part in parts:
        found |= _limits(part)
    return found


def _is_whole(kind: Any) -> bool:
    annotation = kind.annotation if isinstance(kind, FieldInfo) else kind
    return annotation is int or any(map(_is_whole, get_args(annotation)))


def _meaning(path: KeyPath) -> str:
    info = _field(path)
    docs = [one.__doc__ for at, one in _models(Recipe) if at == _generic(path)]
    if info is None:
        return ""
    return " ".join((info.description or "").split()) or (docs[0] if docs else "") or ""


def _how_to_add(path: KeyPath) -> str:
    if path == ("output",) or path == ("output", "uri"):
        return "add `output: {uri: out/NAME}`, or give --output"
    return f"add `{path[-1]}: {'1' if path == ('version',) else '...'}`"


def _slug(text: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text.lower())
    return kept.strip("-._")[:80]
