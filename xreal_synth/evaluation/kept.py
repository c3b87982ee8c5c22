"""JSON that an evaluation keeps, so that nothing is computed twice; what could not be measured is null there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from xreal_synth.errors import DatasetError
from xreal_synth.opening import parse_json
from xreal_synth.storage import LocalStore, Store


def null_for_nan(value: Any) -> Any:
    """Plain data with None for every NaN."""
    return _changed(value, lambda one: None if isinstance(one, float) and math.isnan(one) else one)


def nan_for_null(value: Any) -> Any:
    """Plain data with NaN for every None."""
    return _changed(value, lambda one: math.nan if one is None else one)


def _changed(value: Any, leaf: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _changed(inner, leaf) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_changed(inner, leaf) for inner in value]
    return leaf(value)


def as_read(value: Any) -> Any:
    """The value as JSON gives it back: names as keys, lists for tuples, None for NaN."""
    return parse_json(json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """A JSON file's bytes."""
    return (json.dumps(null_for_nan(value), indent=1, allow_nan=False) + "\n").encode()


def claim(store: LocalStore, name: str, identity: Mapping[str, Any], *, found: str, wanted: str, hint: str) -> None:
    """Writes what the folder's contents hang on; raises DatasetError, in these words, where that is another."""
    now = as_read(identity)
    if store.put_if_absent(name, json_bytes(now)):
        return
    try:
        former = parse_json(store.read_bytes(name))
        other = [f"{key} {former.get(key)!r}, now {now[key]!r}" for key in now if former.get(key) != now[key]]
    except (ValueError, AttributeError) as error:
        other = [f"{name} cannot be read: {error}"]
    if other:
        raise DatasetError(where=store.uri, found=f"{found}: {'; '.join(other)}", wanted=wanted, hint=hint)


def record_of(store: Store, name: str, of: Mapping[str, Any], *keys: str) -> dict[str, Any] | None:
    """The record there, if it is `of` this identity and has these keys; a damaged one counts as none."""
    if not store.exists(name):
        return None
    try:
        found: dict[str, Any] = parse_json(store.read_bytes(name))
        return found if found["of"] == of and found.keys() >= set(keys) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
