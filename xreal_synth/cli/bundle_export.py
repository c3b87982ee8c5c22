"""`xreal-synth bundle export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xreal_synth.cli.evaluate_common import sampling_from
from xreal_synth.cli.options import JsonOption, bytes_text, console, examples, told

if TYPE_CHECKING:
    from xreal_synth.models.describe import BundleInfo

EPILOG = examples(
    "xreal-synth bundle export my-bundle --autoencoder runs/autoencoder --controller runs/controller "
    "--denoiser runs/denoiser --segmenter runs/segmenter --data images/ --licence CC-BY-4.0 "
    "--training-data '640 frontal images of our hospital'",
    "xreal-synth bundle export with-controlnet --base my-bundle --controlnet runs/controlnet",
)


class Weights(StrEnum):
    last = "last"
    best = "best"


Run = Annotated[Path | None, typer.Option(help="The --out folder of its training.", show_default=False)]


def export(
    out: Annotated[Path, typer.Argument(help="The folder to make; must not exist.", show_default=False)],
    autoencoder: Run = None,
    controller: Run = None,
    denoiser: Run = None,
    controlnet: Run = None,
    segmenter: Run = None,
    classifier: Run = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Training images, on whose masks the mask bank is fitted and on which `sampling.detail` is.",
            show_default="the base's",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="A bundle that gives all that the runs do not.", show_default="none"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The bundle's name.", show_default="the folder's")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights.", show_default="the base's")] = None,
    training_data: Annotated[
        str | None, typer.Option(help="What it was trained on, in a sentence.", show_default="the base's")
    ] = None,
    use: Annotated[
        str | None, typer.Option(help="What it may be used for.", show_default="the base's, or research only")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            show_default="the base's",
            help="A sampling default of the bundle, e.g. mode=joint or guidance=3; may be repeated.",
        ),
    ] = None,
    weights: Annotated[
        Weights, typer.Option(help="The last weights, or those of the least validation loss.")
    ] = Weights.last,
    as_json: JsonOption = False,
) -> None:
    """Makes a bundle of finished trainings: fp16 weights, prompts, sizes and hashes."""
    from xreal_synth.training.make_bundle import Runs, Words, make_bundle

    runs = Runs(
        autoencoder, controller, denoiser, controlnet, segmenter, classifier,
        weights="best" if weights is Weights.best else "network",
    )  # fmt: skip
    words = Words(name or out.absolute().name, licence, training_data, use, sampling_from(settings))
    with console.status(f"making {words.name}"):
        info = make_bundle(out, runs, words, base=base, bank_images=data)
    told(
        as_json, bundle_fields(info),
        f"{out}: {info.name}, {', '.join(info.parts)}, {bytes_text(info.bytes)}, content hash {info.content_hash}",
    )  # fmt: skip


def bundle_fields(info: BundleInfo) -> dict[str, object]:
    """A bundle that was made, for scripts."""
    return {"name": info.name, "folder": str(info.root), "parts": list(info.parts), "bytes": info.bytes,
            "content_hash": info.content_hash}  # fmt: skip
