"""`xreal-synth export DATASET OUT --to FORMAT`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from xreal_synth.cli.options import DatasetArgument, JsonOption
from xreal_synth.cli.output import console, counting_bar, note, notes, progress_console, told
from xreal_synth.dataset.names import CARD, SHEET
from xreal_synth.dataset.source import OnImage, Source, open_source
from xreal_synth.engine.progress import PARTIAL
from xreal_synth.errors import StorageError
from xreal_synth.export.coco import write_coco
from xreal_synth.export.croissant import croissant_json
from xreal_synth.export.dicom import write_dicom
from xreal_synth.export.hf import write_hf
from xreal_synth.export.monai import write_monai
from xreal_synth.export.place import free_path, left_behind, whole_folder
from xreal_synth.export.push import check_push, push
from xreal_synth.export.yolo import NEEDED, UNBOXED, write_yolo
from xreal_synth.models.describe import describe_made_with
from xreal_synth.storage import LocalStore, open_store, private_files

Format = Literal["coco", "yolo", "monai", "hf", "dicom", "croissant"]


EXAMPLES = (
    "xreal-synth export out/quickstart out/quickstart-coco --to coco",
    "xreal-synth export out/quickstart out/quickstart-yolo --to yolo",
    "xreal-synth export out/quickstart out/quickstart-monai --to monai",
    "xreal-synth export s3://bucket/big big-hf --to hf --json",
    "xreal-synth export out/quickstart quickstart-hf --to hf --push me/quickstart",
    "xreal-synth export out/quickstart out/quickstart/croissant.json --to croissant",
)


def export(
    dataset: DatasetArgument,
    out: Annotated[
        str, Argument(help="A new folder (croissant: a new .json file). An export replaces nothing.", metavar="OUT")
    ],
    to: Annotated[
        Format,
        Option(
            help="coco: PNGs, boxes and regions. yolo: PNGs and boxes as Ultralytics reads them. "
            "monai: PNGs, organ masks and boxes in a datalist. hf: parquet for load_dataset, with a card. "
            "dicom: secondary captures marked synthetic, their segmentations (SEG), masks as PNG. croissant: "
            "metadata that names the dataset's files where they lie."
        ),
    ],
    push: Annotated[
        str | None,
        Option(
            metavar="OWNER/NAME",
            help="With --to hf: puts OUT on the Hugging Face Hub, as a new private dataset repository. Needs HF_TOKEN "
            "or `hf auth login`.",
        ),
    ] = None,
    public: Annotated[bool, Option("--public", help="With --push: a repository for everyone.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Writes a dataset in another format; splits are kept. It is there whole or not at all.

    Shards without a record, or not as it says, are left out and listed; the exit code is then 3.
    """
    _refuse_push(to, push, public=public)
    path = free_path(out)
    for old in left_behind(path):
        note(f"left by an export that was ended: {old} may be deleted")
    source = open_source(open_store(dataset))
    if source.head.real_images:
        private_files()
    if push is not None:
        _check_push(push, public=public, real_images=source.head.real_images)
    with _progress() as on_image:
        _write(to, source, path, on_image)
    counted = source.counted.summary()
    address = None if push is None else _push(path, push, public=public)
    if source.excluded:
        notes.print(f"{len(source.excluded)} images are left out by excluded.csv")
    for skipped in source.skipped:
        note(str(skipped))
    splits = {name: counted.splits[name] for name in ("train", "val", "test") if name in counted.splits}
    reported = ", ".join(f"{name} {count:,}" for name, count in splits.items())
    line = f"{path}: {counted.samples:,} images ({reported}) as {to}"
    if address is not None:
        line += f"\npushed to {address}, {'public' if public else 'private'}"
    left_out = [str(skipped) for skipped in source.skipped]
    fields = {
        "out": str(path), "format": to, "images": counted.samples, "splits": splits, "left_out": left_out,
        "excluded": len(source.excluded), "pushed": address,
    }  # fmt: skip
    told(as_json, fields, line)
    if source.skipped:
        raise typer.Exit(PARTIAL)


def _refuse_push(to: Format, push: str | None, *, public: bool) -> None:
    if push is not None and to != "hf":
        raise StorageError(
            found=f"--push with --to {to}",
            wanted="--push with --to hf: the form that the Hub shows and load_dataset reads",
            hint=f"xreal-synth export DATASET OUT --to hf --push {push}",
        )
    if public and push is None:
        raise StorageError(
            found="--public without --push", wanted="a repository to push to", hint="--push OWNER/NAME --public"
        )


def _check_push(repo: str, *, public: bool, real_images: bool) -> None:
    if public and real_images:
        raise StorageError(
            found="--public, and the images are patients'",
            wanted="patients' images to be made public by a person, once their licence and consent are seen to",
            hint="push them without --public; the Hub's settings make a repository public",
        )
    check_push(repo, public=public)


def _push(path: Path, repo: str, *, public: bool) -> str:
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not notes.is_terminal or console.quiet:
        disable_progress_bars()
    with notes.status(f"pushing to {repo}"):
        return push(path, repo, public=public)


@contextmanager
def _progress() -> Iterator[OnImage]:
    """A bar on a terminal, nothing elsewhere."""
    bar = counting_bar(progress_console(True), disable=not notes.is_terminal, transient=True)
    task = bar.add_task("exporting images", total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _write(to: Format, source: Source, path: Path, on_image: OnImage) -> None:
    if to == "croissant":
        _croissant(source, path, on_image)
        return
    writers = {"coco": write_coco, "yolo": _yolo, "monai": write_monai, "hf": _hf, "dicom": write_dicom}
    with whole_folder(path) as folder:
        writers[to](source, folder, on_image)


def _yolo(source: Source, folder: Path, on_image: OnImage) -> None:
    write_yolo(source, folder, on_image)
    if unboxed := sum(1 for _ in (folder / UNBOXED).rglob("*.png")):
        notes.print(f"{unboxed} images show a finding without a box: they are in {UNBOXED}, in no split")
    if missing := [split for split in NEEDED if split not in source.counted.summary().splits]:
        notes.print(
            f"no image is in {' or '.join(missing)}: Ultralytics takes no data.yaml without {' and '.join(NEEDED)}"
        )


def _hf(source: Source, folder: Path, on_image: OnImage) -> None:
    from xreal_synth.report.build import recipe_text
    from xreal_synth.report.card import dataset_card

    write_hf(source, folder, on_image)
    sheet = source.store.exists(SHEET)
    if sheet:
        (folder / SHEET).write_bytes(source.store.read_bytes(SHEET))
    bundle = describe_made_with(source.head.bundle.name, source.head.bundle.hash)
    recipe = recipe_text(source.store)
    card = dataset_card(source.head, source.counted.summary(), recipe, bundle=bundle, layout="parquet", sheet=sheet)
    (folder / CARD).write_text(card, encoding="utf-8")


def _croissant(source: Source, path: Path, on_image: OnImage) -> None:
    if path.suffix not in (".json", ".jsonld"):
        raise StorageError(
            found=f"{path.name} does not end in .json",
            wanted="a file: Croissant is metadata about the dataset where it lies",
            hint=f"give {path / 'croissant.json'}, or croissant.json in the dataset's folder",
        )
    content = croissant_json(source, path, on_image)
    if not LocalStore(path.parent).put_if_absent(path.name, content):
        raise StorageError(found=f"{path} exists", hint="give another place, or remove it first")
