"""Text encoders with their tokenizers: CLIP's of a Stable-Diffusion folder (`text_encoder/`, `tokenizer/`), and that of
latent-diffusion (XReal, Cheff) with BERT's word pieces."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.checkpoints import (
    build_empty,
    load_whole,
    read_checkpoint,
    read_config,
    read_weights,
)
from xreal_synth.models.text.ldm_bert import TextEncoder, TextShape
from xreal_synth.models.text.prompts import missing_library, too_long
from xreal_synth.opening import parse_json

CLIP: Final = "CLIPTextModel"
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
        config = (self._folder / "text_encoder" / "config.json").read_text(encoding="utf-8")
        tables = [file for file in (self._folder / "tokenizer").iterdir() if file.suffix in (".json", ".txt")]
        _save(bundle, config, self._encoder, "model.safetensors", tables)


def _save(bundle: Path, config: str, encoder: nn.Module, weights: str, tables: Sequence[Path] = ()) -> None:
    """`text_encoder/` with configuration and weights, `tokenizer/` with copies of its tables."""
    folders = bundle / "text_encoder", bundle / "tokenizer"
    for folder in folders:
        folder.mkdir()
    (folders[0] / "config.json").write_text(config, encoding="utf-8")
    save_file({key: value.contiguous() for key, value in encoder.state_dict().items()}, folders[0] / weights)
    for table in tables:
        shutil.copyfile(table, folders[1] / table.name)


def open_clip(folder: Path, variant: str | None = None) -> ClipText:
    """The text model of a Stable-Diffusion folder, float32. Raises ConversionError."""
    try:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise missing_library(error) from error
    config = read_config(folder / "text_encoder" / "config.json")
    if config.get("architectures") != [CLIP]:
        raise ConversionError(
            where=str(folder / "text_encoder" / "config.json"),
            found=f"architectures {config.get('architectures')}",
            wanted=f"[{CLIP!r}], Stable Diffusion's text encoder",
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


CLASS_NAME: Final = "LdmBertEncoder"
WEIGHTS: Final = "diffusion_pytorch_model.safetensors"
VOCABULARY: Final = "vocab.txt"
CACHED: Final = ("google-bert/bert-base-uncased", "bert-base-uncased")
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

Cut = Callable[[str], Sequence[int]]
"""A text -> the ids of its word pieces, with those of its beginning and end, not padded."""


class WordPieces:
    """bert-base-uncased's way of cutting texts, by its vocab.txt of `words` lines."""

    def __init__(self, vocabulary: Path, words: int) -> None:
        try:
            from tokenizers.implementations import BertWordPieceTokenizer
        except ImportError as error:
            raise missing_library(error) from error
        table = _read_vocabulary(vocabulary, words)
        self.vocabulary = vocabulary
        self._unknown = table["[UNK]"]
        self._tokenizer: Any = BertWordPieceTokenizer(vocab=table, lowercase=True)

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        if self._unknown in ids:
            raise ConversionError(
                where=f"prompt {text[:60]!r}",
                found="letters that the vocabulary has not",
                wanted="plain text",
            )
        return ids


class LdmBert:
    """Prompts padded with zeros to the encoder's length and encoded without a mask, as the reference does."""

    def __init__(self, encoder: TextEncoder, shape: TextShape, cut: Cut) -> None:
        self._encoder = encoder.eval()
        self._shape = shape
        self._cut = cut

    @torch.inference_mode()
    def encode(self, prompt: str) -> Tensor:
        """A prompt -> embeddings float32 [L, D], padded to L; raises ConversionError for a longer one."""
        ids, length = list(self._cut(prompt)), self._shape.max_seq_len
        if len(ids) > length:
            raise too_long(prompt, len(ids), length)
        padded = torch.tensor([ids + [0] * (length - len(ids))])
        out: Tensor = self._encoder(padded)[0]
        return out.clone()

    def save(self, bundle: Path) -> None:
        """Writes `text_encoder/` and `tokenizer/` (its vocabulary) into a bundle."""
        assert isinstance(self._cut, WordPieces), "only a vocabulary file can be kept"
        config = json.dumps({"_class_name": CLASS_NAME, **asdict(self._shape)}, indent=1) + "\n"
        _save(bundle, config, self._encoder, WEIGHTS)
        shutil.copyfile(self._cut.vocabulary, bundle / "tokenizer" / VOCABULARY)


def open_ldm_bert(folder: Path, config: dict[str, Any]) -> LdmBert:
    """The text model that LdmBert.save wrote below `folder`."""
    shape = TextShape(**{key: value for key, value in config.items() if not key.startswith("_")})
    encoder = build_empty(lambda: TextEncoder(shape))
    weights = read_checkpoint(folder / "text_encoder" / WEIGHTS)
    load_whole(str(weights.path), encoder, {key: value.float() for key, value in weights.tensors.items()})
    return LdmBert(encoder, shape, WordPieces(folder / "tokenizer" / VOCABULARY, shape.num_tokens))


def find_vocabulary(given: Path | None) -> Path:
    """A vocabulary file as given, or bert-base-uncased's in the user's own cache; never fetched.

    Raises ConversionError where there is none.
    """
    if given is not None:
        return given.expanduser()
    from huggingface_hub import try_to_load_from_cache

    for name in CACHED:
        cached = try_to_load_from_cache(name, VOCABULARY)
        if isinstance(cached, str):
            return Path(cached)
    raise ConversionError(
        found="no vocabulary: none was given, and bert-base-uncased is not in the local cache",
        wanted=f"the {VOCABULARY} of bert-base-uncased, 30522 lines",
        hint=f"give it with --vocab; it is one of the files of {CACHED[0]} on the Hugging Face hub, and "
        "nothing is fetched for you",
    )


def _read_vocabulary(path: Path, words: int) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(
            where=str(path), found=f"cannot be read: {error}", wanted=f"a {VOCABULARY}, one word piece a line"
        ) from error
    table = {line.rstrip("\r"): at for at, line in enumerate(lines[:-1] if lines[-1] == "" else lines)}
    missing = [name for name in _SPECIAL if name not in table]
    if len(table) != words or missing or table["[PAD]"] != 0:
        what = f"{len(table)} word pieces" + (f", no {', '.join(missing)}" if missing else "")
        raise ConversionError(
            where=str(path),
            found=what,
            wanted=f"{words}, with {', '.join(_SPECIAL)}, [PAD] first",
            hint="give the vocabulary that the text encoder was trained with (bert-base-uncased's)",
        )
    return table
