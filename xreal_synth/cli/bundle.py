"""`xreal-synth bundle list | show | random | add-prompt | export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from xreal_synth.cli.evaluate_common import sampling_from
from xreal_synth.cli.options import JsonOption, examples
from xreal_synth.cli.output import bytes_text, console, table_of, told
from xreal_synth.errors import BundleError
from xreal_synth.models.describe import BundleInfo, describe, shipped_bundles, verify_files

app = typer.Typer(help="Model bundles: what they are and what they can do.", no_args_is_help=True)


@app.command("list", epilog=examples("xreal-synth bundle list", "xreal-synth bundle show xreal-mini"))
def list_bundles(as_json: JsonOption = False) -> None:
    """Names the bundles that come with the package, with what they can make."""
    found = [describe(name) for name in shipped_bundles()]
    rows = [(one.name, f"{one.image_size} x {one.image_size}", ", ".join(one.prompts)) for one in found]
    fields = {one.name: {"image_size": one.image_size, "findings": list(one.prompts)} for one in found}
    told(as_json, fields, table_of(rows, "bundle", "image size", "findings", show_edge=False))


@app.command(epilog=examples("xreal-synth bundle show xreal-mini", "xreal-synth bundle show ./my-bundle --json"))
def show(bundle: Annotated[str, Argument(help="A shipped name or a folder.")], as_json: JsonOption = False) -> None:
    """Describes a bundle and checks the hash of every file in it."""
    info = describe(bundle)
    verify_files(info)
    facts = {
        "name": info.name,
        "folder": str(info.root),
        "content hash": info.content_hash,
        "image size": f"{info.image_size} x {info.image_size}, {info.channels} channel(s)",
        "latents": " x ".join(map(str, info.latent_shape)),
        "findings": ", ".join(info.prompts),
        "defaults": f"{info.defaults.mode}, {info.defaults.steps} steps, hold {info.defaults.hold}, "
        f"branch {info.defaults.branch}, guidance {info.defaults.guidance}, soft {info.defaults.soft}",
        "parts": ", ".join(info.parts),
        "files": f"{len(info.files)} files, {bytes_text(info.bytes)}, every hash checked",
        "licence": info.licence,
        "use": info.use_restriction,
        "training data": info.training_data,
    }
    told(as_json, facts, table_of(facts.items(), box=None, padding=(0, 2)))


@app.command(
    epilog=examples("xreal-synth bundle random ./tiny-bundle", "xreal-synth bundle random --config paper ./paper-sized")
)
def random(
    out: Annotated[Path, Argument(help="The folder to make; must not exist.")],
    config: Annotated[
        Literal["tiny", "mini", "paper"],
        Option(help="Which architecture: tiny (200 kB), mini (xreal-mini's, 40 MB), paper (XReal's, 1.3 GB)."),
    ] = "tiny",
    seed: Annotated[int, Option(min=0, help="Seed of the weights.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Builds a bundle of seeded random weights, for tests of memory and speed: its images are noise."""
    if out.exists():
        raise BundleError(found=f"{out} already exists", wanted="a folder that does not exist")
    from xreal_synth.models.random_bundle import build_random

    with console.status(f"making {config}"):
        info = build_random(config, out, seed=seed)
    line = f"{out}: {info.name}, random weights (seed {seed}), {bytes_text(info.bytes)}"
    told(as_json, bundle_fields(info), line)


@app.command(
    "add-prompt",
    epilog=examples(
        "xreal-synth bundle add-prompt my-roentgen 'Small left apical pneumothorax.' "
        "--finding Pneumothorax --text-encoder ./roent-gen-v1-0",
        "xreal-synth bundle add-prompt my-xreal 'Edema Pneumonia Atelectasis' "
        "--text-encoder backbone.pth --vocab vocab.txt",
    ),
)
def add_prompt(
    bundle: Annotated[str, Argument(help="A bundle's folder; it is changed.")],
    text: Annotated[str, Argument(help="The prompt.")],
    finding: Annotated[str | None, Option(help="Makes it this finding's prompt.")] = None,
    text_encoder: Annotated[
        Path | None, Option(help="What the bundle was converted from: folder or file.", show_default="the bundle's own")
    ] = None,
    vocab: Annotated[
        Path | None, Option(help="vocab.txt of bert-base-uncased, for a file.", show_default="the local cache")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Encodes one more prompt into a bundle's table. The bundle's content hash changes with it."""
    from xreal_synth.models.add_prompt import add_prompt as add
    from xreal_synth.models.add_prompt import open_text_model

    model = None if text_encoder is None else open_text_model(text_encoder, vocab)
    info = add(bundle, text, model, finding)
    line = f"{info.root}: {len(info.known_prompts)} prompts, content hash {info.content_hash}"
    told(as_json, bundle_fields(info), line)


Run = Annotated[Path | None, Option(help="The --out folder of its training.")]


@app.command(
    epilog=examples(
        "xreal-synth bundle export my-bundle --autoencoder runs/autoencoder --controller runs/controller "
        "--denoiser runs/denoiser --segmenter runs/segmenter --data images/ --licence CC-BY-4.0 "
        "--training-data '640 frontal images of our hospital'",
        "xreal-synth bundle export with-controlnet --base my-bundle --controlnet runs/controlnet",
        "xreal-synth bundle export half-price --base xreal-mini --guidance runs/distilled",
    )
)
def export(
    out: Annotated[Path, Argument(help="The folder to make; must not exist.")],
    autoencoder: Run = None,
    controller: Run = None,
    denoiser: Run = None,
    controlnet: Run = None,
    segmenter: Run = None,
    classifier: Run = None,
    guidance: Run = None,
    data: Annotated[
        str | None,
        Option(
            help="Training images, on whose masks the mask bank is fitted and on which `sampling.detail` is.",
            show_default="the base's",
        ),
    ] = None,
    base: Annotated[
        str | None, Option(help="A bundle that gives all that the runs do not.", show_default="none")
    ] = None,
    name: Annotated[str | None, Option(help="The bundle's name.", show_default="the folder's")] = None,
    licence: Annotated[str | None, Option(help="Of the weights.", show_default="the base's")] = None,
    training_data: Annotated[
        str | None, Option(help="What it was trained on, in a sentence.", show_default="the base's")
    ] = None,
    use: Annotated[
        str | None, Option(help="What it may be used for.", show_default="the base's, or research only")
    ] = None,
    settings: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="KEY=VALUE",
            show_default="the base's",
            help="A sampling default of the bundle, e.g. mode=joint or guidance=3; may be repeated.",
        ),
    ] = None,
    weights: Annotated[
        Literal["last", "best"], Option(help="The last weights, or those of the least validation loss.")
    ] = "last",
    as_json: JsonOption = False,
) -> None:
    """Makes a bundle of finished trainings: fp16 weights, prompts, sizes and hashes."""
    from xreal_synth.training.export import make_bundle

    networks = ("autoencoder", "controller", "denoiser", "controlnet", "segmenter", "classifier", "guidance")
    folders = (autoencoder, controller, denoiser, controlnet, segmenter, classifier, guidance)
    runs = dict(zip(networks, folders, strict=True))
    name = name or out.absolute().name
    words = {"name": name, "licence": licence, "training_data": training_data, "use_restriction": use}
    part, defaults = "best" if weights == "best" else "network", sampling_from(settings)
    with console.status(f"making {name}"):
        info = make_bundle(out, runs, words, defaults=defaults, weights=part, base=base, bank_images=data)
    told(
        as_json, bundle_fields(info),
        f"{out}: {info.name}, {', '.join(info.parts)}, {bytes_text(info.bytes)}, content hash {info.content_hash}",
    )  # fmt: skip


def bundle_fields(info: BundleInfo) -> dict[str, object]:
    """A bundle that was made, for scripts."""
    return {"name": info.name, "folder": str(info.root), "parts": list(info.parts), "bytes": info.bytes,
            "content_hash": info.content_hash}  # fmt: skip
