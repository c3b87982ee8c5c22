"""A prompt more in a bundle's table: encoded once here, so that no run needs a text encoder."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from safetensors.torch import load_file, save
from torch import Tensor

from xreal_synth import findings as vocab
from xreal_synth.errors import BundleError, ConversionError
from xreal_synth.models.bundle_file import BUNDLE_FILE, EMBEDDINGS, NULL_KEY, TEXT_PARTS, bounded_config
from xreal_synth.models.convert.checkpoints import read_checkpoint, read_config
from xreal_synth.models.convert.ldm import TEXT_PREFIX, TOKEN_ROWS, convert_text, text_shape
from xreal_synth.models.describe import SHIPPED, BundleInfo, describe, verify_files
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.models.text.encoders import (
    CLASS_NAME,
    TextModel,
    WordPieces,
    find_vocabulary,
    ldm_bert,
    open_clip,
    open_ldm_bert,
)
from xreal_synth.storage import LocalStore

SAME: Final = 5e-3
"""How far the null prompt may lie from the stored one, over its largest value: fp16 keeps 3 digits."""


def add_prompt(bundle: str | Path, text: str, model: TextModel | None, finding: str | None = None) -> BundleInfo:
    """Adds an embedding for `text`, and makes it the prompt of `finding` if one is named.

    Without `model` the bundle's own text encoder is used. The bundle's content hash changes: datasets begun
    with it before are another bundle's. Raises BundleError: a shipped bundle, a denoiser without prompts, a
    text encoder that is not the one that made the table; ConversionError for a text that does not fit.
    """
    info = describe(bundle)
    _check_can_grow(info, text, finding)
    verify_files(info)
    with info.held(EMBEDDINGS) as file:
        table = load_file(file)
    if text not in info.known_prompts:
        if model is None:
            with tempfile.TemporaryDirectory(prefix="xreal-synth-") as own:
                for stamp in info.files:
                    if PurePosixPath(stamp.path).parts[0] in TEXT_PARTS:
                        info.copy_file(stamp.path, Path(own))
                model = open_text_model(Path(own))
        _check_same(info, table, model)
        table[text] = model.encode(text).to(table[info.null_prompt or NULL_KEY].dtype)
    fields = read_fields(info.root / BUNDLE_FILE)
    if finding is not None:
        findings = {**fields.prompts.findings, finding: text}
        fields = fields.model_copy(update={"prompts": fields.prompts.model_copy(update={"findings": findings})})
    LocalStore(info.root).replace(EMBEDDINGS, save(table))
    return write_bundle(info.root, fields)


def open_text_model(source: Path, vocabulary: Path | None = None) -> TextModel:
    """A text encoder from a folder with `text_encoder/` and `tokenizer/`, or from a latent-diffusion
    checkpoint (which needs a vocabulary). Raises ConversionError."""
    source = source.expanduser()
    if source.is_file():
        checkpoint = read_checkpoint(source)
        state = checkpoint.without_prefix(TEXT_PREFIX)
        shape = text_shape(state, source)
        words = WordPieces(find_vocabulary(vocabulary), shape.num_tokens)
        encoder = convert_text(state, shape, checkpoint.tensors.get(TOKEN_ROWS), f"{source.name}: text encoder")
        return ldm_bert(encoder, shape, words)
    if not (source / "text_encoder").is_dir():
        raise ConversionError(
            where=str(source),
            found="no text_encoder/" if source.is_dir() else "no such file or folder",
            wanted="a folder with text_encoder/ and tokenizer/, or the checkpoint that holds the text encoder",
            hint="give with --text-encoder what the bundle was converted from",
        )
    config: dict[str, Any] = read_config(source / "text_encoder" / "config.json")
    if config.get("_class_name") == CLASS_NAME:
        return open_ldm_bert(source, config)
    return open_clip(source)


def _check_can_grow(info: BundleInfo, text: str, finding: str | None) -> None:
    if info.root.is_relative_to(SHIPPED):
        raise info.refusal(
            "it is shipped with the package",
            "a bundle of your own",
            f"copy the folder {info.root} and add the prompt there",
        )
    if not text or text == NULL_KEY:
        raise BundleError(found=f"the prompt {text!r}", wanted="a text", hint="give the prompt's text")
    if finding is not None and vocab.canonical(finding) != finding:
        raise BundleError(
            found=f"no finding {finding!r}", wanted=f"one of {', '.join(vocab.FINDINGS)}", hint="correct --finding"
        )
    if not info.prompts and info.known_prompts == {info.null_prompt, info.healthy_prompt}:
        unet = bounded_config(info.read("unet/config.json"), f"{info.root}/unet")
        if unet.get("_class_name") == "UNet2DModel":
            raise info.refusal(
                "its denoiser takes no prompts", "a bundle with a text-to-image model", "choose another bundle"
            )


def _check_same(info: BundleInfo, table: Mapping[str, Tensor], model: TextModel) -> None:
    """The text encoder makes of the null prompt what the table has."""
    stored = table[info.null_prompt or NULL_KEY].float()
    found = model.encode(info.null_prompt)
    if found.shape == stored.shape:
        apart = float((found - stored).abs().max() / stored.abs().max())
        if apart <= SAME:  # not so for NaN
            return
        met, wanted = f"the null prompt differs by {apart:.2g} of its largest value", f"{SAME}"
    else:
        met, wanted = f"tokens {list(found.shape)}", f"{list(stored.shape)}"
    raise info.refusal(
        f"another text encoder than the one that made the bundle's prompts: {met}",
        wanted,
        "give with --text-encoder what the bundle was converted from",
    )
