"""Text encoders with their tokenizers: CLIP's of a Stable-Diffusion folder (`text_encoder/`, `tokenizer/`), and that of
latent-diffusion (XReal, Cheff) with BERT's word pieces.

They are needed when a bundle is made or gets a prompt, never when images are made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.checkpoints import (
    Report,
    build_empty,
    load_whole,
    read_checkpoint,
    read_config,
    read_weights,
)
from xreal_synth.models.text.ldm_bert import TextEncoder, TextShape
from xreal_synth.opening import parse_json

CLIP: Final = "CLIPTextModel"
STEMS: Final = ("model", "pytorch_model")
_PREFIX: Final = "text_model."
_POSITIONS: Final = "embeddings.position_ids"
"""A buffer of older versions, 0, 1, 2..: it follows from the configuration."""

CLASS_NAME: Final = "LdmBertEncoder"
WEIGHTS: Final = "diffusion_pytorch_model.safetensors"
VOCABULARY: Final = "vocab.txt"
CACHED: Final = ("google-bert/bert-base-uncased", "bert-base-uncased")
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

Cut = Callable[[str], Sequence[int]]
"""A text -> the ids of its word pieces, with those of its beginning and end, not padded."""


@dataclass(frozen=True, slots=True)
class TextModel:
    """A tokenizer with its encoder: prompts are cut, padded with `pad` to `length` word pieces, and encoded.

    `run` makes of ids and their mask, int64 [1, L], embeddings [1, L, D], of `width` D. A bundle keeps of it the
    `config`, the encoder's weights in a file of the name `weights`, and the tokenizer's `tables` by name.
    """

    encoder: nn.Module
    run: Callable[[Tensor, Tensor], Tensor]
    cut: Cut
    length: int
    width: int
    config: str
    weights: str
    tables: Mapping[str, Path]
    pad: int = 0

    @torch.inference_mode()
    def encode(self, prompt: str) -> Tensor:
        """A prompt -> embeddings float32 [L, D], padded to L; raises ConversionError for a longer one."""
        ids = list(self.cut(prompt))
        if len(ids) > self.length:
            raise ConversionError(
                where=f"prompt {prompt[:60]!r}",
                found=f"{len(ids)} word pieces",
                wanted=f"at most {self.length}, as the text encoder was trained",
                hint="shorten it",
            )
        padded = torch.tensor([ids + [self.pad] * (self.length - len(ids))])
        mask = (torch.arange(self.length) < len(ids)).long()[None]
        return self.run(padded, mask)[0].float().clone()

    def save(self, bundle: Path) -> None:
        """Writes `text_encoder/` and `tokenizer/` into a bundle, safetensors and plain tables alone."""
        assert self.tables, "only a tokenizer of files can be kept"
        encoder, tokenizer = bundle / "text_encoder", bundle / "tokenizer"
        encoder.mkdir()
        (encoder / "config.json").write_text(self.config, encoding="utf-8")
        save_file({k: v.contiguous() for k, v in self.encoder.state_dict().items()}, encoder / self.weights)
        tokenizer.mkdir()
        for name, table in self.tables.items():
            shutil.copyfile(table, tokenizer / name)


def encode_all(model: TextModel, prompts: Sequence[str], report: Report) -> dict[str, Tensor]:
    """Every prompt -> tokens [L, D]."""
    found = {}
    for at, prompt in enumerate(prompts):
        report("encoding prompts", at, len(prompts))
        found[prompt] = model.encode(prompt)
    report("encoding prompts", len(prompts), len(prompts))
    return found


def _missing_library(error: ImportError) -> ConversionError:
    """The error for an install without the extra `text`."""
    return ConversionError(
        found=f"no {error.name or 'transformers'}",
        wanted="the libraries that cut prompts into word pieces",
        hint="pip install 'xreal-synth[text]'",
    )


def open_clip(folder: Path, variant: str | None = None) -> TextModel:
    """The text model of a Stable-Diffusion folder, float32, as diffusers' pipeline uses it. Raises ConversionError."""
    try:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise _missing_library(error) from error
    path = folder / "text_encoder" / "config.json"
    config = read_config(path)
    if config.get("architectures") != [CLIP]:
        raise ConversionError(
            where=str(path),
            found=f"architectures {config.get('architectures')}",
            wanted=f"[{CLIP!r}], Stable Diffusion's text encoder",
            hint="this folder's prompts cannot be encoded here",
        )
    weights = read_weights(folder / "text_encoder", STEMS, variant)
    encoder: Any = CLIPTextModel(CLIPTextConfig(**config))
    load_whole(str(weights.path), encoder, _renamed(weights.tensors, encoder.state_dict()))
    tokenizer = _tokenizer(CLIPTokenizer, folder / "tokenizer", encoder.config.vocab_size)
    masked = bool(getattr(encoder.config, "use_attention_mask", False))
    files = sorted((folder / "tokenizer").iterdir())
    return TextModel(
        encoder,
        run=lambda ids, mask: encoder(ids, attention_mask=mask if masked else None)[0],
        cut=lambda prompt: tokenizer(prompt, truncation=False)["input_ids"],
        length=min(tokenizer.model_max_length, encoder.config.max_position_embeddings),
        width=int(encoder.config.hidden_size),
        config=path.read_text(encoding="utf-8"),
        weights="model.safetensors",
        tables={file.name: file for file in files if file.suffix in (".json", ".txt")},
        pad=tokenizer.pad_token_id,
    )


def _renamed(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's names as the installed version has them: with or without `text_model.` in front."""
    prefix = _PREFIX if any(key.startswith(_PREFIX) for key in wanted) else ""
    plain = {key.removeprefix(_PREFIX): value.float() for key, value in state.items() if _POSITIONS not in key}
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


class WordPieces:
    """bert-base-uncased's way of cutting texts, by its vocab.txt of `words` lines."""

    def __init__(self, vocabulary: Path, words: int) -> None:
        try:
            from tokenizers.implementations import BertWordPieceTokenizer
        except ImportError as error:
            raise _missing_library(error) from error
        table = _read_vocabulary(vocabulary, words)
        self.vocabulary = vocabulary
        self._unknown = table["[UNK]"]
        self._tokenizer: Any = BertWordPieceTokenizer(vocab=table, lowercase=True)

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        if self._unknown in ids:
            raise ConversionError(
                where=f"prompt {text[:60]!r}", found="letters that the vocabulary has not", wanted="plain text"
            )
        return ids


def ldm_bert(encoder: TextEncoder, shape: TextShape, cut: Cut) -> TextModel:
    """Prompts padded with zeros to the encoder's length and encoded without a mask, as the reference does."""
    encoder.eval()
    return TextModel(
        encoder,
        run=lambda ids, mask: encoder(ids),
        cut=cut,
        length=shape.max_seq_len,
        width=shape.dim,
        config=json.dumps({"_class_name": CLASS_NAME, **asdict(shape)}, indent=1) + "\n",
        weights=WEIGHTS,
        tables={VOCABULARY: cut.vocabulary} if isinstance(cut, WordPieces) else {},
    )


def open_ldm_bert(folder: Path, config: dict[str, Any]) -> TextModel:
    """The text model of ldm_bert as its `save` wrote it below `folder`."""
    shape = TextShape(**{key: value for key, value in config.items() if not key.startswith("_")})
    encoder = build_empty(lambda: TextEncoder(shape))
    weights = read_checkpoint(folder / "text_encoder" / WEIGHTS)
    load_whole(str(weights.path), encoder, {key: value.float() for key, value in weights.tensors.items()})
    return ldm_bert(encoder, shape, WordPieces(folder / "tokenizer" / VOCABULARY, shape.num_tokens))


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
