"""`xreal-synth bench sample`."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.progress import Progress
from typer import Option

from xreal_synth.cli.evaluate_common import PrecisionOption, ThreadsOption, machine, machine_of
from xreal_synth.cli.options import JsonOption, examples
from xreal_synth.cli.output import bytes_text, console, notes, print_json, print_table
from xreal_synth.errors import XrealError
from xreal_synth.models.describe import describe

if TYPE_CHECKING:
    from xreal_synth.evaluation.bench_sample import RowFigures, SampleFigures
    from xreal_synth.models.devices import Compile as CompileHow

COLUMNS = ("loop", "images/s", "x plain", "memory", "TFLOP/s", "of peak")


class Loop(StrEnum):
    plain = "plain"
    plain_cached = "plain-cached"
    plain_fused = "plain-fused"
    reference = "reference"
    branch = "branch"


class Compile(StrEnum):
    none = "none"
    graphs = "graphs"
    inductor = "inductor"


HOW: Final[dict[Compile, CompileHow]] = {Compile.graphs: "graphs", Compile.inductor: "inductor"}

app = typer.Typer(help="Measures how fast this machine makes images.", no_args_is_help=True, callback=lambda: None)


@app.command(
    epilog=examples(
        "xreal-synth bench sample --micro-batch 1 --micro-batch 8",
        "xreal-synth bench sample --bundle ./paper-sized --steps 100 --compile none --compile inductor "
        "--compile graphs --text-encoder paper --out bench.md",
    )
)
def sample(
    bundle: Annotated[str, Option(help="A shipped name or a folder.")] = "xreal-mini",
    rows: Annotated[
        list[Loop] | None, Option("--rows", help="Which loops; may be repeated.", show_default="all")
    ] = None,
    micro_batch: Annotated[
        list[int] | None, Option(min=1, max=1024, help="Images together; may be repeated.", show_default="1 8 32 64")
    ] = None,
    compiled: Annotated[
        list[Compile] | None,
        Option(
            "--compile",
            help="none, graphs (CUDA graphs, GPU only) or inductor (torch.compile); may be repeated.",
            show_default="none, on a GPU all",
        ),
    ] = None,
    steps: Annotated[
        int | None, Option(min=1, max=1000, help="A divisor of 1000.", show_default="8, on a GPU 100")
    ] = None,
    repeats: Annotated[int, Option(min=1, help="Passes of each row; the fastest counts.")] = 3,
    text_encoder: Annotated[
        Literal["none", "small", "paper"],
        Option(help="In the plain loop: small (26 M weights), paper (543 M), or none."),
    ] = "small",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 1,
    clock: Annotated[
        Literal["wall", "cpu"], Option(help="cpu: seconds given to this process, for a machine that is busy; CPU only.")
    ] = "wall",
    peak_tflops: Annotated[
        float | None, Option(min=0.001, help="The device's peak.", show_default="known GPUs; else a matrix product")
    ] = None,
    out: Annotated[
        Path | None, Option(help="Also writes the tables as Markdown.", dir_okay=False, show_default="no")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Images per second in each mode and micro-batch, against the released code's way, in one run.

    That way: one image at a time, two denoiser calls for guidance, the text encoder in the loop (plain-cached:
    not in it; plain-fused: one call too). An image is
    an image with a finding; its healthy twin is made on the way. With few steps what is done once per image
    (encoding, decoding) weighs more than in a real run.
    """
    import torch

    from xreal_synth.evaluation.bench_sample import SampleBench, loop_settings, rows_of
    from xreal_synth.models.layers import resolve_precision
    from xreal_synth.models.text.ldm_bert import TextShape

    device, _ = machine_of(threads)
    how = list(compiled or (Compile if device == "cuda" else [Compile.none]))
    _refuse(device, how, clock, threads)
    info = describe(bundle)
    settings = loop_settings(info, steps or (100 if device == "cuda" else 8))
    chosen = resolve_precision(precision, device)
    wanted = rows_of(
        [loop.value for loop in rows or Loop], micro_batch or [1, 8, 32, 64], chosen, [HOW.get(each) for each in how]
    )
    width, depth, heads = (1280, 32, 8) if text_encoder == "paper" else (384, 8, 6)
    shape = None if text_encoder == "none" else TextShape(30522, 150, width, depth, heads, 64)
    bench = SampleBench(info, settings, torch.device(device), shape, clock)
    with Progress(console=notes) as progress:
        task = progress.add_task("making images", total=bench.passes(wanted, repeats))
        figures = bench.measure(wanted, repeats, peak=peak_tflops, on_pass=lambda row: progress.advance(task))
    words = "none" if shape is None else f"{shape.depth} layers, {shape.dim} wide, {shape.max_seq_len} tokens"
    about = {
        "bundle": f"{info.name} ({info.content_hash[:12]})",
        "machine": f"{machine(device)}, torch {torch.__version__}, "
        + (f"{threads} CPU thread(s)" if device == "cpu" else "one GPU"),
        "steps": settings["plain"].steps,
        "text encoder": words,
        "passes": f"{repeats}, the fastest counts, {clock} time",
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(_markdown(about, figures), encoding="utf-8")
    if as_json:
        print_json({**about, **asdict(figures)})
        return
    for key, value in about.items():
        console.print(f"{key}: {value}")
    print_table(map(_cells, figures.rows), *COLUMNS)
    console.print("\n".join(_footnotes(figures)))


def _refuse(device: str, how: list[Compile], clock: str, threads: int) -> None:
    if device == "cpu" and Compile.graphs in how:
        raise XrealError(found="--compile graphs without a GPU", wanted="none or inductor", hint="leave graphs out")
    if clock == "cpu" and (device != "cpu" or threads != 1):
        raise XrealError(
            found=f"--clock cpu with {threads} thread(s) on {device}",
            wanted="one thread on a CPU: the process's time is the sum over its threads",
            hint="use --clock wall",
        )


def _cells(figures: RowFigures) -> list[str]:
    row = figures.row
    name = f"{row.loop} x{row.micro_batch} {row.precision} {row.compiled or ''}".rstrip()
    if figures.images_per_second is None:
        return [name, "out of memory", "", "", "", ""]
    return [
        name,
        f"{figures.images_per_second:.3g}",
        "" if figures.ratio is None else f"{figures.ratio:.2f}",
        "" if figures.memory is None else bytes_text(figures.memory),
        f"{figures.tflops:.3g}",
        f"{figures.utilisation:.0%}",
    ]


def _footnotes(figures: SampleFigures) -> list[str]:
    peaks = ", ".join(
        f"{peak.tflops:.3g} TFLOP/s in {precision} ({peak.source})" for precision, peak in figures.peak.items()
    )
    flops = ", ".join(f"{loop} {count / 1e9:.4g} GFLOP" for loop, count in figures.flops.items())
    return [
        "A loop's name is followed by its micro-batch. An image is an image with a finding, its healthy twin "
        "made on the way. x plain: images per second over the plain loop's in the same precision. Memory: "
        "the peak above the loaded networks.",
        f"Counted per image: {flops}. Peak: {peaks}.",
    ]


def _markdown(about: dict[str, Any], figures: SampleFigures) -> str:
    settings = ", ".join(f"{key}: {value}" for key, value in about.items())
    head, *rows = [f"| {' | '.join(cells)} |" for cells in (COLUMNS, *map(_cells, figures.rows))]
    table = [head, "|" + "---|" * len(COLUMNS), *rows]
    return "\n".join([f"{settings}.", "", *table, "", *_footnotes(figures), ""])
