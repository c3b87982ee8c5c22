"""`xreal-synth quality index`: what the gate's copy check looks images up in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from typer import Argument, Option

from xreal_synth.cli.options import JsonOption, examples
from xreal_synth.cli.output import notes, progress_console, told
from xreal_synth.errors import TrainingError
from xreal_synth.images.files import ImageFiles, check_contrast, decode_image
from xreal_synth.images.manifest import BadImage, ImageRow, read_manifest
from xreal_synth.quality.copies import build_index, write_index
from xreal_synth.storage import LocalStore, Store, open_store
from xreal_synth.types import GreyImage

app = typer.Typer(help="What the gate needs beside a recipe.", no_args_is_help=True, callback=lambda: None)


@app.command(
    epilog=examples(
        "xreal-synth quality index --data images/ training-images.safetensors",
        "xreal-synth generate mine.yaml --set quality.checks.copies.index=training-images.safetensors",
    )
)
def index(
    out: Annotated[Path, Argument(dir_okay=False, help="The index to write, a safetensors file.")],
    data: Annotated[str, Option(help="A data folder with manifest.csv, as for training.")],
    split: Annotated[str, Option(help="Only images of this split.")] = "train",
    as_json: JsonOption = False,
) -> None:
    """Makes the index of training images for quality.checks.copies: a thumbnail of each, and how near images of
    different patients come to one another. It shows what the images show, so it is as private as they are."""
    store = open_store(data)
    rows = read_manifest(store, ("image", "patient_id"), (split,)).rows
    made = build_index(_images(store, rows)) if rows else None
    if made is None or not made.names:
        raise TrainingError(
            where=data,
            found=f"no usable image of split {split!r}",
            wanted="images of that split in the manifest",
            hint="name another split with --split",
        )
    LocalStore(out.parent).replace(out.name, write_index(made))
    told(
        as_json, {"out": str(out), "images": len(made.names), "threshold": float(made.threshold)},
        f"{len(made.names):,} images in {out}; images nearer than {made.threshold:.2f} grey levels (RMS) to one of "
        "them are called copies",
    )  # fmt: skip


def _images(store: Store, rows: tuple[ImageRow, ...]) -> Iterator[tuple[str, str, GreyImage]]:
    """(name, patient, image) of the rows; those that cannot be read are named and left out."""
    files = ImageFiles(store)
    for row in track(rows, "reading images", console=progress_console(True)):
        try:
            image = decode_image(files.read(row.shard, row.image))
            check_contrast(image)
        except BadImage as bad:
            notes.print(f"{row.image}: left out: {bad.reason}")
            continue
        yield row.image, row.patient, image
