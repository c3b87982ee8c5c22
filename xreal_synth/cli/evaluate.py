"""`xreal-synth evaluate anatomy`."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from xreal_synth.cli.options import JsonOption, console, examples, notes, print_json

if TYPE_CHECKING:
    from xreal_synth.evaluation.anatomy import AnatomyFigures
    from xreal_synth.types import SamplingSettings


class Mode(StrEnum):
    branch = "branch"
    reference = "reference"
    paper = "paper"


class SoftVariance(StrEnum):
    mixed = "mixed"
    kept = "kept"


class Control(StrEnum):
    xreal = "xreal"
    controlnet = "controlnet"
    none = "none"


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="evaluate")


group = typer.Typer(help="Measures what a bundle makes.", no_args_is_help=True)


@group.callback()
def _group() -> None:
    pass


@group.command(
    epilog=examples(
        "xreal-synth evaluate anatomy --data films/ -n 64",
        "xreal-synth evaluate anatomy --data films/ -n 16 --mode reference --steps 50 --sheet sheet.png",
    )
)
def anatomy(
    data: Annotated[
        str, typer.Option(help="Folder or URI with manifest.csv, films and masks.", show_default=False)
    ],
    bundle: Annotated[str, typer.Option(help="A shipped name or a folder.")] = "xreal-mini",
    count: Annotated[int, typer.Option("-n", min=2, help="Films.")] = 64,
    split: Annotated[str, typer.Option(help="The manifest's split to take masks and films from.")] = "val",
    seed: Annotated[int, typer.Option(min=0, help="Which films, boxes and noise.")] = 0,
    mode: Annotated[Mode | None, typer.Option(show_default="bundle's")] = None,
    control: Annotated[Control, typer.Option(help="What makes a film follow its mask.")] = Control.xreal,
    steps: Annotated[int | None, typer.Option(min=1, max=999, show_default="bundle's")] = None,
    hold: Annotated[float | None, typer.Option(min=0, max=1, show_default="bundle's")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, show_default="bundle's")] = None,
    soft: Annotated[float | None, typer.Option(min=0, max=1, show_default="bundle's")] = None,
    branch: Annotated[float | None, typer.Option(min=0, max=1, show_default="bundle's")] = None,
    eta: Annotated[float | None, typer.Option(min=0, max=1, show_default="bundle's")] = None,
    eta_free: Annotated[
        float | None, typer.Option(min=0, max=1, help="eta after the hold.", show_default="bundle's")
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(min=0.5, max=4, help="Power of the steps.", show_default="bundle's")
    ] = None,
    soft_variance: Annotated[
        SoftVariance | None, typer.Option(help="Noise of a soft blend.", show_default="bundle's")
    ] = None,
    resample: Annotated[int, typer.Option(min=1, help="RePaint's U.")] = 1,
    precision: Annotated[Precision, typer.Option()] = Precision.auto,
    micro_batch: Annotated[int, typer.Option(min=1)] = 4,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    sheet: Annotated[
        Path | None, typer.Option(help="Also draws real films beside made ones.", show_default="no")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Films made from real films' masks: Dice per organ, MS-SSIM to the real film, seconds per stage."""
    import torch
    from pydantic import ValidationError

    from xreal_synth.errors import RecipeError
    from xreal_synth.evaluation.anatomy import evaluate_anatomy, read_pairs
    from xreal_synth.models.describe import describe
    from xreal_synth.models.load import load_bundle
    from xreal_synth.models.precision import resolve_precision
    from xreal_synth.recipe.explain import problems_of
    from xreal_synth.recipe.resolve import resolve_sampling
    from xreal_synth.recipe.sampling import Sampling

    torch.set_num_threads(threads)
    info = describe(bundle)
    asked = {
        "mode": mode, "steps": steps, "hold": hold, "guidance": guidance, "soft": soft, "branch": branch,
        "resample": resample, "eta": eta, "eta_free": eta_free, "spacing": spacing,
        "soft_variance": None if soft_variance is None else soft_variance.value,
        "control": control.value,
    }  # fmt: skip
    try:
        settings = resolve_sampling(Sampling.model_validate(asked), info.defaults, source="options")
    except ValidationError as error:
        raise RecipeError("options", problems_of(error, {}, set())) from None
    pairs = read_pairs(data, info, split=split, count=count, seed=seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = resolve_precision(precision.value, device)
    model = load_bundle(info, device, chosen, settings.control)
    total = len(pairs) + sum(pair.finding is not None for pair in pairs)
    with Progress(console=notes) as progress:
        task = progress.add_task("making films", total=total)
        figures, made = evaluate_anatomy(
            info, model, settings, pairs, seed=seed, micro_batch=micro_batch,
            on_films=lambda films: progress.advance(task, films),
        )  # fmt: skip
    if sheet is not None:
        from xreal_synth.evaluation.sheet import side_by_side

        side_by_side(pairs[:16], made[:16], sheet)
    where = f"{machine(device)}, {threads} thread(s), {chosen}, micro-batch {micro_batch}"
    if as_json:
        print_json({"bundle": info.name, "machine": where, "sampling": asdict(settings), **asdict(figures)})
    else:
        _show(info.name, settings, where, figures)


def machine(device: str) -> str:
    """The processor's name."""
    import torch

    if device == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    features = "AMX bf16" if any("amx_bf16" in line for line in lines) else "no AMX"
    return f"{names[0] if names else 'CPU'} ({features})"


def _show(name: str, settings: SamplingSettings, where: str, figures: AnatomyFigures) -> None:
    console.print(f"{name}: {json.dumps(asdict(settings))}", markup=False)
    console.print(f"{where}; mean [95% bootstrap interval]", markup=False)
    table = Table(
        "figure", f"healthy twin ({figures.films})", f"with finding ({figures.variants})", "real film"
    )
    for organ in figures.dice:
        table.add_row(
            f"Dice {organ}",
            *(f"{part[organ]}" for part in (figures.dice, figures.dice_variant, figures.dice_real)),
        )
    table.add_row("MS-SSIM to the real film", f"{figures.ms_ssim}", f"{figures.ms_ssim_variant}", "1")
    table.add_row("high frequencies, made / real", f"{figures.sharpness:.2f}", "", "1")
    table.add_row("change inside the region, grey levels", "", f"{figures.change_inside}", "")
    table.add_row("change outside the region, grey levels", "", f"{figures.change_outside}", "")
    console.print(table)
    console.print("seconds per film: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.seconds.items()))
