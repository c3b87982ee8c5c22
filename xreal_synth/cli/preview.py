"""`xreal-synth preview RECIPE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from xreal_synth.cli.options import (
    OutputOption,
    RecipeArgument,
    SetOption,
    TextEncoderOption,
    VocabOption,
    console,
    encoding,
    examples,
    open_recipe,
)


def register(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "xreal-synth preview recipes/quickstart.yaml -n 8",
            "xreal-synth preview mine.yaml -n 4 --set sampling.guidance=6 --out guidance6.png",
        )
    )(preview)


def preview(
    recipe: RecipeArgument,
    groups: Annotated[int, typer.Option("-n", min=1, max=64, help="Groups (anatomies) to make.")] = 8,
    out: Annotated[
        Path | None, typer.Option("--out", help="The picture.", show_default="NAME-preview.png")
    ] = None,
    output: OutputOption = None,
    overrides: SetOption = None,
    text_encoder: TextEncoderOption = None,
    vocab: VocabOption = None,
) -> None:
    """Makes the first groups here, without Ray, and draws them: films, twins, organ outlines, regions."""
    run = open_recipe(recipe, overrides, output, text_encoder, vocab)
    from xreal_synth.engine.setup import require_placeable

    require_placeable(run, str(recipe))
    from xreal_synth.engine.backend import Networks
    from xreal_synth.engine.own_prompts import encoded
    from xreal_synth.engine.resources import Resources, actor_shape
    from xreal_synth.engine.worker import plan_group, render_groups
    from xreal_synth.models.describe import verify_files
    from xreal_synth.report.contact_sheet import contact_sheet

    verify_files(run.bundle)
    run = encoded(run, encoding(text_encoder, vocab))
    target = out or Path(f"{run.recipe.name}-preview.png")
    gpus = _gpus()
    planned = [plan_group(run, index) for index in range(min(groups, run.recipe.samples))]
    for _, refused in planned:
        for refusal in refused:
            if refusal.dropped:
                console.print(f"group {refusal.group}: not made: {refusal.reason}", markup=False)
    specs = [spec for spec, _ in planned if spec is not None]
    backend = Networks().open(run, actor_shape(run.recipe.compute, Resources(cpus=1, gpus=gpus), recorded=4))
    films = [
        sample
        for group in track(render_groups(run, backend, specs), "making groups", len(specs), console=console)
        for sample in group
    ]
    contact_sheet(films, target, title=f"{run.recipe.name}: first {len(specs)} groups")
    console.print(f"{len(films)} films of {len(specs)} anatomies: {target}", markup=False)


def _gpus() -> float:
    import torch

    return float(torch.cuda.is_available())
