"""Training configs: one YAML file per network, read into frozen records; an unknown key is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from xreal_synth.errors import TrainingError
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
    for override in overrides:
        _apply(tree, override)
    return parse_config(network, tree, str(path))


def parse_config(network: str, tree: Mapping[str, Any], where: str) -> TrainConfig:
    """A config from a plain mapping; every fault is named with its path. Raises TrainingError."""
    if network not in CONFIGS:
        raise TrainingError(found=f"network {network!r}", wanted=f"one of {', '.join(CONFIGS)}")
    named = tree.get("network")
    faults = [] if named == network else [f"network: {named!r}, not {network!r}"]
    try:
        config: TrainConfig = TypeAdapter(_typed[_settings(network, tree, where)]).validate_python(
            {"model": {}, **tree}
        )
    except ValidationError as error:
        unknown = {"Unexpected keyword argument": "unknown key"}
        faults += [
            f"{'.'.join(map(str, e['loc']))}: {unknown.get(e['msg'], e['msg'])}, not {e['input']!r}"
            for e in error.errors()
        ]
    if faults:
        raise TrainingError(
            where=where,
            found="; ".join(faults),
            wanted=f"a config of the network {network}",
            hint="correct these keys; the shipped configs list them all",
        )
    return config


def _settings(network: str, tree: Mapping[str, Any], where: str) -> Any:
    """The class of the network's own settings: by `model.kind` where there are several."""
    kinds, model = CONFIGS[network], tree.get("model")
    first = next(iter(kinds))
    kind = model.get("kind", first) if first and isinstance(model, Mapping) else first
    if kind not in kinds:
        raise TrainingError(
            where=where,
            found=f"model.kind: {kind!r}",
            wanted=f"one of {', '.join(kinds)}",
            hint="correct the key",
        )
    return kinds[kind]


def config_tree(config: TrainConfig) -> dict[str, Any]:
    """The config as plain data, every default written out."""
    tree: dict[str, Any] = TypeAdapter(_typed[type(config.model)]).dump_python(config, mode="json")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *parents, leaf = path.split(".")
    node: Any = tree
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else None
    if not equals or not leaf or not isinstance(node, dict):
        raise TrainingError(
            found=f"override {override!r}", wanted="key.path=value", hint="write it like loop.steps=500"
        )
    try:
        node[leaf] = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise TrainingError(
            found=f"override {override!r}: {error}",
            wanted="a YAML value",
            hint="write it like loop.steps=500",
        ) from error
