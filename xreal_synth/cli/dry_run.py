"""What `xreal-synth train ... --dry-run` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from xreal_synth.cli.options import bytes_text, console, seconds_text

if TYPE_CHECKING:
    from xreal_synth.training.dry_run import DryRun


def show(found: DryRun, measured: float) -> None:
    """Sizes, memory and time as tables; `measured` is this machine's rate in operations a second."""
    from xreal_synth.training.dry_run import PEAK_TFLOPS, UTILISATION

    console.print(_sizes(found))
    console.print(_memory(found))
    step = found.flops_per_step()
    console.print(
        f"\n{found.steps:,} steps of {found.batch} images = {found.steps * found.batch:,} images; "
        f"{step / 1e12:.3g} TFLOP a step forward and backward, {step / found.batch / 1e12:.3g} an image "
        "(counted by torch.utils.flop_counter)"
    )
    table = Table(
        "device", "assumed or measured", "a step", "the whole training", title="Time", title_justify="left"
    )
    for name, peak in PEAK_TFLOPS[found.precision].items():
        why = f"{peak:g} TFLOP/s {found.precision} peak x {UTILISATION:.0%}, assumed"
        table.add_row(_times(name, found.workers), why, *_spans(found, peak * 1e12 * UTILISATION))
    why = f"{measured / 1e12:.3g} TFLOP/s {found.precision}, measured now in a convolution"
    table.add_row(_times("this machine", found.workers), why, *_spans(found, measured))
    console.print(table)
    console.print("Not in these times: reading images, validation, pictures, waiting for other workers.")


def as_json(found: DryRun, measured: float) -> dict[str, object]:
    """The same for scripts: bytes, operations and seconds."""
    from xreal_synth.training.dry_run import PEAK_TFLOPS, UTILISATION

    memory = found.memory()
    devices = {name: peak * 1e12 * UTILISATION for name, peak in PEAK_TFLOPS[found.precision].items()}
    return {
        "parameters": {part.name: {"trained": part.trained, "frozen": part.frozen} for part in found.parts},
        "memory_bytes": {name: size for name, size, _ in _memory_rows(found)} | {"total": memory.total},
        "images_at_once": found.images_at_once,
        "workers": found.workers,
        "steps": found.steps,
        "flops_per_step": found.flops_per_step(),
        "seconds": {
            name: found.seconds(rate) for name, rate in {**devices, "this machine": measured}.items()
        },
    }


def _sizes(found: DryRun) -> Table:
    table = Table("network", "weights trained", "held fixed", title="Weights", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for part in found.parts:
        table.add_row(part.name, f"{part.trained:,}", f"{part.frozen:,}")
    table.add_section()
    table.add_row("in all", f"{found.trained:,}", f"{found.weights - found.trained:,}")
    return table


def _memory(found: DryRun) -> Table:
    workers = "the worker" if found.workers == 1 else f"each of {found.workers} workers"
    title = f"Memory of {workers}, {found.images_at_once} image(s) at once"
    table = Table("what", "bytes", "counted as", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for name, size, rule in _memory_rows(found):
        table.add_row(name, bytes_text(size), rule)
    table.add_section()
    table.add_row(
        "in all", bytes_text(found.memory().total), "without the allocator's reserve and work space"
    )
    return table


def _memory_rows(found: DryRun) -> list[tuple[str, int, str]]:
    memory = found.memory()
    rows = [
        ("weights", memory.weights, "4 bytes each, trained and fixed"),
        ("gradients", memory.gradients, "4 bytes a trained weight"),
        ("AdamW moments", memory.moments, "2 x 4 bytes a trained weight"),
        ("running average", memory.average, "4 bytes a trained weight"),
        (
            "weights set aside",
            memory.average_swap,
            "while the average is looked at, in turn with what a step needs",
        ),
        ("activations", memory.activations, "what autograd keeps for the backward pass, counted"),
    ]
    if memory.buckets:
        rows.insert(
            5, ("gradient buckets", memory.buckets, "4 bytes a trained weight, to exchange gradients")
        )
    return rows


def _spans(found: DryRun, rate: float) -> tuple[str, str]:
    seconds = found.seconds(rate)
    step = seconds / max(1, found.steps)
    return (f"{step * 1000:.3g} ms" if step < 1 else f"{step:.3g} s", seconds_text(seconds))


def _times(name: str, workers: int) -> str:
    return name if workers == 1 else f"{workers} x {name}"
