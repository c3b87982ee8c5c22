"""`xreal-synth evaluate privacy`: are images of a dataset copies of training images?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from xreal_synth.cli.evaluate_common import (
    EvaluatorsOption,
    GeneratedArgument,
    ThreadsOption,
    bars,
    machine,
    made_source,
)
from xreal_synth.cli.options import JsonOption, console, notes, print_json

if TYPE_CHECKING:
    from xreal_synth.dataset.source import Source
    from xreal_synth.evaluation.cases import CaseReader
    from xreal_synth.evaluation.evaluators import Evaluators
    from xreal_synth.evaluation.privacy import Audit, CopyPair, MeasuredSet
    from xreal_synth.evaluation.request import Report
    from xreal_synth.images.manifest import ImageRow
    from xreal_synth.types import GreyImage

PRIVACY = "privacy.json"
SHOWN = 12

EXAMPLES = {
    "privacy": (
        "xreal-synth evaluate privacy out/pneumonia --train images/manifest.csv --sheet pairs.png",
        "xreal-synth evaluate privacy out/pneumonia --train images/ --real ward/ --split test --quarantine",
    ),
}


@dataclass(frozen=True, slots=True)
class _RealSide:
    """Images of a split that were looked at."""

    reader: CaseReader
    rows: list[ImageRow]
    seen: MeasuredSet


def privacy(
    dataset: GeneratedArgument,
    train: Annotated[
        str,
        typer.Option(
            metavar="MANIFEST",
            help="The images that the bundle was trained on: a manifest.csv, or the folder or URI that holds it.",
            show_default=False,
        ),
    ],
    real: Annotated[
        str | None,
        typer.Option(metavar="MANIFEST", help="Real images of other patients.", show_default="--train's"),
    ] = None,
    train_split: Annotated[str, typer.Option(help="The split that the bundle was trained on.")] = "train",
    split: Annotated[str, typer.Option(help="The split of other patients' images: chance.")] = "val",
    quarantine: Annotated[
        bool,
        typer.Option(
            "--quarantine",
            help="Adds the copies to the dataset's excluded.csv: exports and readers skip them.",
        ),
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help=f"Draws the {SHOWN} closest pairs, and all copies. It shows training images: keep it apart.",
            show_default="no",
        ),
    ] = None,
    evaluators: EvaluatorsOption = None,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Every image of a dataset against every training image: near copies are listed.

    By pixels (an image moved by up to 1/16, lighter or darker is found too) and
    by the evaluator classifier's features. A copy is nearer to a training image
    than the 0.1st percentile of training images' distances to the nearest image
    of another patient; the rate of validation images stands beside it. The
    dataset's folder gets privacy.json, which names no training image.
    """
    import torch

    from xreal_synth.evaluation.dataset_images import check_synthetic
    from xreal_synth.evaluation.evaluators import load_evaluators
    from xreal_synth.evaluation.kept import json_bytes

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_evaluators(evaluators, device)
    with made_source(dataset) as source, bars() as report:
        check_synthetic(source, "an edited image is a copy of its own source by intention")
        source.excluded = frozenset()  # the audit says the same before and after images are excluded
        audit, training = _audited(source, loaded, (train, train_split), (real or train, split), report)
        names = [row.image for row in training.rows]
        if sheet is not None:
            _draw(source, audit, training, sheet, report)
        added = _quarantine(source, audit) if quarantine else 0
        reported = _reported(source, audit, loaded, f"{machine(device)}, {threads} thread(s)")
        source.store.replace(PRIVACY, json_bytes(reported))
    if as_json:
        print_json(
            {
                **reported,
                "nearest": [{**_pair(pair), "training": names[pair.training]} for pair in audit.copies],
            }
        )
        return
    _show(audit, names)
    where = source.store.uri
    notes.print(f"{where}/{PRIVACY} written", soft_wrap=True)
    if quarantine:
        notes.print(f"{added} images added to {where}/excluded.csv", soft_wrap=True)
    elif audit.copies:
        notes.print("run again with --quarantine to have readers and exports leave them out")


def _audited(
    source: Source, evaluators: Evaluators, train: tuple[str, str], real: tuple[str, str], report: Report
) -> tuple[Audit, _RealSide]:
    """The audit, and the training images."""
    from xreal_synth.evaluation.dataset_images import generated_images
    from xreal_synth.evaluation.privacy import audit_images, check_patients, see

    keys: list[str] = []
    sizes: set[int] = set()

    def own() -> Iterator[tuple[GreyImage, str]]:
        for read in generated_images(source, report):
            keys.append(read.sample.meta.key)
            sizes.add(len(read.sample.image))
            yield read.sample.image, str(read.sample.meta.group)

    made = see(evaluators, own())
    training, validation = (
        _measure(evaluators, manifest, split, max(sizes), what, report)
        for (manifest, split), what in ((train, "training"), (real, "validation"))
    )
    check_patients(training.rows, validation.rows)
    audit = audit_images(keys, made, training.seen, validation.seen)
    return audit, training


def _measure(
    evaluators: Evaluators, manifest: str, split: str, size: int, what: str, report: Report
) -> _RealSide:
    from xreal_synth.evaluation.cases import CaseReader, split_rows
    from xreal_synth.evaluation.dataset_images import open_real
    from xreal_synth.evaluation.privacy import real_images, see

    store = open_real(manifest)
    reader, used = CaseReader(store, size), list[Any]()
    seen = see(evaluators, real_images(reader, split_rows(store, split), used, what, report))
    return _RealSide(reader, used, seen)


def _draw(source: Source, audit: Audit, training: _RealSide, sheet: Path, report: Report) -> None:
    from xreal_synth.evaluation.dataset_images import images_named
    from xreal_synth.evaluation.privacy import draw_pairs

    pairs = audit.pairs[: max(SHOWN, min(len(audit.copies), 60))]
    wanted = {pair.key for pair in pairs}
    made = images_named(source, wanted, report, "drawing pairs")
    rows = [training.rows[pair.training] for pair in pairs]
    draw_pairs(
        audit, pairs, made, [training.reader.image(row) for row in rows], [row.image for row in rows], sheet
    )


def _quarantine(source: Source, audit: Audit) -> int:
    from xreal_synth.dataset.excluded import add_excluded

    return add_excluded(
        source.store, {pair.key: f"near a training image: {_reason(audit, pair)}" for pair in audit.copies}
    )


def _reason(audit: Audit, pair: CopyPair) -> str:
    return ", ".join(
        f"{name} {getattr(pair, name):.3f} below {audit.metrics[name].threshold:.3f}" for name in pair.by
    )


def _reported(source: Source, audit: Audit, evaluators: Evaluators, where: str) -> dict[str, Any]:
    from xreal_synth.evaluation.kept import null_for_nan

    return dict(
        null_for_nan(
            {
                "format_version": 1,
                "dataset": source.head.name,
                "digest": source.head.digest,
                "images": audit.images,
                "training_images": audit.training_images,
                "validation_images": audit.validation_images,
                "evaluators": evaluators.sha256,
                "machine": where,
                "metrics": {name: asdict(metric) for name, metric in audit.metrics.items()},
                "copies": [_pair(pair) for pair in audit.copies],
                "left_out": [str(skipped) for skipped in source.skipped],
            }
        )
    )


def _pair(pair: CopyPair) -> dict[str, Any]:
    return {"key": pair.key, "pixels": pair.pixels, "features": pair.features, "by": list(pair.by)}


def _show(audit: Audit, names: Sequence[str]) -> None:
    console.print(
        f"{audit.images} images against {audit.training_images} training images, beside {audit.validation_images} "
        "validation images; shares with exact 95% intervals"
    )
    table = Table("", *audit.metrics)
    metrics = audit.metrics.values()
    table.add_row("threshold", *(f"{metric.threshold:.3f}" for metric in metrics))
    table.add_row("median distance, made", *(f"{metric.median_made:.3f}" for metric in metrics))
    table.add_row("median distance, validation", *(f"{metric.median_validation:.3f}" for metric in metrics))
    table.add_row("below the threshold, made", *(f"{metric.made}" for metric in metrics))
    table.add_row("below the threshold, validation", *(f"{metric.validation}" for metric in metrics))
    console.print(table)
    for pair in audit.copies:
        console.print(f"{pair.key}  nearest {names[pair.training]}: {_reason(audit, pair)}", soft_wrap=True)
    if not audit.copies:
        nearest = audit.pairs[0]
        console.print(f"no copies; the nearest is {nearest.key}, to {names[nearest.training]}")
