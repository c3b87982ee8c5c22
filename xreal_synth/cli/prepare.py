"""`xreal-synth prepare nih|mimic|chexpert|folder SOURCE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from xreal_synth.cli.options import JsonOption
from xreal_synth.cli.output import console, counting_bar, note, notes, print_json, print_table, progress_console, say
from xreal_synth.engine.progress import PARTIAL, STOPPED
from xreal_synth.errors import TrainingError
from xreal_synth.findings import IMAGE_LABELS, image_label
from xreal_synth.opening import open_image, read_file
from xreal_synth.prepare.choose import Choice, parse_shares
from xreal_synth.prepare.found import Blank, FolderColumns, Kind

if TYPE_CHECKING:
    from xreal_synth.prepare.command import Report
    from xreal_synth.prepare.run import PrepareTask
    from xreal_synth.report.contact_sheet import ReviewImage

SHOWN_REFUSALS = 5
REVIEW = "review.png"
OUTLIERS = "outliers.png"
SHOWN_OUTLIERS = 24

EXAMPLES = (
    "xreal-synth prepare nih /data/ChestX-ray14 --out images --splits official --workers 8",
    "xreal-synth prepare folder scans/ --table list.csv --image-column file --patient-column pid "
    "--labels-column findings --rename 'pleural fluid=Effusion' --out images",
)


def _own(text: str | None = None, **more: Any) -> Any:
    return Option(help=text, rich_help_panel="Only for `folder`", **more)


def prepare(
    kind: Annotated[Kind, Argument(help="The layout: a public set's own, or a folder with a table.")],
    source: Annotated[str, Argument(help="Folder or URI of the set: images and tables.")],
    out: Annotated[Path, Option(file_okay=False, help="Folder to make: manifest.csv, images/, masks/; resumed.")],
    size: Annotated[int, Option(min=32, max=4096, help="Side of the square images, pixels.")] = 320,
    fit: Annotated[
        Literal["crop", "pad"], Option(help="An oblong image is cropped about its centre, or padded with black.")
    ] = "crop",
    enlarge: Annotated[bool, Option("--enlarge", help="Take images smaller than --size, enlarged to it.")] = False,
    boxes: Annotated[
        str | None,
        Option(
            help="CSV or COCO of findings' boxes, in SOURCE or --tables or at a path, instead of the source's.",
            show_default="the source's own",
        ),
    ] = None,
    splits: Annotated[
        str, Option(help="train/val or train/val/test shares by hash of the patient, or `official`.")
    ] = "0.8/0.2",
    segmenter: Annotated[
        str, Option(help="Draws the organ masks: a bundle's name or folder, or `pspnet`.")
    ] = "xreal-mini",
    weights: Annotated[
        Path | None, Option(help="Folder of PSPNet's weights.", show_default="torchxrayvision's own; never fetched")
    ] = None,
    min_score: Annotated[float, Option(min=0, max=1, help="Least certainty of a mask; refused below.")] = 0.0,
    min_age: Annotated[int, Option(min=0, help="Younger patients are left out, where known.")] = 18,
    blank: Annotated[
        Blank, Option(help="What an empty label cell means (CheXpert, MIMIC); -1 is always unknown.")
    ] = "unknown",
    tables: Annotated[str | None, Option(help="Folder or URI of the tables.", show_default="SOURCE")] = None,
    encoding: Annotated[str, Option(help="Of the tables.")] = "utf-8-sig",
    shards: Annotated[
        int | None, Option(min=1, help="Also write WebDataset tars of this many images.", show_default="no tars")
    ] = None,
    limit: Annotated[int | None, Option(min=1, help="Only the first images.", show_default="all")] = None,
    workers: Annotated[int, Option(min=1, max=64, help="Threads that read images.")] = 2,
    device: Annotated[
        str | None, Option(help="cpu, cuda: where the segmenter runs.", show_default="cuda if any")
    ] = None,
    review: Annotated[int, Option(min=0, max=600, help=f"Images on {REVIEW}, the least certain.")] = 48,
    max_refused: Annotated[
        float, Option(min=0, max=1, help="Exits 3 if a larger share of the images was refused.")
    ] = 0.2,
    table: Annotated[str | None, _own("The CSV, in SOURCE or --tables.")] = None,
    image_column: Annotated[str | None, _own("Paths below SOURCE.", show_default="image")] = None,
    patient_column: Annotated[str | None, _own(show_default="patient_id")] = None,
    labels_column: Annotated[
        str | None, _own("Joined names; without it, columns named like findings count.", show_default="labels")
    ] = None,
    separator: Annotated[str, _own("Between joined names.")] = "|",
    unknown_column: Annotated[str | None, _own("Joined names.", show_default="unknown")] = None,
    view_column: Annotated[str | None, _own("PA and AP are taken.", show_default="view")] = None,
    age_column: Annotated[str | None, _own(show_default="age")] = None,
    sex_column: Annotated[str | None, _own(show_default="sex")] = None,
    mask_column: Annotated[
        str | None, _own("Own organ masks; where the cell is empty, a segmenter's.", show_default="none")
    ] = None,
    boxes_column: Annotated[
        str | None, _own(r"JSON of \[name, x, y, w, h] in shares.", show_default="boxes_xywh_norm")
    ] = None,
    split_column: Annotated[str | None, _own("For --splits official.", show_default="none")] = None,
    rename: Annotated[list[str] | None, _own("A label's name; repeat.", metavar="YOURS=NAME")] = None,
    as_json: JsonOption = False,
) -> None:
    """Makes training images of a data set: square grey images, organ masks, labels, splits by patient.

    Run the same command again to go on; images already made are not made twice. What cannot be used is refused,
    counted and listed in refused.json; -1 labels stay unknown. Look at review.png before training.
    """
    import torch

    from xreal_synth.prepare.images import Shape
    from xreal_synth.prepare.run import PrepareTask

    if (kind == "folder") != (table is not None):
        raise TrainingError(
            found=f"prepare {kind} {'without' if table is None else 'with'} --table",
            wanted="--table with `folder`, and with no other: the public sets' tables have names of their own",
            hint="--table list.csv" if table is None else "leave it out; --tables names the folder of the set's tables",
        )
    columns = FolderColumns(
        table=table or "", image=image_column or "", patient=patient_column or "", labels=labels_column or "",
        unknown=unknown_column or "", view=view_column or "", age=age_column or "", sex=sex_column or "",
        mask=mask_column or "", boxes=boxes_column or "", split=split_column or "", separator=separator,
        rename=_renames(rename or []),
    )  # fmt: skip
    task = PrepareTask(
        kind=kind,
        source=source,
        out=out,
        shape=Shape(size, fit, enlarge),
        choice=Choice("official" if splits == "official" else parse_shares(splits), min_age, kind == "folder", limit),
        tables=tables,
        columns=columns,
        boxes=boxes or "",
        encoding=encoding,
        blank=blank,
        segmenter=segmenter,
        weights=weights,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        min_score=min_score,
        workers=workers,
        shard_images=shards,
    )
    report = _run(task)
    if review:
        _sheets(report, out, review)
    if as_json:
        print_json(report.account)
    else:
        _show(report, out, review)
    if report.refused_share > max_refused:
        note(f"{report.refused_share:.0%} of the images were refused, more than --max-refused {max_refused:g}")
        raise typer.Exit(PARTIAL)


def _renames(given: list[str]) -> dict[str, str]:
    renames = {}
    for text in given:
        own, equals, name = text.rpartition("=")
        known = image_label(name.strip())
        if not equals or known is None:
            raise TrainingError(
                found=f"--rename {text!r}",
                wanted=f"YOURS=NAME with one of {', '.join(IMAGE_LABELS)}",
                hint="e.g. --rename 'pleural fluid=Effusion'",
            )
        renames[own.strip()] = known
    return renames


def _run(task: PrepareTask) -> Report:
    from xreal_synth.prepare.command import prepare as run_prepare

    with counting_bar(progress_console(True)) as progress:
        bar = progress.add_task("preparing images", total=None)
        try:
            return run_prepare(
                task,
                on_start=lambda images: progress.update(bar, total=images),
                on_images=lambda images: progress.advance(bar, images),
            )
        except KeyboardInterrupt:
            progress.stop()
            notes.print("stopped: run the same command again to go on")
            raise typer.Exit(STOPPED) from None


def _sheets(report: Report, out: Path, count: int) -> None:
    """review.png: refused masks first, at most a third, then the images that are kept, least certain first.
    outliers.png: the images farthest from the rest, where there are any."""
    from xreal_synth.report.contact_sheet import ReviewImage, review_sheet

    images = [
        ReviewImage(read.image, read.mask, refusal.file, read.score, refusal.reason)
        for read, refusal in report.refused_masks[: max(1, count // 3)]
        if read.mask is not None
    ]
    worst = sorted(report.rows, key=lambda row: float(row["mask_score"] or 0))
    images += [_kept(out, row, scored=True) for row in worst[: count - len(images)]]
    title = f"{out.name}: {len(report.rows)} images, the least certain masks"
    review_sheet(images, out / REVIEW, title=title)
    rows = {row["original_id"]: row for row in report.rows}
    outliers = report.account["audit"]["outliers"][:SHOWN_OUTLIERS]
    images = [_kept(out, rows[one["file"]], remark=one["reason"]) for one in outliers]
    (out / OUTLIERS).unlink(missing_ok=True)
    if images:
        notice = "Taken, and farthest from the others by size or tone: look whether they belong here."
        review_sheet(images, out / OUTLIERS, title=f"{out.name}: unlike the rest", notice=notice)


def _kept(out: Path, row: dict[str, str], *, scored: bool = False, remark: str = "") -> ReviewImage:
    """A row's image as the sheets show it."""
    import numpy as np

    from xreal_synth.report.contact_sheet import ReviewImage

    pixels = []
    for column in ("image", "mask"):
        with open_image(read_file(out / row[column])) as image:
            pixels.append(np.array(image))
    score = float(row["mask_score"]) if scored and row["mask_score"] else None
    return ReviewImage(pixels[0], pixels[1], row["original_id"], score, remark=remark)


def _show(report: Report, out: Path, review: int) -> None:
    account, refused = report.account, report.found.refused
    by_split = account["images_by_split"]
    shares = ", ".join(f"{n} {split} ({n / account['images']:.0%})" for split, n in by_split.items())
    say(f"{account['images']} images of {account['patients']} patients: {shares}; masks: {account['masks']}")
    kinds = ("positive", "negative", "unknown")
    rows = [
        (name, *(counts[kind] for kind in kinds))
        for name, counts in account["labels"].items()
        if counts["positive"] or counts["negative"]
    ]
    print_table(rows, "label", *kinds)
    lines = [f"note: {note}" for note in account["notes"]]
    lines += [f"left out: {count} {reason}" for reason, count in account["left_out"].items()]
    lines += [f"refused: {count} {fault}" for fault, count in account["refused"].items()]
    for line in lines:
        console.print(line)
    for refusal in refused[:SHOWN_REFUSALS]:
        say(f"  {refusal.file}: {refusal.reason}")
    if len(refused) > SHOWN_REFUSALS:
        say(f"  and {len(refused) - SHOWN_REFUSALS} more")
    _show_audit(report, out, review)
    looked = f"; look at {out / REVIEW}" if review else ""
    say(f"refused images with reasons: {out / 'refused.json'}{looked}")
    say(f"next: xreal-synth train autoencoder mini-autoencoder --data {out} --out runs/autoencoder")


def _show_audit(report: Report, out: Path, review: int) -> None:
    audit = report.account["audit"]
    labels, patients = audit["positives_by_split_and_view"], audit["patients_across_splits"]
    alike, outliers = audit["alike_across_splits"], audit["outliers"]
    groups = sorted({group for counts in labels.values() for group in counts})
    rows = [(name, *(counts.get(group, 0) for group in groups)) for name, counts in labels.items()]
    print_table(rows, "positive, by split and view", *groups)
    if patients:
        say(f"patients in two splits: {', '.join(patients[:SHOWN_REFUSALS])}")
    for first, second in alike[:SHOWN_REFUSALS]:
        say(f"alike, in two splits: {first} and {second}")
    sheet = f": look at {out / OUTLIERS}" if review and outliers else ""
    say(
        f"audit: {len(patients)} patients in two splits, {len(alike)} pairs alike across splits, "
        f"{len(outliers)} images unlike the rest by size or tone{sheet}"
    )
