"""Bundles from latent-diffusion checkpoints: XReal's three files, Cheff's two.

The value range, the scale factor and the schedule are the architecture's; the denoiser's plain weights are
taken unless averages are asked for; the denoiser's file overrides the autoencoder's, as in the reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from xreal_synth.errors import ConversionError
from xreal_synth.models.bundle_file import NAME_PATTERN, BundleFields
from xreal_synth.models.convert.assemble import PLAIN, Parts, Stored, check_place, silent, write_parts
from xreal_synth.models.convert.checkpoints import Checkpoint, check_there, read_checkpoint
from xreal_synth.models.convert.ldm import TOKEN_ROWS, convert_text, convert_unet, convert_vae, split_ldm
from xreal_synth.models.convert.published import LdmArchitecture, Published
from xreal_synth.models.describe import BundleInfo
from xreal_synth.models.text.encoders import Cut, LdmBert, WordPieces, find_vocabulary
from xreal_synth.models.text.prompts import PromptTable, Report, encode_all


@dataclass(frozen=True, slots=True)
class LdmFiles:
    """Checkpoints as published. The autoencoder's is read only where the backbone has none of its own."""

    backbone: Path
    autoencoder: Path | None = None
    controller: Path | None = None
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """Words of bundle.json beside the weights; what is empty is as the publisher is known to say."""

    name: str = ""
    licence: str = ""
    use_restriction: str = ""
    training_data: str = ""

    def filled(self, published: Published, stored: Stored) -> Terms:
        """With nothing empty; the mask bank's licence is named beside the weights'.

        Raises ConversionError for a name that cannot be one, or no licence.
        """
        licence = self.licence or published.licence
        if not licence:
            raise ConversionError(
                found="no licence",
                wanted="the licence of the weights, as their publisher states it",
                hint="give it with --licence",
            )
        name = self.name or published.name
        if not re.fullmatch(NAME_PATTERN, name):
            raise ConversionError(
                found=f"the name {name!r}",
                wanted="lower-case letters, digits, . _ -",
                hint="give another with --name",
            )
        bank = "" if stored.bank is None else f"; anatomy_bank: that of {Path(stored.bank).name}"
        return Terms(
            name=name,
            licence=licence + bank,
            use_restriction=self.use_restriction or published.use_restriction,
            training_data=self.training_data or published.training_data,
        )


def convert_latent(
    files: LdmFiles,
    out: Path,
    *,
    architecture: LdmArchitecture,
    published: Published,
    prompts: PromptTable,
    terms: Terms,
    vocabulary: Path | None = None,
    ema: bool = False,
    stored: Stored = PLAIN,
    cut: Cut | None = None,
    extras: tuple[Callable[[Path], None], ...] = (),
    report: Report = silent,
    note: Callable[[str], None] = lambda text: None,
) -> BundleInfo:
    """Writes the bundle `out`; `cut` replaces bert-base-uncased's word pieces, `extras` write further parts.

    `note` is told what the user may not expect.

    Raises ConversionError: a file that is missing, broken or of another layout, no first stage, no averages,
    no vocabulary, or `out` already there.
    """
    check_place(out, stored)
    for path in (files.backbone, files.autoencoder, files.controller):
        if path is not None:
            check_there(path)
    if architecture.text is None and (prompts.findings or prompts.more):
        raise ConversionError(
            found=f"prompts for {', '.join(prompts.findings) or 'free text'}",
            wanted="none: the unconditional model's images do not follow a prompt",
            hint="leave --prompts out, or convert the text-to-image model",
        )
    said = terms.filled(published, stored)
    if architecture.text is not None and cut is None:
        cut = WordPieces(find_vocabulary(vocabulary), architecture.text.num_tokens)
    report(f"reading {files.backbone.name}", 0, 1)
    backbone = read_checkpoint(files.backbone, ignore=files.ignore)
    architecture.check_buffers(backbone.tensors, backbone.name)
    state = split_ldm(backbone.tensors, ema=ema, where=backbone.name)
    if state["vae"] and files.autoencoder is not None:
        note(f"{files.autoencoder.name} is not used: {backbone.name} has a first stage of its own")
    networks = _networks(files, backbone, state, architecture, report)
    embeddings, text = _embeddings(backbone, state["text"], architecture, prompts, cut, report)
    if text is not None and stored.keep_text_encoder:
        extras = (*extras, text.save)
    fields = BundleFields(
        **asdict(said),
        image_size=architecture.image_size,
        channels=architecture.vae["in_channels"],
        value_range=architecture.value_range,
        latent_shape=architecture.latent_shape,
        scale_factor=architecture.scale_factor,
        prompts=prompts.for_bundle(),
        defaults=published.defaults,
    )
    parts = Parts(networks, architecture.scheduler(), embeddings, extras)
    return write_parts(out, parts, fields, stored, report)


def _networks(
    files: LdmFiles,
    backbone: Checkpoint,
    state: Mapping[str, Mapping[str, Tensor]],
    architecture: LdmArchitecture,
    report: Report,
) -> dict[str, Any]:
    if not state["unet"]:
        raise ConversionError(
            where=str(backbone.path),
            found="no denoiser (model.diffusion_model.*)",
            wanted="a latent-diffusion checkpoint",
            hint="check that this is the backbone's file",
        )
    report("converting the denoiser", 0, 3)
    unet = convert_unet(state["unet"], architecture.unet, f"{backbone.name}: denoiser")
    report("converting the first stage", 1, 3)
    networks = {"vae": _first_stage(files, backbone, state["vae"], architecture), "unet": unet}
    if files.controller is not None:
        report("converting the Anatomy Controller", 2, 3)
        controller = read_checkpoint(files.controller, ignore=files.ignore)
        networks["anatomy_controller"] = convert_vae(
            controller.tensors, architecture.vae, f"{controller.name}: Anatomy Controller"
        )
    return networks


def _first_stage(
    files: LdmFiles, backbone: Checkpoint, state: Mapping[str, Tensor], architecture: LdmArchitecture
) -> Any:
    if state:
        return convert_vae(state, architecture.vae, f"{backbone.name}: first stage")
    if files.autoencoder is None:
        raise ConversionError(
            where=str(backbone.path),
            found="no first stage (first_stage_model.*)",
            wanted="an autoencoder, in this file or in one of its own",
            hint="give the autoencoder's file with --ae",
        )
    own = read_checkpoint(files.autoencoder, ignore=files.ignore)
    return convert_vae(own.tensors, architecture.vae, f"{own.name}: first stage")


def _embeddings(
    backbone: Checkpoint,
    state: Mapping[str, Tensor],
    architecture: LdmArchitecture,
    prompts: PromptTable,
    cut: Cut | None,
    report: Report,
) -> tuple[dict[str, Tensor], LdmBert | None]:
    """Every prompt's tokens, with the text model; a denoiser without prompts gets one empty token."""
    where = f"{backbone.name}: text encoder"
    if architecture.text is None:
        if state:
            raise ConversionError(
                where=where,
                found="a text encoder (cond_stage_model.*)",
                wanted="none: the unconditional model has no prompts",
                hint="convert the file as the text-to-image model",
            )
        return {text: Tensor([[0.0]]) for text in prompts.texts()}, None
    assert cut is not None
    encoder = convert_text(state, architecture.text, backbone.tensors.get(TOKEN_ROWS), where)
    model = LdmBert(encoder, architecture.text, cut)
    return encode_all(model, prompts.texts(), report), model
