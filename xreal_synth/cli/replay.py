"""`xreal-synth replay DATASET KEY`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xreal_synth.cli.options import console, examples
from xreal_synth.cli.verify import DatasetArgument

if TYPE_CHECKING:
    from xreal_synth.types import Sample

DIFFERENT = 3


def register(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "xreal-synth replay out/quickstart 0000000003-v0",
            "xreal-synth replay out/quickstart 0000000003-v0 --out film.png",
        )
    )(replay)


def replay(
    dataset: DatasetArgument,
    key: Annotated[str, typer.Argument(help="A sample's key, e.g. 0000000003-v0.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write the film as PNG.", show_default="nowhere")
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(help="Where the bundle is, if not where it was.", show_default="the dataset's"),
    ] = None,
    films: Annotated[
        str | None,
        typer.Option(
            help="Where its real films or organ masks are, if not where they were.",
            show_default="the recipe's",
        ),
    ] = None,
) -> None:
    """Makes one film again from the dataset's settings and compares it with the stored one.

    Exit code 3 if the bytes differ; films of another environment may differ slightly.
    """
    from xreal_synth.engine.backend import Networks
    from xreal_synth.engine.reopen import reopen
    from xreal_synth.engine.resources import Resources, actor_shape, recorded_micro_batch
    from xreal_synth.engine.worker import replay as make_again
    from xreal_synth.report.samples import find_sample
    from xreal_synth.shards.head import read_head
    from xreal_synth.storage import open_store

    store = open_store(dataset)
    head = read_head(store)
    stored = find_sample(store, head, key)
    run = reopen(store, head, samples=stored.meta.group + 1, bundle=bundle, films=films)
    recorded = recorded_micro_batch(head.fingerprint)
    shape = actor_shape(run.recipe.compute, Resources(cpus=1, gpus=_gpus()), recorded)
    with console.status(f"making {key}"):
        backend = Networks().open(run, shape)
        made = make_again(run, backend, key, stored.meta.attempt)
    if out is not None:
        from PIL import Image

        Image.fromarray(made.film).save(out)
        console.print(f"film written to {out}")
    _compare(key, stored, made)


def _compare(key: str, stored: Sample, made: Sample) -> None:
    import numpy as np

    if made.meta != stored.meta or not np.array_equal(made.anatomy, stored.anatomy):
        console.print(f"{key}: the plan differs: labels, boxes or masks are not the stored ones")
        raise typer.Exit(DIFFERENT)
    apart = np.abs(made.film.astype(int) - stored.film.astype(int))
    if not apart.any():
        console.print(f"{key}: the same film, bit for bit")
        return
    console.print(
        f"{key}: same plan, but {np.count_nonzero(apart):,} of {apart.size:,} pixels differ, by up to "
        f"{apart.max()} of 255 (mean {apart.mean():.3f}): another environment than the one it was made in?",
    )
    raise typer.Exit(DIFFERENT)


def _gpus() -> float:
    import torch

    return float(torch.cuda.is_available())
