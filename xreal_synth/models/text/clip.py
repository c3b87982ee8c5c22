"""CLIP's text encoder and tokenizer from a Stable-Diffusion folder (`text_encoder/`, `tokenizer/`)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.checkpoints import read_config, read_weights
from xreal_synth.models.convert.strict import load_whole
from xreal_synth.models.text.prompts import missing_library, too_long
from xreal_synth.opening import parse_json

CLASS_NAME: Final = "CLIPTextModel"
STEMS: Final = ("model", "pytorch_model")
_PREFIX: Final = "text_model."
_POSITIONS: Final = "embeddings.position_ids"
"""A buffer of older versions, 0, 1, 2..: it follows from the configuration."""


class ClipText:
    """Prompts padded to the encoder's length and encoded as diffusers' Stable-Diffusion pipeline does."""

    def __init__(self, folder: Path, encoder: Any, tokenizer: Any) -> None:
        self._folder = folder
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        self._masked = bool(getattr(encoder.config, "use_attention_mask", False))

    @property
    def width(self) -> int:
        """D, the length of a token's embedding."""
        return int(self._encoder.config.hidden_size)

    @torch.inference_mode()
    def encode(self, prompt: str) -> Tensor:
        """A prompt -> embeddings float32 [L, D], padded to L; raises ConversionError for a longer one."""
        found = self._tokenizer(prompt, truncation=False)["input_ids"]
        if len(found) > self._length:
            raise too_long(prompt, len(found), self._length)
        padded = self._tokenizer(
            prompt, padding="max_length", max_length=self._length, return_tensors="pt"
        )  # fmt: skip
        mask = padded.attention_mask if self._masked else None
        out: Tensor = self._encoder(padded.input_ids, attention_mask=mask)[0][0]
        return out.float().clone()

    def save(self, bundle: Path) -> None:
        """Writes `text_encoder/` and `tokenizer/` into a bundle, safetensors and plain tables alone."""
        (bundle / "text_encoder").mkdir()
        (bundle / "tokenizer").mkdir()
        shutil.copyfile(
            self._folder / "text_encoder" / "config.json", bundle / "text_encoder" / "config.json"
        )
        weights = {key: value.contiguous() for key, value in self._encoder.state_dict().items()}
        save_file(weights, bundle / "text_encoder" / "model.safetensors")
        for file in sorted((self._folder / "tokenizer").iterdir()):
            if file.suffix in (".json", ".txt"):
                shutil.copyfile(file, bundle / "tokenizer" / file.name)


def open_clip(folder: Path, variant: str | None = None) -> ClipText:
    """The text model of a Stable-Diffusion folder, float32. Raises ConversionError."""
    try:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise missing_library(error) from error
    config = read_config(folder / "text_encoder" / "config.json")
    if config.get("architectures") != [CLASS_NAME]:
        raise ConversionError(
            where=str(folder / "text_encoder" / "config.json"),
            found=f"architectures {config.get('architectures')}",
            wanted=f"[{CLASS_NAME!r}], Stable Diffusion's text encoder",
            hint="this folder's prompts cannot be encoded here",
        )
    weights = read_weights(folder / "text_encoder", STEMS, variant)
    encoder = CLIPTextModel(CLIPTextConfig(**config))
    load_whole(str(weights.path), encoder, _renamed(weights.tensors, encoder.state_dict()))
    tokenizer = _tokenizer(CLIPTokenizer, folder / "tokenizer", encoder.config.vocab_size)
    return ClipText(folder, encoder, tokenizer)


def _renamed(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's names as the installed version has them: with or without `text_model.` in front."""
    prefix = _PREFIX if any(key.startswith(_PREFIX) for key in wanted) else ""
    plain = {
        key.removeprefix(_PREFIX): value.float() for key, value in state.items() if _POSITIONS not in key
    }
    return {prefix + key: value for key, value in plain.items()}


def _tokenizer(kind: Any, folder: Path, words: int) -> Any:
    """CLIP's tokenizer of `words` words, from tokenizer.json or from vocab.json and merges.txt."""
    wanted = f"CLIP's tokenizer.json, or vocab.json and merges.txt, of {words} word pieces"
    whole = (folder / "tokenizer.json").is_file()
    files = ("tokenizer.json",) if whole else ("vocab.json", "merges.txt")
    try:
        for name in files:
            text = (folder / name).read_text(encoding="utf-8")
            if name.endswith(".json"):
                parse_json(text)
        tokenizer = kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library's Rust core raises bare Exception
        raise ConversionError(
            where=str(folder), found=f"cannot be read: {error}", wanted=wanted, hint="fetch the folder again"
        ) from error
    if len(tokenizer) != words:
        raise ConversionError(
            where=str(folder),
            found=f"{len(tokenizer)} word pieces",
            wanted=wanted,
            hint="give the tokenizer that the text encoder was trained with",
        )
    return tokenizer
