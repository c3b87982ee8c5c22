"""`xreal-synth replay DATASET KEY`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from xreal_synth.cli.options import BundlePlaceOption, DatasetArgument, ImagesPlaceOption, JsonOption
from xreal_synth.cli.output import note, progress_console, told
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import parse_key
from xreal_synth.engine.backend import Backend, Networks
from xreal_synth.engine.progress import PARTIAL
from xreal_synth.engine.worker import environment
from xreal_synth.engine.worker import replay as make_again
from xreal_synth.report.picks import find_sample
from xreal_synth.run.reopen import reopen
from xreal_synth.run.resources import Resources, actor_shape, recorded_micro_batch
from xreal_synth.run.setup import Run
from xreal_synth.storage import Store, open_store
from xreal_synth.types import Sample

MOST_APART, BLOCK, MOST_APART_IN_BLOCK = 2.0, 16, 16.0
"""Grey levels by which another machine's image may differ, twice and more what was measured between precisions."""

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
        ((stored, made, _),) = made_again(open_store(dataset), [key], bundle, images)
    if out is not None:
        from PIL import Image

        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made.image).save(out)
        note(f"image written to {out}")
    if not _same_plan(stored, made):
        fields = {"key": key, "same_plan": False, "same_pixels": False}
        told(as_json, fields, f"{key}: the plan differs: labels, boxes or masks are not the stored ones")
        raise typer.Exit(PARTIAL)
    apart = _apart(stored, made)
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


def networks_here(run: Run, micro_batch: int | None) -> Backend:
    """The bundle loaded in this process, on the GPU where torch sees one."""
    import torch

    here = Resources(cpus=1, gpus=float(torch.cuda.is_available()))
    return Networks().open(run, actor_shape(run.recipe.compute, here, micro_batch))


def made_again(
    store: Store, keys: Sequence[str], bundle: str | None, images: str | None
) -> Iterator[tuple[Sample, Sample, bool]]:
    """Each stored sample, what the dataset's settings give for it now, and whether its bytes are promised here."""
    head = read_head(store)
    groups = max(parse_key(key).group for key in keys) + 1
    run = reopen(store, head, anatomies=groups, bundle=bundle, images=images)
    backend = networks_here(run, recorded_micro_batch(head.fingerprint))
    same = environment(backend) == head.fingerprint
    for key in keys:
        stored = find_sample(store, head, key)
        yield stored, make_again(run, backend, key, stored.meta.attempt), same


def forged(stored: Sample, made: Sample, same: bool) -> str:
    """Why a stored image is not what its settings give; empty if it is, or, unless the environment is the `same`, as
    near as another machine makes it."""
    if not _same_plan(stored, made):
        return "its labels, boxes or organ mask are not what the recipe gives"
    apart = _apart(stored, made)
    rows, columns = (side - side % BLOCK for side in apart.shape)
    blocks = apart[:rows, :columns].reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK).mean(axis=(1, 3))
    if (same and apart.any()) or apart.mean() > MOST_APART or blocks.max(initial=0.0) > MOST_APART_IN_BLOCK:
        return (
            f"its pixels are not what the recipe and the bundle give: {apart.mean():.1f} grey levels apart on average, "
            f"{blocks.max(initial=0.0):.1f} in a block of {BLOCK} x {BLOCK}"
        )
    return ""


def _same_plan(stored: Sample, made: Sample) -> bool:
    import numpy as np

    return made.meta == stored.meta and np.array_equal(made.anatomy, stored.anatomy)


def _apart(stored: Sample, made: Sample) -> Any:
    """Grey levels between them, int [H, W]."""
    return abs(made.image.astype(int) - stored.image)
