"""Bundles from latent-diffusion checkpoints: XReal's three files, Cheff's two.

The value range, the scale factor and the schedule are the architecture's; the denoiser's plain weights are
taken unless averages are asked for; the denoiser's file overrides the autoencoder's, as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from xreal_synth.errors import ConversionError
from xreal_synth.models.bundle_file import BundleFields
from xreal_synth.models.convert.added_parts import check_size, read_upscaler, save_upscaler
from xreal_synth.models.convert.assemble import PLAIN, Parts, Stored, check_words, silent, write_parts
from xreal_synth.models.convert.checkpoints import Checkpoint, Report, check_there, read_checkpoint
from xreal_synth.models.convert.ldm import TOKEN_ROWS, convert_text, convert_unet, convert_vae, split_ldm
from xreal_synth.models.convert.published import LdmArchitecture, Published
from xreal_synth.models.describe import BundleInfo
from xreal_synth.models.text.encoders import Cut, TextModel, WordPieces, encode_all, find_vocabulary, ldm_bert


@dataclass(frozen=True, slots=True)
class LdmFiles:
    """Checkpoints as published. The autoencoder's is read only where the backbone has none of its own.

    `ignore` names entries beside the weights to leave out, `vocabulary` is that of bert-base-uncased; with `ema` the
    denoiser's averaged weights are taken.
    """

    backbone: Path
    autoencoder: Path | None = None
    controller: Path | None = None
    upscaler: Path | None = None
    ignore: tuple[str, ...] = ()
    vocabulary: Path | None = None
    ema: bool = False


def convert_latent(
    files: LdmFiles,
    out: Path,
    published: Published,
    *,
    stored: Stored = PLAIN,
    cut: Cut | None = None,
    report: Report = silent,
    note: Callable[[str], None] = lambda text: None,
) -> BundleInfo:
    """Writes the bundle `out` by the sizes and words of `published`.

    `cut` replaces bert-base-uncased's word pieces; `note` is told what the user may not expect.

    Raises ConversionError: a file that is missing, broken or of another layout, no first stage, no averages,
    no vocabulary, or `out` already there.
    """
    sizes, prompts = published.sizes, published.prompts
    assert sizes is not None, "a latent-diffusion checkpoint does not tell its sizes"
    said = check_words(out, published, stored)
    for path in (files.backbone, files.autoencoder, files.controller, files.upscaler):
        if path is not None:
            check_there(path)
    if sizes.text is None and (prompts.findings or prompts.more):
        raise ConversionError(
            found=f"prompts for {', '.join(prompts.findings) or 'free text'}",
            wanted="none: the unconditional model's images do not follow a prompt",
            hint="leave --prompts out, or convert the text-to-image model",
        )
    if sizes.text is not None and cut is None:
        cut = WordPieces(find_vocabulary(files.vocabulary), sizes.text.num_tokens)
    extras: list[Callable[[Path], None]] = []
    if files.upscaler is not None:
        check_size(published.name, sizes.image_size)
        upscaler = read_upscaler(files.upscaler, files.ignore)
        extras.append(lambda folder: save_upscaler(folder, upscaler, stored.dtype))
    report(f"reading {files.backbone.name}", 0, 1)
    backbone = read_checkpoint(files.backbone, ignore=files.ignore)
    sizes.check_buffers(backbone.tensors, backbone.name)
    state = split_ldm(backbone.tensors, ema=files.ema, where=backbone.name)
    if state["vae"] and files.autoencoder is not None:
        note(f"{files.autoencoder.name} is not used: {backbone.name} has a first stage of its own")
    networks = _networks(files, backbone, state, sizes, report)
    embeddings, text = _embeddings(backbone, state["text"], published, cut, report)
    if text is not None and stored.keep_text_encoder:
        extras.append(text.save)
    parts = Parts(networks, sizes.scheduler(), embeddings, extras)
    return write_parts(out, parts, BundleFields(**said, **sizes.fields()), stored, report)


def _networks(
    files: LdmFiles,
    backbone: Checkpoint,
    state: Mapping[str, Mapping[str, Tensor]],
    sizes: LdmArchitecture,
    report: Report,
) -> dict[str, nn.Module]:
    if not state["unet"]:
        raise ConversionError(
            where=str(backbone.path),
            found="no denoiser (model.diffusion_model.*)",
            wanted="a latent-diffusion checkpoint",
            hint="check that this is the backbone's file",
        )
    report("converting the denoiser", 0, 3)
    networks = {"unet": convert_unet(state["unet"], sizes.unet, f"{backbone.name}: denoiser")}
    report("converting the first stage", 1, 3)
    owner, stage = backbone, state["vae"]
    if not stage and files.autoencoder is None:
        raise ConversionError(
            where=str(backbone.path),
            found="no first stage (first_stage_model.*)",
            wanted="an autoencoder, in this file or in one of its own",
            hint="give the autoencoder's file with --ae",
        )
    if not stage and files.autoencoder is not None:
        owner = read_checkpoint(files.autoencoder, ignore=files.ignore)
        stage = owner.tensors
    networks["vae"] = convert_vae(stage, sizes.vae, f"{owner.name}: first stage")
    if files.controller is not None:
        report("converting the Anatomy Controller", 2, 3)
        owner = read_checkpoint(files.controller, ignore=files.ignore)
        where = f"{owner.name}: Anatomy Controller"
        networks["anatomy_controller"] = convert_vae(owner.tensors, sizes.vae, where)
    return networks


def _embeddings(
    backbone: Checkpoint, state: Mapping[str, Tensor], published: Published, cut: Cut | None, report: Report
) -> tuple[dict[str, Tensor], TextModel | None]:
    """Every prompt's tokens, with the text model; a denoiser without prompts gets one empty token."""
    where, texts = f"{backbone.name}: text encoder", published.prompts.texts()
    shape = None if published.sizes is None else published.sizes.text
    if shape is None:
        if state:
            raise ConversionError(
                where=where,
                found="a text encoder (cond_stage_model.*)",
                wanted="none: the unconditional model has no prompts",
                hint="convert the file as the text-to-image model",
            )
        return {text: Tensor([[0.0]]) for text in texts}, None
    assert cut is not None
    model = ldm_bert(convert_text(state, shape, backbone.tensors.get(TOKEN_ROWS), where), shape, cut)
    return encode_all(model, texts, report), model
