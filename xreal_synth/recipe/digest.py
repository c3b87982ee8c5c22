"""The digest that identifies a dataset: the settings that decide its bytes, and their hash.

Left out are name, anatomies, split, where output goes, how many actors with what share of a machine, and
the bundle's name or path (its content hash stands for it). Real images and organ masks are known by their
content, not by their place. None is left out too: a key added to the recipe later defaults to None, so a
recipe that does not set it keeps its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from xreal_synth.recipe.findings import ImagesSource
from xreal_synth.recipe.kinds import shown
from xreal_synth.recipe.quality import digested_quality
from xreal_synth.recipe.schema import Compute, MasksSource, Recipe
from xreal_synth.types import QualitySettings, SamplingSettings

ON_DISK: Final = {"images": "films"}
"""Keys of a findings row as datasets have them, by today's name: their digests stay."""
_LEFT_OUT: Final = ("name", "anatomies", "bundle", "bundle_sha256", "split", "sampling", "quality")
"""Keys of a recipe that decide no bytes, or that stand in the digest as they are resolved."""
_ABSENT = object()


def digested_settings(
    recipe: Recipe, sampling: SamplingSettings, content: str | None = None, quality: QualitySettings | None = None
) -> dict[str, object]:
    """The resolved recipe's settings that decide images, labels and the cut into shards; JSON values only.

    `content` is the digest of the real images or of the organ masks, where they are the source; without `quality`
    nothing is checked.
    """
    part = {"output": {"uri"}, "compute": set(Compute.model_fields) - {"micro_batch", "precision"}}
    dumped = recipe.model_dump(mode="json", exclude={**dict.fromkeys(_LEFT_OUT, True), **part})
    dumped["findings"] = _renamed(dumped["findings"], ON_DISK)
    dumped["sampling"] = asdict(sampling)
    gate = quality or QualitySettings("none", recipe.quality.max_attempts)
    dumped["quality"] = digested_quality(gate)
    dumped["labels"]["negative_below"] = gate.negative_below
    dumped["output"]["shard_samples"] = recipe.output.shard_size
    if isinstance(recipe.anatomy.source, ImagesSource):
        _by_content(dumped["anatomy"]["source"], "images", content)
        dumped["anatomy"]["augment"] = None
        dumped["labels"]["unrequested"] = "unknown"
    elif isinstance(recipe.anatomy.source, MasksSource):
        _by_content(dumped["anatomy"]["source"], "masks", content)
    settings = _set_only(dumped)
    assert isinstance(settings, dict)
    return settings


def findings_rows(settings: Mapping[str, object]) -> object:
    """The findings rows of digested settings, as a recipe has them."""
    rows = settings.get("findings")
    return _renamed(rows, {old: new for new, old in ON_DISK.items()}) if isinstance(rows, list) else rows


def _renamed(rows: list[Any], names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


def _by_content(source: dict[str, Any], kind: str, content: str | None) -> None:
    assert content is not None, f"{kind} are known by their content"
    source[kind] = {**source[kind], "path": None, "content": content}


def recipe_digest(settings: Mapping[str, object], bundle_hash: str) -> str:
    """sha256 (hex) over the canonical JSON of the settings and the bundle's content hash."""
    text = json.dumps(
        {"settings": settings, "bundle": bundle_hash}, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """What differs between two digested settings, one line each: `sampling.steps: 25 there, 30 here`."""
    there, here = _flat(old, ""), _flat(new, "")
    lines = []
    for path in [*here, *(path for path in there if path not in here)]:
        before, after = there.get(path, _ABSENT), here.get(path, _ABSENT)
        if before is _ABSENT or after is _ABSENT or before != after:
            lines.append(f"{path}: {_said(before)} there, {_said(after)} here")
    return lines


def _said(value: object) -> str:
    return "not set" if value is _ABSENT else shown(value)


def _set_only(value: object) -> object:
    if isinstance(value, dict):
        return {key: _set_only(item) for key, item in value.items() if item is not None}
    return [_set_only(item) for item in value] if isinstance(value, list) else value


def _flat(value: object, path: str) -> dict[str, object]:
    found: dict[str, object] = {}
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            found |= _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value):
            found |= _flat(item, f"{path}[{number}]")
    else:
        found[path] = value
    return found
