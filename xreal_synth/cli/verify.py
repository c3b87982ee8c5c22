"""`xreal-synth verify DATASET`."""

from __future__ import annotations

from typing import Annotated

import typer

from xreal_synth.cli.options import JsonOption, console, examples, notes, print_json

DatasetArgument = Annotated[
    str, typer.Argument(help="A dataset folder or URI.", metavar="DATASET", show_default=False)
]
PARTIAL = 3


def register(app: typer.Typer) -> None:
    app.command(
        epilog=examples("xreal-synth verify out/quickstart", "xreal-synth verify out/big --quick --json")
    )(verify)


def verify(
    dataset: DatasetArgument,
    quick: Annotated[
        bool, typer.Option("--quick", help="Hashes and counts only; no film is decoded.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Checks every hash, and that films, masks, boxes, labels and tables agree. Exit code 3 if not."""
    from xreal_synth.shards.verify import verify as run_verify
    from xreal_synth.storage import open_store

    with notes.status("verifying") as status:
        report = run_verify(
            open_store(dataset),
            deep=not quick,
            on_shard=lambda done, total: status.update(f"verifying shard {done} of {total}"),
        )
    if as_json:
        print_json(
            {
                "ok": report.ok,
                "shards": report.shards,
                "samples": report.samples,
                "problems": [str(problem) for problem in report.problems],
                "broken_shards": report.broken_shards,
            }
        )
    else:
        for problem in report.problems:
            notes.print(f"{problem}", soft_wrap=True)
        state = "everything agrees" if report.ok else f"{len(report.problems)} problem(s)"
        console.print(f"{dataset}: {report.shards} shards, {report.samples:,} films, {state}")
    if not report.ok:
        raise typer.Exit(PARTIAL)
