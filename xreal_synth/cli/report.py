"""`xreal-synth report DATASET`."""

from __future__ import annotations

from xreal_synth.cli.options import DatasetArgument, JsonOption
from xreal_synth.cli.output import console, told
from xreal_synth.storage import open_store

EXAMPLES = ("xreal-synth report out/quickstart", "xreal-synth report /data/big")


def report(dataset: DatasetArgument, as_json: JsonOption = False) -> None:
    """Rebuilds report.html, the card, the contact sheet, samples.parquet, rejected.parquet and index.json.

    report.html is one file to show or send: what was asked and made, images beside their twins, labels, places,
    acceptance, provenance and limits. leak.json and evaluation.json in the dataset's folder are taken in. The
    same dataset gives the same bytes, so it is safe to build again.
    """
    from xreal_synth.report.build import build

    with console.status("reading shards"):
        built = build(open_store(dataset))
    told(as_json, {"written": list(built.paths)}, "\n".join(built.paths))
