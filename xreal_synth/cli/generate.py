"""`xreal-synth generate RECIPE`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from xreal_synth.cli.options import AddressOption, JsonOption, OutputOption, RecipeArgument, SetOption
from xreal_synth.cli.output import RunDisplay, note, notes, print_json, print_table, progress_console, say, seconds_text
from xreal_synth.engine.progress import RunSummary
from xreal_synth.from_recipe import RunEnd, make_dataset, open_recipe
from xreal_synth.types import Acceptance

EXAMPLES = (
    "xreal-synth generate recipes/quickstart.yaml",
    "xreal-synth generate mine.yaml --output /data/mine --set anatomies=5000 --set compute.actors=2",
)


def generate(
    recipe: RecipeArgument,
    output: OutputOption = None,
    overrides: SetOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Makes the dataset. Running the same command again resumes; Ctrl-C finishes the shards in flight."""
    run = open_recipe(recipe, overrides=overrides or (), output=output, say=note)
    with RunDisplay(progress_console(as_json)) as display:
        end = make_dataset(run, source=str(recipe), address=address, on_event=display.on_event)
    if as_json:
        print_json(summary_fields(end.summary))
    show(end, quietly=as_json)
    raise typer.Exit(end.exit_code)


def summary_fields(summary: RunSummary) -> dict[str, object]:
    """A run's end for scripts."""
    return {
        "exit_code": summary.exit_code,
        "uri": summary.uri,
        "shards": {"done": summary.shards_done, "total": summary.shards_total},
        "samples": summary.samples,
        "groups": summary.groups,
        "rejected": summary.rejected,
        "dropped": summary.dropped,
        "generated_images": summary.generated_images,
        "seconds": round(summary.seconds, 2),
        "images_per_s": round(summary.images_per_s, 3),
        "positives": summary.label_counts,
        "gate": None if summary.gate is None else asdict(summary.gate),
        "unchecked": summary.unchecked,
        "failures": [asdict(failure) for failure in summary.failures],
    }


def show(end: RunEnd, *, quietly: bool = False) -> None:
    """The table of what was made, where it is, and what failed; `quietly` no more than why there is no report."""
    if not quietly:
        _show(end)
    if end.failed:
        note(end.failed)


def _show(end: RunEnd) -> None:
    summary, built = end.summary, end.built
    facts = [("images", f"{summary.samples:,} of {summary.groups:,} anatomies")]
    facts += [("shards", f"{summary.shards_done} of {summary.shards_total}")]
    for label, count in sorted(summary.label_counts.items(), key=lambda item: (-item[1], item[0])):
        if count and label.startswith("chexpert14."):
            facts += [(label.removeprefix("chexpert14."), f"{count:,} images")]
    if summary.rejected:
        facts += [("rejected attempts", f"{summary.rejected:,}, {summary.dropped:,} groups dropped")]
    facts += _gate_facts(summary.gate) if summary.gate is not None else []
    facts += [(f"not checked: {check}", why) for check, why in summary.unchecked.items()]
    if summary.generated_images:
        made = f"{summary.generated_images:,} images in {seconds_text(summary.seconds)}"
        facts += [("this run", f"{made}, {summary.images_per_s:.2f} images/s")]
    print_table(facts, title="what was made", title_justify="left")
    say(f"dataset:       {summary.uri}")
    if built is not None:
        say(f"report:        {built.report}")
        if built.contact_sheet:
            say(f"contact sheet: {built.contact_sheet}")
    for failure in summary.failures:
        if failure.reason:
            notes.print(f"shard {failure.shard} failed: {failure.reason}")
    if waiting := sum(not failure.reason for failure in summary.failures):
        notes.print(f"{waiting} of {summary.shards_total} shards not made yet")
    if summary.message:
        notes.print(summary.message)


def _gate_facts(gate: Acceptance) -> list[tuple[str, str]]:
    """Attempts that the gate let through by finding, what it refused others for, and what it flagged."""
    facts = []
    for name, tried in sorted(gate.tried.items(), key=lambda item: (-item[1], item[0])):
        accepted = gate.accepted.get(name, 0)
        share = accepted / tried if tried else 0.0
        facts.append((f"accepted: {name}", f"{accepted:,} of {tried:,} attempts ({share:.0%})"))
    if gate.reasons:
        facts.append(("refused for", ", ".join(f"{name} {count:,}" for name, count in gate.reasons.items())))
    if gate.flags:
        flags = ", ".join(f"{name} {count:,} images" for name, count in gate.flags.items())
        facts.append(("delivered, flagged", flags))
    return facts
