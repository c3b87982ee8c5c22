"""`xreal-synth plan RECIPE`."""

from __future__ import annotations

from dataclasses import asdict

from xreal_synth.cli.options import JsonOption, OutputOption, RecipeArgument, SetOption
from xreal_synth.cli.output import bytes_text, console, note, notes, print_json, print_table, say, seconds_text
from xreal_synth.engine.estimate import SHORTEST_S, CostEstimate, short_shards
from xreal_synth.findings import HEART_FINDING
from xreal_synth.from_recipe import PlanReport
from xreal_synth.from_recipe import plan as plan_recipe
from xreal_synth.planning.probe import ProbeReport
from xreal_synth.run.setup import Run
from xreal_synth.types import QualitySettings

EXAMPLES = ("xreal-synth plan recipes/quickstart.yaml", "xreal-synth plan mine.yaml --set anatomies=1000000000 --json")


def plan(
    recipe: RecipeArgument, output: OutputOption = None, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """Says what would be made: images, labels, shards, bytes. Needs neither torch nor Ray.

    The device time too, where `doctor` has measured the bundle on this machine, or the bundle states it.
    """
    planned = plan_recipe(recipe, overrides=overrides or (), output=output, say=note)
    if as_json:
        print_json(_fields(planned))
    else:
        _show(planned.run, planned.probe, planned.cost)


def _fields(planned: PlanReport) -> dict[str, object]:
    run, report = planned.run, planned.probe
    return {
        "name": run.recipe.name,
        "digest": run.digest,
        "bundle": {"name": run.bundle.name, "hash": run.bundle.content_hash},
        "output": run.recipe.output.uri,
        "samples": report.samples,
        "images": report.images,
        "shards": report.shards,
        "probed": report.probed,
        "rows": [{key: value for key, value in row.items() if key != "asked"} for row in planned.table],
        "labels": planned.labels,
        "estimate": asdict(planned.cost),
        "sampling": asdict(run.sampling),
        "quality": asdict(run.quality),
    }


def _show(run: Run, report: ProbeReport, guess: CostEstimate) -> None:
    console.print(f"{run.recipe.name}: bundle {run.bundle.name}, digest {run.digest[:12]}")
    rows = [(row.row, row.asked, _about(row.groups), f"{row.placeable:.0%}") for row in report.rows]
    header = ("row", "asked for", "groups", "can be placed")
    print_table(rows, *header, title="rows", title_justify="left")
    counts = [
        (count.label, *map(_about, (count.positive, count.negative, count.unknown)))
        for count in report.labels
        if count.label_set == "chexpert14" and count.positive + count.unknown > 0
    ]
    title = "images by label (CheXpert's 14; ~ expected)"
    print_table(counts, "label", "1", "0", "unknown", title=title, title_justify="left")
    print_table(_facts(run, report, guess), box=None, padding=(0, 2))
    for device, seconds in short_shards(run, guess).items():
        size = run.recipe.output.shard_size * SHORTEST_S / max(seconds, 0.1)
        notes.print(
            f"a shard is {seconds:.1f} s of one {device}, where a large cluster wants {SHORTEST_S:.0f} s at least: "
            f"output.shard_samples: {size:.0f}"
        )
    for check, why in run.quality.unchecked.items():
        say(f"not checked: {check}: {why}")
    for line in run.plan.notes:
        notes.print(line)
    wide = next(count.unknown for count in report.labels if count.label == HEART_FINDING)
    if wide and run.recipe.labels.unrequested == "negative" and not run.plan.on_images:
        why = "a heart over half as wide as the chest, which nobody asked for"
        notes.print(f"{HEART_FINDING} is unknown in about {wide:,.0f} images: {why}")
    if without := [str(row.row) for row in report.rows if not row.groups]:
        notes.print(f"too few anatomies for every row: none for row {', '.join(without)}")
    for row in report.rows:
        for error, times in row.reasons:
            notes.print(f"{error.where}: not placed on {times} of {row.tried} anatomies: {error.found}")


def _facts(run: Run, report: ProbeReport, guess: CostEstimate) -> list[tuple[str, str]]:
    groups = "uses of real images" if run.plan.on_images else "anatomies"
    sampling = run.sampling
    facts = [
        ("images", f"{_about(report.images)} of {report.samples:,} {groups}"),
        ("shards", f"{report.shards:,} of up to {run.recipe.output.shard_size} groups"),
        ("size", f"about {bytes_text(guess.bytes)}"),
        (
            "sampling",
            f"{sampling.mode}, control {sampling.control}, {sampling.steps} steps: "
            f"{guess.evaluations_per_twin} network evaluations for a healthy image, "
            f"{guess.evaluations_per_edit} more for each finding",
        ),
    ]
    if sampling.upscale_steps is not None:
        size = f"{run.delivered_size} x {run.delivered_size}"
        steps = f"{sampling.upscale_steps} evaluations of the upscaler for each image made"
        facts += [("upscaling", f"to {size}: {steps} (not in the device time)")]
    facts += [("quality", _quality(run.quality))]
    for device, seconds in guess.device_seconds.items():
        facts += [("device time", f"about {seconds_text(seconds)} of one {device}")]
    return [*facts, ("output", run.recipe.output.uri)]


def _quality(quality: QualitySettings) -> str:
    if not quality.checks:
        return f"{quality.profile}: no image is looked at before it is delivered"
    checks = ", ".join(f"{check.name} {check.action}" for check in quality.checks)
    return f"{quality.profile}: {checks}; up to {quality.max_attempts} tries each with new noise and new anatomy"


def _about(images: float) -> str:
    """A count that is certain, or an expectation."""
    return f"{images:,.0f}" if images.is_integer() else f"~{images:,.0f}"
