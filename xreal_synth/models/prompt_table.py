"""A dataset's own prompts as one safetensors file: numbered tensors, and the texts in its header."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from xreal_synth.errors import DatasetError
from xreal_synth.opening import parse_json

if TYPE_CHECKING:
    from torch import Tensor

_KEY: Final = "prompts"
"""One entry of the header's metadata: safetensors writes several in no fixed order."""


def pack(table: Mapping[str, Tensor], encoder: str) -> bytes:
    """Text -> tokens [L, D], and what encoded them, as a file; equal bytes for equal tables."""
    from safetensors.torch import save

    about = json.dumps({"encoder": encoder, "texts": list(table)})
    return save({f"{at:06d}": e_LD for at, e_LD in enumerate(table.values())}, {_KEY: about})


def unpack(data: bytes) -> dict[str, Tensor]:
    """The table in a file; raises DatasetError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    _, texts = read_about(data)
    try:
        tensors = load(data)
        return {text: tensors[f"{at:06d}"] for at, text in enumerate(texts)}
    except (SafetensorError, KeyError) as error:
        raise _broken(str(error)) from error


def read_about(data: bytes) -> tuple[str, tuple[str, ...]]:
    """(what encoded them, the texts), from the header alone, without torch; raises DatasetError."""
    try:
        (length,) = struct.unpack("<Q", data[:8])
        about: Any = parse_json(parse_json(data[8 : 8 + length])["__metadata__"][_KEY])
        return str(about["encoder"]), tuple(map(str, about["texts"]))
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise _broken(f"no header of prompts ({error})") from error


def _broken(found: str) -> DatasetError:
    return DatasetError(
        where="prompts.safetensors",
        found=found,
        wanted="the file as it was written",
        mend="restore it from a copy",
    )
