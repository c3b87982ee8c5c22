"""Encoders of prompts: one seam for every family of text encoders. Needed when a bundle is made or gets a
prompt, never when images are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from xreal_synth.errors import ConversionError

Report = Callable[[str, int, int], None]
"""(what, done, total): progress of a long step."""


class TextModel(Protocol):
    """A tokenizer with its encoder."""

    def encode(self, prompt: str) -> Tensor:
        """A prompt -> tokens [L, D], float32. Raises ConversionError for a text that does not fit."""
        ...

    def save(self, bundle: Path) -> None:
        """Writes `text_encoder/` and `tokenizer/` into a bundle's folder."""
        ...


def encode_all(model: TextModel, prompts: Sequence[str], report: Report) -> dict[str, Tensor]:
    """Every prompt -> tokens [L, D]."""
    found = {}
    for at, prompt in enumerate(prompts):
        report("encoding prompts", at, len(prompts))
        found[prompt] = model.encode(prompt)
    report("encoding prompts", len(prompts), len(prompts))
    return found


def too_long(prompt: str, pieces: int, most: int) -> ConversionError:
    """The error for a prompt of more word pieces than the encoder takes."""
    return ConversionError(
        where=f"prompt {prompt[:60]!r}",
        found=f"{pieces} word pieces",
        wanted=f"at most {most}, as the text encoder was trained",
        hint="shorten it",
    )


def missing_library(error: ImportError) -> ConversionError:
    """The error for an install without the extra `text`."""
    return ConversionError(
        found=f"no {error.name or 'transformers'}",
        wanted="the libraries that cut prompts into word pieces",
        hint="pip install 'xreal-synth[text]'",
    )
