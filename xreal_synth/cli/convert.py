"""`xreal-synth convert xreal | cheff | diffusers | controlnet`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from xreal_synth.cli.options import examples
from xreal_synth.cli.output import StepsDisplay, bytes_text, note, notes, say
from xreal_synth.errors import ConversionError
from xreal_synth.models.describe import CONTROLNET, UPSCALER, BundleInfo
from xreal_synth.models.text.prompts import read_prompts

if TYPE_CHECKING:
    from xreal_synth.models.convert.assemble import Stored
    from xreal_synth.models.convert.latent import LdmFiles
    from xreal_synth.models.convert.published import Published

app = typer.Typer(
    help="Bundles from published weights. Pickles are opened without running what is in them; every key is "
    "accounted for; nothing is fetched.",
    no_args_is_help=True,
)


Dtype = Literal["fp32", "fp16"]
Out = Annotated[Path, Argument(help="The bundle's folder; must not exist.")]
Prompts = Annotated[
    Path | None, Option(help="YAML: null, healthy, findings, join, combine, more.", show_default="the model's own")
]
DtypeOption = Annotated[Dtype, Option(help="How weights are stored; fp16 halves the bundle and rounds them.")]
Bank = Annotated[str, Option(help="The bundle whose mask bank goes into this one; `none` for none, then give masks.")]
Name = Annotated[str | None, Option(help="The bundle's name: a-z, 0-9, . _ -", show_default="the model's")]
Licence = Annotated[str | None, Option(help="The weights' licence.", show_default="what the publisher states")]
Use = Annotated[str | None, Option(help="Use restriction.", show_default="what the publisher states")]
TrainingData = Annotated[str | None, Option(help="What it was trained on.", show_default="what the publisher states")]
Config = Annotated[Path | None, Option(help="Training YAML, for weights of other sizes.", show_default="as published")]
Vocab = Annotated[
    Path | None, Option(help="vocab.txt of bert-base-uncased.", show_default="the local Hugging Face cache")
]
Ema = Annotated[bool, Option("--ema", help="Take the denoiser's averaged weights; the reference takes the plain.")]
KeepText = Annotated[bool, Option("--keep-text-encoder", help="Put it into the bundle, for `bundle add-prompt`.")]
Ignore = Annotated[list[str] | None, Option(help="An entry beside the weights that is of no use; may be repeated.")]


@app.command(
    epilog=examples(
        "xreal-synth convert xreal --backbone backbone.pth --ae ldm_ae.pth "
        "--controller anatomy_controller.pth --vocab vocab.txt my-xreal",
        "xreal-synth convert xreal --backbone backbone.pth --dtype fp16 --prompts prompts.yaml my-xreal",
    )
)
def xreal(
    out: Out,
    backbone: Annotated[Path, Option(help="backbone.pth")],
    ae: Annotated[Path | None, Option(help="ldm_ae.pth, read only if the backbone has no first stage.")] = None,
    controller: Annotated[
        Path | None, Option(help="anatomy_controller.pth; without it, no sampling.control: xreal.")
    ] = None,
    vocab: Vocab = None,
    prompts: Prompts = None,
    ema: Ema = False,
    dtype: DtypeOption = "fp32",
    bank: Bank = "xreal-mini",
    keep_text_encoder: KeepText = False,
    config: Config = None,
    name: Name = None,
    licence: Licence = None,
    use: Use = None,
    training_data: TrainingData = None,
    ignore: Ignore = None,
) -> None:
    """XReal's released checkpoints (256 px, images in [0, 1]) into a bundle."""
    from xreal_synth.models.convert.latent import LdmFiles
    from xreal_synth.models.convert.published import XREAL

    files = LdmFiles(backbone, ae, controller, ignore=tuple(ignore or ()), vocabulary=vocab, ema=ema)
    said = _said(XREAL, prompts, config, name=name, licence=licence, use_restriction=use, training_data=training_data)
    _latent(files, out, said, _stored(dtype, bank, keep_text_encoder))


@app.command(
    epilog=examples(
        "xreal-synth convert cheff --t2i cheff_diff_t2i.pt --ae cheff_autoencoder.pt --vocab vocab.txt my-cheff",
        "xreal-synth convert cheff --bundle my-xreal --upscaler cheff_sr_fine.pt my-xreal-1024",
    )
)
def cheff(
    out: Out,
    t2i: Annotated[Path | None, Option(help="cheff_diff_t2i.pt, the text-to-image model.")] = None,
    uncond: Annotated[Path | None, Option(help="cheff_diff_uncond.pt, which knows no findings.")] = None,
    bundle: Annotated[str | None, Option(help="A 256-px bundle, copied with the upscaler added.")] = None,
    ae: Annotated[Path | None, Option(help="cheff_autoencoder.pt, read only if the model has no first stage.")] = None,
    upscaler: Annotated[Path | None, Option(help="cheff_sr_fine.pt or cheff_sr_base.pt, 256 -> 1024 px.")] = None,
    vocab: Vocab = None,
    prompts: Prompts = None,
    ema: Ema = False,
    dtype: DtypeOption = "fp32",
    bank: Bank = "xreal-mini",
    keep_text_encoder: KeepText = False,
    config: Config = None,
    name: Name = None,
    licence: Licence = None,
    use: Use = None,
    training_data: TrainingData = None,
    ignore: Ignore = None,
) -> None:
    """Cheff's released checkpoints (256 px, images in [-1, 1]) into a bundle without an Anatomy Controller."""
    from xreal_synth.models.convert.latent import LdmFiles
    from xreal_synth.models.convert.published import CHEFF_T2I, CHEFF_UNCONDITIONAL

    sources = [source for source in (t2i, uncond, bundle) if source is not None]
    if len(sources) != 1 or (bundle is not None and upscaler is None):
        raise ConversionError(
            found="--bundle without --upscaler" if bundle else f"{len(sources)} of --t2i, --uncond, --bundle",
            wanted="one of --t2i (images with findings), --uncond (images without), or --bundle with --upscaler",
            hint="name the model's file, or a bundle to add the upscaler to",
        )
    more = tuple(ignore or ())
    if bundle is not None:
        assert upscaler is not None
        unused = {
            "--ae": ae, "--vocab": vocab, "--prompts": prompts, "--ema": ema, "--config": config, "--use": use,
            "--keep-text-encoder": keep_text_encoder, "--name": name, "--training-data": training_data,
        }  # fmt: skip
        if given := ", ".join(option for option, value in unused.items() if value):
            raise ConversionError(
                found=f"{given} with --bundle",
                wanted="--bundle without: the bundle's networks stay as they are",
                hint=f"leave {given} out",
            )
        _add_upscaler(bundle, out, upscaler, dtype, licence, more)
        return
    model = CHEFF_T2I if t2i is not None else CHEFF_UNCONDITIONAL
    said = _said(model, prompts, config, name=name, licence=licence, use_restriction=use, training_data=training_data)
    files = LdmFiles(Path(sources[0]), ae, None, upscaler, more, vocab, ema)
    _latent(files, out, said, _stored(dtype, bank, keep_text_encoder))


@app.command(
    epilog=examples(
        "xreal-synth convert diffusers ./roent-gen-v1-0 my-roentgen --model roentgen",
        "xreal-synth convert diffusers ./my-sd-chest my-bundle --licence CC-BY-4.0 --prompts prompts.yaml",
    )
)
def diffusers(
    source: Annotated[Path, Argument(help="Folder with model_index.json.")],
    out: Out,
    model: Annotated[
        Literal["roentgen", "other"],
        Option(help="Whose licence, prompts and defaults are taken; `other` needs --licence."),
    ] = "other",
    prompts: Prompts = None,
    image_size: Annotated[
        int | None, Option(min=8, help="Images' side, pixels.", show_default="the denoiser's")
    ] = None,
    variant: Annotated[str | None, Option(help="As in model.VARIANT.safetensors, e.g. fp16.")] = None,
    dtype: DtypeOption = "fp32",
    bank: Bank = "xreal-mini",
    keep_text_encoder: KeepText = False,
    name: Name = None,
    licence: Licence = None,
    use: Use = None,
    training_data: TrainingData = None,
) -> None:
    """A Stable-Diffusion folder (RoentGen and its kin) into a bundle without an Anatomy Controller."""
    from xreal_synth.models.convert.diffusers_folder import convert_folder
    from xreal_synth.models.convert.published import ROENTGEN, STABLE_DIFFUSION

    chosen = ROENTGEN if model == "roentgen" else STABLE_DIFFUSION
    said = _said(chosen, prompts, name=name, licence=licence, use_restriction=use, training_data=training_data)
    stored = _stored(dtype, bank, keep_text_encoder)
    with StepsDisplay(notes) as display:
        info = convert_folder(
            source, out, said, image_size=image_size, variant=variant, stored=stored, report=display.report
        )
    show(info)


@app.command(
    epilog=examples(
        "xreal-synth convert controlnet control.ckpt my-xreal-controlnet --bundle my-xreal --hint grey "
        "--licence CC-BY-4.0",
        "xreal-synth convert controlnet ./controlnet-folder out --bundle my-roentgen "
        "--hint '#000000,#ff0000,#00ff00,#0000ff,#ffff00' --licence mine",
    )
)
def controlnet(
    source: Annotated[Path, Argument(help="A checkpoint, or a folder in diffusers layout.")],
    out: Out,
    bundle: Annotated[str, Option(help="The bundle whose denoiser it steers; it is copied.")],
    licence: Annotated[str, Option(help="The ControlNet's licence.")],
    hint: Annotated[
        str | None,
        Option(
            help="What it was shown: organs (a channel each), grey (code / 4, three channels), grey1 (one), or "
            "five colours for background, left lung, right lung, heart, aorta.",
            show_default="what its config.json says",
        ),
    ] = None,
    dtype: DtypeOption = "fp32",
    ignore: Ignore = None,
) -> None:
    """A ControlNet trained on a bundle's denoiser into a copy of that bundle."""
    from xreal_synth.models.convert.added_parts import read_controlnet, read_hint
    from xreal_synth.models.convert.assemble import save_network

    table = None if hint is None else read_hint(hint)

    def write(folder: Path, info: BundleInfo) -> None:
        network = read_controlnet(source, info, table, tuple(ignore or ()))
        save_network(folder / CONTROLNET, network, dtype)

    _extend(bundle, out, CONTROLNET, write, licence)


def _latent(files: LdmFiles, out: Path, model: Published, stored: Stored) -> None:
    """Converts latent-diffusion checkpoints."""
    from xreal_synth.models.convert.latent import convert_latent

    reported: list[str] = []
    with StepsDisplay(notes) as display:
        info = convert_latent(files, out, model, stored=stored, report=display.report, note=reported.append)
    for text in reported:
        note(text)
    show(info)


def _add_upscaler(
    bundle: str, out: Path, file: Path, dtype: Dtype, licence: str | None, ignore: tuple[str, ...]
) -> None:
    from xreal_synth.models.convert.added_parts import UPSCALER_LICENCE, check_size, read_upscaler, save_upscaler

    def write(folder: Path, info: BundleInfo) -> None:
        check_size(info.name, info.image_size)
        save_upscaler(folder, read_upscaler(file, ignore), dtype)

    _extend(bundle, out, UPSCALER, write, licence or UPSCALER_LICENCE)


def _extend(bundle: str, out: Path, part: str, write: Callable[[Path, BundleInfo], None], licence: str) -> None:
    """A copy of a bundle with one part more."""
    from xreal_synth.models.convert.assemble import extend_bundle

    with StepsDisplay(notes) as display:
        info = extend_bundle(bundle, out, part, write, licence, report=display.report)
    show(info)


def show(info: BundleInfo) -> None:
    say(
        f"{info.root}: bundle {info.name}, {info.image_size} px, {bytes_text(info.bytes)}, "
        f"{len(info.known_prompts)} prompts, licence {info.licence}"
    )
    if "anatomy_controller" not in info.parts:
        say("no Anatomy Controller: sampling.control: xreal needs one trained on this model's images")


def _said(model: Published, prompts: Path | None, config: Path | None = None, **said: str | None) -> Published:
    """The published model with what the user says in the place of what its publisher does."""
    from xreal_synth.models.convert.published import read_architecture

    sizes = model.sizes
    if config is not None and sizes is not None:
        sizes = read_architecture(config, sizes)
    given: dict[str, Any] = {key: text for key, text in said.items() if text}
    return replace(model, prompts=read_prompts(prompts, model.prompts), sizes=sizes, **given)


def _stored(dtype: Dtype, bank: str, keep_text_encoder: bool) -> Stored:
    from xreal_synth.models.convert.assemble import Stored

    return Stored(dtype, None if bank == "none" else bank, keep_text_encoder)
