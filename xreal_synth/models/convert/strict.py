"""Loading that accounts for every key: what was given and has no place, what has a place and was not given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xreal_synth.errors import ConversionError

_SHOWN = 5


def build_empty(make: Callable[[], Any]) -> Any:
    """The network that `make` builds, its weights without memory until load_whole assigns them."""
    with torch.device("meta"):
        return make()


def load_whole(
    what: str, network: nn.Module, weights: Mapping[str, Tensor], unused: Sequence[str] = ()
) -> nn.Module:
    """The network with exactly these weights, ready for inference; `unused` are keys that found no place.

    Tensors are taken over without a copy. Raises ConversionError naming the keys and shapes that differ.
    """
    wanted = network.state_dict()
    problems = []
    surplus = sorted([*unused, *(key for key in weights if key not in wanted)])
    missing = [key for key in wanted if weights.get(key) is None]
    if surplus:
        problems.append(f"{len(surplus)} keys without a place: {_few(surplus)}")
    if missing:
        problems.append(f"nothing for {len(missing)} weights (by their names here): {_few(missing)}")
    shapes = [
        f"{key} {list(weights[key].shape)} where {list(value.shape)} is wanted"
        for key, value in wanted.items()
        if key not in missing and weights[key].shape != value.shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} other shapes: {_few(shapes)}")
    if problems:
        raise mismatch(what, "; ".join(problems))
    network.load_state_dict(dict(weights), strict=True, assign=True)
    empty = [name for name, value in network.state_dict(keep_vars=True).items() if value.is_meta]
    assert not empty, f"{what}: {empty} were not assigned"
    return network.eval()


def untouched(source: Mapping[str, Tensor], converted: Mapping[str, Tensor | None]) -> list[str]:
    """Keys of the source of which no converted value is a view: a converter left them out."""
    used = {value.data_ptr() for value in converted.values() if value is not None}
    return [key for key, value in source.items() if value.data_ptr() not in used]


def mismatch(what: str, found: str) -> ConversionError:
    """The weights are not those of the architecture."""
    return ConversionError(
        where=what,
        found=found,
        wanted="every weight of the architecture, and no other",
        hint="check that the file is the one meant and whole; weights of other sizes need --config, the YAML "
        "that they were trained with",
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
