"""The files that a person opens first: the report, the contact sheet and the dataset card, built from the shards."""

from __future__ import annotations

from dataclasses import dataclass

from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import INDEX, REJECTED, REPORT, SAMPLES
from xreal_synth.dataset.record import DatasetSummary
from xreal_synth.errors import StorageError
from xreal_synth.models.describe import BundleInfo, describe_made_with
from xreal_synth.report.card import dataset_card
from xreal_synth.report.contact_sheet import sheet_png
from xreal_synth.report.page import report_html
from xreal_synth.report.picks import first_samples
from xreal_synth.storage import Store, private_files

CONTACT_SHEET = "contact_sheet.png"
CARD = "README.md"
RECIPE = "recipe.yaml"
SHEET_IMAGES = 48
SHEET_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Built:
    """Paths (or URIs) of what was written; no contact sheet where no image was delivered."""

    report: str
    contact_sheet: str | None
    paths: tuple[str, ...]


def build(store: Store, summary: DatasetSummary | None = None, bundle: BundleInfo | None = None) -> Built:
    """Writes card, contact sheet and report; without a summary the tables and the index are written anew first.

    The splits stay as samples.parquet has them. Raises DatasetError, StorageError.
    """
    head = read_head(store)
    if head.real_images:
        private_files()
    written = [SAMPLES, REJECTED, INDEX]
    if summary is None:
        summary = finish(store, head)
    sheet = None
    if summary.samples:
        images = first_samples(store, head, SHEET_IMAGES)
        title = f"{head.name}: the first images of {summary.samples:,}"
        store.replace(CONTACT_SHEET, sheet_png(images, columns=SHEET_COLUMNS, title=title))
        sheet = _place(store, CONTACT_SHEET)
        written.append(CONTACT_SHEET)
    text = recipe_text(store)
    bundle = bundle or describe_made_with(head.bundle.name, head.bundle.hash)
    store.replace(CARD, dataset_card(head, summary, text, bundle=bundle).encode())
    store.replace(REPORT, report_html(store, head, summary, text, bundle=bundle))
    return Built(_place(store, REPORT), sheet, tuple(_place(store, name) for name in (*written, CARD, REPORT)))


def try_build(store: Store, summary: DatasetSummary, bundle: BundleInfo) -> tuple[Built | None, str]:
    """As `build`, at a run's end: where it cannot be written (a full disk), None and what to do."""
    try:
        return build(store, summary, bundle), ""
    except (OSError, StorageError) as error:
        return None, f"the card and the report were not written: {error}; once there is room: run report"


def _place(store: Store, key: str) -> str:
    return f"{store.uri}/{key}"


def recipe_text(store: Store) -> str:
    """The recipe as given, empty if it is not there."""
    try:
        return store.read_bytes(RECIPE).decode()
    except (StorageError, UnicodeDecodeError):
        return ""
