"""Parts of a diffusers folder: configurations and weights, safetensors before pickles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.checkpoints import Checkpoint, read_checkpoint
from xreal_synth.opening import parse_json

DIFFUSERS_STEMS: Final = ("diffusion_pytorch_model",)


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object; raises ConversionError."""
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(
            where=str(path),
            found="no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}",
            wanted="a part's configuration in diffusers layout",
            mend="give the folder that holds model_index.json, whole",
        ) from error
    if not isinstance(data, dict):
        raise ConversionError(where=str(path), found="not a JSON object", wanted="a configuration")
    return data


def read_weights(folder: Path, stems: Sequence[str], variant: str | None = None) -> Checkpoint:
    """The weights of a part: STEM.safetensors, else STEM.bin; `variant` as in STEM.fp16.safetensors.

    Raises ConversionError if there are none, or only in several pieces.
    """
    middle = f".{variant}" if variant else ""
    for suffix in ("safetensors", "bin"):
        for stem in stems:
            path = folder / f"{stem}{middle}.{suffix}"
            if path.is_file():
                return read_checkpoint(path)
    files = sorted(file.name for file in folder.glob("*")) if folder.is_dir() else []
    found = f"{', '.join(files) or 'no files'}"
    pieces = any(name.endswith(".index.json") for name in files)
    raise ConversionError(
        where=str(folder),
        found=found,
        wanted=" or ".join(f"{stem}{middle}.safetensors" for stem in stems) + ", or the same as .bin",
        mend="save the part in one piece: save_pretrained(..., max_shard_size='100GB')"
        if pieces
        else "fetch the folder again; weights such as model.fp16.safetensors are taken with --variant fp16",
    )
