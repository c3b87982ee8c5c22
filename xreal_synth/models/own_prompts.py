"""Prompts that a recipe asks for and its bundle has not: encoded once before a run, for one dataset alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from xreal_synth.errors import ConversionError
from xreal_synth.models.add_prompt import encode_for, open_text_model
from xreal_synth.models.bundle_file import EMBEDDINGS, TEXT_PARTS
from xreal_synth.models.describe import BundleInfo
from xreal_synth.models.prompt_table import pack
from xreal_synth.models.text.wordpieces import find_vocabulary
from xreal_synth.storage import sha256_file


@dataclass(frozen=True, slots=True)
class TextSource:
    """Where a text encoder is: a folder with `text_encoder/` and `tokenizer/`, or a latent-diffusion checkpoint
    with a vocabulary (its own, or None for the local cache's)."""

    path: Path
    vocabulary: Path | None = None

    @classmethod
    def given(cls, path: Path | None, vocabulary: Path | None) -> TextSource | None:
        """From the two options; raises ConversionError for a vocabulary alone."""
        if path is not None:
            return cls(path, vocabulary)
        if vocabulary is None:
            return None
        raise ConversionError(
            found="--vocab without --text-encoder", wanted="both, or neither", mend="name the checkpoint too"
        )

    def require_use(self, used: bool) -> None:
        """Raises ConversionError for an encoder that would change nothing."""
        if not used:
            raise ConversionError(
                found="--text-encoder, but every prompt of the recipe is in the bundle",
                wanted="prompts to encode",
                mend="leave --text-encoder out",
            )

    def identity(self) -> str:
        """sha256 over the files that decide the tokens. Raises ConversionError if there are none."""
        digests = [sha256_file(file) for file in self._files()]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def _files(self) -> list[Path]:
        path = self.path.expanduser()
        if path.is_file():
            return [path, _existing(find_vocabulary(self.vocabulary))]
        if self.vocabulary is not None:
            raise ConversionError(
                found=f"--vocab with {path}", wanted="--vocab with a checkpoint: a folder has its own tokenizer",
                mend="leave it out",
            )  # fmt: skip
        folders = [_existing(path / part) for part in TEXT_PARTS]
        return [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ConversionError(
            where="--text-encoder",
            found=f"no {path}",
            wanted="a folder with text_encoder/ and tokenizer/, or a checkpoint and its vocabulary",
            mend="give what the bundle was converted from",
        )
    return path


def encode_own(info: BundleInfo, texts: Sequence[str], encoder: str, source: TextSource | None) -> bytes:
    """The table of these texts, as prompt_table.py reads it, by the bundle's own text encoder or by `source`.

    `encoder` names that. Raises BundleError for an encoder that did not make the bundle's prompts,
    ConversionError for one that cannot be read and for a text that does not fit.
    """
    with info.held(EMBEDDINGS) as file:
        table = load_file(file)
    if source is not None:
        return pack(encode_for(info, table, texts, open_text_model(source.path, source.vocabulary)), encoder)
    with info.own_text_encoder() as folder:
        return pack(encode_for(info, table, texts, open_text_model(folder)), encoder)
