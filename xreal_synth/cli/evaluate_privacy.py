"""`xreal-synth evaluate privacy`: are images of a dataset copies of training images?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from xreal_synth.cli import evaluate_common as common
from xreal_synth.cli.options import JsonOption
from xreal_synth.cli.output import console, note, notes, print_json, print_table, say
from xreal_synth.dataset.source import Source, add_excluded
from xreal_synth.evaluation.cases import CaseReader, Report
from xreal_synth.evaluation.dataset_images import check_synthetic, images_named
from xreal_synth.evaluation.kept import json_bytes
from xreal_synth.images.manifest import ImageRow

if TYPE_CHECKING:
    from xreal_synth.evaluation.privacy import Audit, CopyPair

PRIVACY = "privacy.json"
SHOWN = 12

EXAMPLES = {
    "privacy": (
        "xreal-synth evaluate privacy out/pneumonia --train images/manifest.csv --sheet pairs.png",
        "xreal-synth evaluate privacy out/pneumonia --train images/ --real ward/ --split test --quarantine",
    )
}


def privacy(
    dataset: common.GeneratedArgument,
    train: Annotated[
        str,
        Option(
            metavar="MANIFEST",
            help="The images that the bundle was trained on: a manifest.csv, or the folder or URI that holds it.",
        ),
    ],
    real: Annotated[
        str | None, Option(metavar="MANIFEST", help="Real images of other patients.", show_default="--train's")
    ] = None,
    train_split: Annotated[str, Option(help="The split that the bundle was trained on.")] = "train",
    split: Annotated[str, Option(help="The split of other patients' images: chance.")] = "val",
    quarantine: Annotated[
        bool,
        Option("--quarantine", help="Adds the copies to the dataset's excluded.csv: exports and readers skip them."),
    ] = False,
    sheet: Annotated[
        Path | None,
        Option(
            help=f"Draws the {SHOWN} closest pairs, and all copies. It shows training images: keep it apart.",
            show_default="no",
        ),
    ] = None,
    evaluators: common.EvaluatorsOption = None,
    threads: common.ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Every image of a dataset against every training image: near copies are listed.

    By pixels (an image moved by up to 1/16, lighter or darker is found too) and
    by the evaluator classifier's features. A copy is nearer to a training image
    than the 0.1st percentile of training images' distances to the nearest image
    of another patient; the rate of validation images stands beside it. The
    dataset's folder gets privacy.json, which names no training image.
    """
    from xreal_synth.evaluation.evaluators import load_evaluators
    from xreal_synth.evaluation.privacy import audit_dataset

    device, machine = common.machine_of(threads)
    loaded = load_evaluators(evaluators, device)
    with common.made_source(dataset) as source, common.bars() as report:
        check_synthetic(source, "an edited image is a copy of its own source by intention")
        source.excluded = frozenset()  # the audit says the same before and after images are excluded
        audit, reader, rows = audit_dataset(source, loaded, (train, train_split), (real or train, split), report)
        if sheet is not None:
            _draw(source, audit, reader, rows, sheet, report)
        near = {pair.key: f"near a training image: {_reason(audit, pair)}" for pair in audit.copies}
        added = add_excluded(source.store, near) if quarantine else 0
        reported = {
            "format_version": 1,
            "dataset": source.head.name,
            "digest": source.head.digest,
            "images": audit.images,
            "training_images": audit.training_images,
            "validation_images": audit.validation_images,
            "evaluators": loaded.sha256,
            "machine": machine,
            "metrics": {name: asdict(metric) for name, metric in audit.metrics.items()},
            "copies": [_pair(pair) for pair in audit.copies],
            "left_out": [str(skipped) for skipped in source.skipped],
        }
        source.store.replace(PRIVACY, json_bytes(reported))
    names = [row.image for row in rows]
    if as_json:
        nearest = [{**_pair(pair), "training": names[pair.training]} for pair in audit.copies]
        print_json({**reported, "nearest": nearest})
        return
    _show(audit, names)
    where = source.store.uri
    note(f"{where}/{PRIVACY} written")
    if quarantine:
        note(f"{added} images added to {where}/excluded.csv")
    elif audit.copies:
        notes.print("run again with --quarantine to have readers and exports leave them out")


def _draw(
    source: Source, audit: Audit, reader: CaseReader, rows: Sequence[ImageRow], sheet: Path, report: Report
) -> None:
    from xreal_synth.evaluation.sheet import draw_pairs

    pairs = audit.pairs[: max(SHOWN, min(len(audit.copies), 60))]
    made = images_named(source, {pair.key for pair in pairs}, report, "drawing pairs")
    near = [rows[pair.training] for pair in pairs]
    draw_pairs(audit, pairs, made, [(row.image, reader.image(row)) for row in near], sheet)


def _reason(audit: Audit, pair: CopyPair) -> str:
    return ", ".join(f"{name} {getattr(pair, name):.3f} below {audit.metrics[name].threshold:.3f}" for name in pair.by)


def _pair(pair: CopyPair) -> dict[str, Any]:
    return {"key": pair.key, "pixels": pair.pixels, "features": pair.features, "by": list(pair.by)}


def _show(audit: Audit, names: Sequence[str]) -> None:
    console.print(
        f"{audit.images} images against {audit.training_images} training images, beside {audit.validation_images} "
        "validation images; shares with exact 95% intervals"
    )
    metrics = audit.metrics.values()
    rows: list[tuple[Any, ...]] = [
        ("threshold", *(f"{metric.threshold:.3f}" for metric in metrics)),
        ("median distance, made", *(f"{metric.median_made:.3f}" for metric in metrics)),
        ("median distance, validation", *(f"{metric.median_validation:.3f}" for metric in metrics)),
        ("below the threshold, made", *(metric.made for metric in metrics)),
        ("below the threshold, validation", *(metric.validation for metric in metrics)),
    ]
    print_table(rows, "", *audit.metrics)
    for pair in audit.copies:
        say(f"{pair.key}  nearest {names[pair.training]}: {_reason(audit, pair)}")
    if not audit.copies:
        nearest = audit.pairs[0]
        console.print(f"no copies; the nearest is {nearest.key}, to {names[nearest.training]}")
