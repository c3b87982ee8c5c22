"""`xreal-synth replay DATASET KEY`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from xreal_synth.cli.options import BundlePlaceOption, DatasetArgument, ImagesPlaceOption, JsonOption
from xreal_synth.cli.output import note, progress_console, told
from xreal_synth.engine.progress import PARTIAL
from xreal_synth.engine.replay import made_again
from xreal_synth.storage import open_store

EXAMPLES = (
    "xreal-synth replay out/quickstart 0000000003-v0",
    "xreal-synth replay out/quickstart 0000000003-v0 --out image.png",
)


def replay(
    dataset: DatasetArgument,
    key: Annotated[str, Argument(help="A sample's key, e.g. 0000000003-v0.")],
    out: Annotated[
        Path | None, Option(dir_okay=False, help="Where to write the image as PNG.", show_default="nowhere")
    ] = None,
    bundle: BundlePlaceOption = None,
    images: ImagesPlaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Makes one image again from the dataset's settings and compares it with the stored one.

    Exit code 3 if the bytes differ; images of another environment may differ slightly.
    """
    with progress_console(True).status(f"making {key}"):
        (one,) = made_again(open_store(dataset), [key], bundle, images)
    if out is not None:
        from PIL import Image

        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.made.image).save(out)
        note(f"image written to {out}")
    if not one.same_plan:
        fields = {"key": key, "same_plan": False, "same_pixels": False}
        told(as_json, fields, f"{key}: the plan differs: labels, boxes or masks are not the stored ones")
        raise typer.Exit(PARTIAL)
    apart = one.apart
    fields = {"key": key, "same_plan": True, "same_pixels": not apart.any(), "most_apart": int(apart.max())}
    if not apart.any():
        told(as_json, fields, f"{key}: the same image, bit for bit")
        return
    told(
        as_json, fields,
        f"{key}: same plan, but {(apart > 0).sum():,} of {apart.size:,} pixels differ, by up to "
        f"{apart.max()} of 255 (mean {apart.mean():.3f}): another environment than the one it was made in?",
    )  # fmt: skip
    raise typer.Exit(PARTIAL)
