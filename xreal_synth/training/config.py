"""Training configs: one YAML file per network, read into frozen records; an unknown key is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from xreal_synth.errors import TrainingError
from xreal_synth.recipe.kinds import near
from xreal_synth.recipe.load import apply
from xreal_synth.recipe.yaml_text import Document
from xreal_synth.training.settings import CONFIGS, NetworkConfig, TrainConfig

_typed: Any = NetworkConfig


def load_config(network: str, path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML config for `network`, apply `key.path=value` overrides, check everything at once.

    Raises TrainingError.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise TrainingError(
            where=str(path),
            found=str(error),
            wanted="a readable YAML training config",
            hint="correct the path or the file; shipped ones lie in xreal_synth/training/configs",
        ) from error
    if not isinstance(tree, dict):
        raise TrainingError(where=str(path), found=type(tree).__name__, wanted="a YAML mapping")
    document = Document(tree)
    apply(document, overrides)
    if problems := document.problems:
        raise TrainingError(
            found="; ".join(f"override {one.path.removeprefix('--set ')!r}: {one.found}" for one in problems),
            wanted=problems[0].wanted,
            hint=problems[0].hint or "write it like loop.steps=500",
        )
    return parse_config(network, tree, str(path))


def parse_config(network: str, tree: Mapping[str, Any], where: str) -> TrainConfig:
    """A config from a plain mapping; every fault is named with its path. Raises TrainingError."""
    named, settings = tree.get("network"), _settings(network, tree, where)
    faults = [] if named == network else [(f"network: {named!r}, not {network!r}", "")]
    try:
        config: TrainConfig = TypeAdapter(_typed[settings]).validate_python({"model": {}, **tree})
    except ValidationError as error:
        known = dict(_keys(NetworkConfig, "")) | dict(_keys(settings, "model"))
        faults += [_fault(one, known) for one in error.errors()]
    if faults:
        raise TrainingError(
            where=where,
            found="; ".join(found for found, _ in faults),
            wanted=f"a config of the network {network}",
            hint="; ".join(hint for _, hint in faults if hint)
            or "correct these keys; the shipped configs list them all",
        )
    return config


def _keys(kind: Any, path: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(path, its keys) of a group of settings and of the groups in it; none of `model`, whose kind is not known."""
    yield path, tuple(one.name for one in fields(kind))
    for name, hint in get_type_hints(kind).items():
        for option in (hint, *get_args(hint)):
            if is_dataclass(option):
                yield from _keys(option, f"{path}.{name}".lstrip("."))


def _fault(error: ErrorDetails, known: Mapping[str, tuple[str, ...]]) -> tuple[str, str]:
    """What is wrong, with its path, and a hint or nothing."""
    if not error["loc"]:  # of groups that do not go together
        return error["msg"].removeprefix("Value error, "), ""
    *parents, key = map(str, error["loc"])
    path, group = ".".join([*parents, key]), ".".join(parents)
    if error["type"] != "unexpected_keyword_argument":
        choices = re.findall("'([^']+)'", error.get("ctx", {}).get("expected", ""))
        return f"{path}: {error['msg']}, not {error['input']!r}", near(str(error["input"]), choices)
    homes = [f"{place}.{key}" for place, keys in known.items() if key in keys and place]
    here, prefix = known.get(group, ()), f"{group}." if group else ""
    close = f"did you mean `{homes[0]}`?" if homes else re.sub(r"`(\w+)`", rf"`{prefix}\1`", near(key, here))
    return f"{path}: unknown key", close or f"`{group or 'a config'}` has {', '.join(here)}"


def _settings(network: str, tree: Mapping[str, Any], where: str) -> Any:
    """The class of the network's own settings: by `model.kind` where there are several."""
    kinds, model = _one_of(CONFIGS, network, "network", where), tree.get("model")
    first = next(iter(kinds))
    kind = model.get("kind", first) if first and isinstance(model, Mapping) else first
    return _one_of(kinds, kind, "model.kind:", where)


def _one_of(options: Mapping[str, Any], name: Any, what: str, where: str) -> Any:
    if str(name) not in options:
        wanted, hint = f"one of {', '.join(options)}", near(str(name), options) or "correct the key"
        raise TrainingError(where=where, found=f"{what} {name!r}", wanted=wanted, hint=hint)
    return options[str(name)]


def config_tree(config: TrainConfig) -> dict[str, Any]:
    """The config as plain data, every default written out."""
    tree: dict[str, Any] = TypeAdapter(_typed[type(config.model)]).dump_python(config, mode="json")
    return tree
