"""`xreal-synth repair DATASET`."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Final

import typer
from typer import Option

from xreal_synth.cli.generate import show, summary_fields
from xreal_synth.cli.options import AddressOption, BundlePlaceOption, DatasetArgument, ImagesPlaceOption, JsonOption
from xreal_synth.cli.output import RunDisplay, note, notes, print_json, progress_console, say
from xreal_synth.dataset.head import DatasetHead, read_head
from xreal_synth.engine.progress import PARTIAL, RunSummary
from xreal_synth.engine.repair import WORDS, RepairPlan, What, carry_out, open_for_repair, plan_repair
from xreal_synth.from_recipe import end_of
from xreal_synth.run.setup import Run
from xreal_synth.storage import Store, open_store, retrying

SHOWN_PROBLEMS = 3
COUNTED: Final[dict[What, str]] = {
    "adopt": "to write from their tars", "make": "to make", "extend": "to extend", "leave": "to leave"
}  # fmt: skip

EXAMPLES = (
    "xreal-synth repair out/quickstart --dry-run",
    "xreal-synth repair s3://bucket/big --quarantined --address auto",
)


def repair(
    dataset: DatasetArgument,
    dry_run: Annotated[bool, Option("--dry-run", help="Says what would be done, and writes nothing.")] = False,
    quarantined: Annotated[bool, Option("--quarantined", help="Tries shards in quarantine again, too.")] = False,
    anatomies: Annotated[
        int | None,
        Option(min=1, help="Groups in all, to make the dataset larger.", show_default="as many as asked for"),
    ] = None,
    bundle: BundlePlaceOption = None,
    images: ImagesPlaceOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Makes exactly what is missing or broken again, by the recipe kept in the dataset.

    Looks at every sample first and says what it will do. A shard whose tar is whole gets its table and record back
    from it; what is sound is not touched. Exit code 3 if something is left to do, as with --dry-run.
    """
    store = retrying(open_store(dataset))
    head = read_head(store)
    run = open_for_repair(store, head, anatomies=anatomies, bundle=bundle, images=images)
    with notes.status("looking") as status:
        plan = plan_repair(
            run, store, head, quarantined=quarantined,
            on_shard=lambda done, total: status.update(f"looking at shard {done} of {total}"),
        )  # fmt: skip
    if not as_json:
        _show(dataset, plan)
    summary, code = None, PARTIAL * (not plan.whole)
    if not dry_run and not plan.empty:
        summary, code = _carry_out(run, store, head, plan, address, as_json)
    if as_json:
        fields = {
            "exit_code": code,
            "shards": plan.shards,
            "actions": [{"shard": one.shard, "what": one.what, "wrong": one.wrong} for one in plan.actions],
            "written_anew": plan.ends,
            "left": plan.others,
            "run": summary and summary_fields(summary),
        }
        print_json(fields)
    raise typer.Exit(code)


def _carry_out(
    run: Run, store: Store, head: DatasetHead, plan: RepairPlan, address: str | None, as_json: bool
) -> tuple[RunSummary, int]:
    from xreal_synth.engine.ray_driver import generate

    with RunDisplay(progress_console(as_json)) as display:
        summary = carry_out(
            run, store, head, plan,
            lambda again, leave: generate(
                run, store, address=address, on_event=display.on_event, again=again, leave=leave
            ),
        )  # fmt: skip
    end = end_of(run, summary)
    show(end, quietly=as_json)
    return summary, end.exit_code


def _show(dataset: str, plan: RepairPlan) -> None:
    for action in plan.actions:
        note(f"shard {action.shard}: {WORDS[action.what]}")
        for wrong in action.wrong[:SHOWN_PROBLEMS]:
            note(f"    {wrong}")
        if len(action.wrong) > SHOWN_PROBLEMS:
            note(f"    and {len(action.wrong) - SHOWN_PROBLEMS} more")
    for text in plan.ends:
        note(f"{text}: written anew")
    for text in plan.others:
        note(f"{text}: left as it is")
    counts = Counter(action.what for action in plan.actions)
    reported = [f"{counts[what]} {words}" for what, words in COUNTED.items() if counts[what]]
    state = "nothing to repair" if plan.whole else ", ".join(reported) or "no shard to make"
    say(f"{dataset}: {plan.shards} shards, {state}")
