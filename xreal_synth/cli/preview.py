"""`xreal-synth preview RECIPE`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from rich.progress import track
from typer import Option

from xreal_synth.cli.options import JsonOption, OutputOption, RecipeArgument, SetOption
from xreal_synth.cli.output import note, progress_console, told
from xreal_synth.engine.replay import networks_here
from xreal_synth.engine.samples import GeneratedGroup
from xreal_synth.engine.worker import render_groups
from xreal_synth.from_recipe import open_recipe
from xreal_synth.models.describe import verify_files
from xreal_synth.run.attempts import plan_group
from xreal_synth.run.setup import require_placeable
from xreal_synth.storage import require_writable

EXAMPLES = (
    "xreal-synth preview recipes/quickstart.yaml -n 8",
    "xreal-synth preview mine.yaml -n 4 --set sampling.guidance=6 --out guidance6.png",
)


def preview(
    recipe: RecipeArgument,
    groups: Annotated[int, Option("-n", min=1, max=64, help="Groups (anatomies) to make.")] = 8,
    out: Annotated[Path | None, Option(dir_okay=False, help="The picture.", show_default="NAME-preview.png")] = None,
    output: OutputOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Makes the first groups here, without Ray, and draws them: images, twins, organ outlines, regions.

    What the gate refuses is drawn too, and named: here nothing is drawn again.
    """
    run = open_recipe(recipe, overrides=overrides or (), output=output, say=note)
    require_placeable(run, str(recipe))
    from xreal_synth.report.contact_sheet import contact_sheet

    target = out or Path(f"{run.recipe.name}-preview.png")
    require_writable(target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    verify_files(run.bundle)
    planned = [plan_group(run, index) for index in range(min(groups, run.recipe.anatomies))]
    for refusal in (refusal for _, refused in planned for refusal in refused if refusal.dropped):
        note(f"group {refusal.group}: not made: {refusal.reason}")
    specs = [spec for spec, _ in planned if spec is not None]
    backend = networks_here(run, micro_batch=4)
    made = list(track(render_groups(run, backend, specs), "making groups", len(specs), console=progress_console(True)))
    images = [sample for group in made for sample in group.samples]
    contact_sheet(images, target, title=f"{run.recipe.name}: first {len(specs)} groups")
    said = [line for group in made for line in _against(group)]
    fields = {"out": str(target), "images": [one.meta.key for one in images], "anatomies": len(specs), "gate": said}
    told(as_json, fields, "\n".join([f"{len(images)} images of {len(specs)} anatomies: {target}", *said]))


def _against(group: GeneratedGroup) -> Iterator[str]:
    """What the gate says against a group's images."""
    for sample, verdict in zip(group.samples, group.verdicts, strict=True):
        if verdict is None:
            continue
        for name, reason in zip((*verdict.refused, *verdict.flags), verdict.reasons, strict=True):
            refused = name in verdict.refused
            what = "refused, generate would draw the group again" if refused else "flagged"
            yield f"{sample.meta.key}: {what}: {name}: {reason}"
