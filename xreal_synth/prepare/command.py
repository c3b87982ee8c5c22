"""`xreal-synth prepare` as a function: from a source's tables to a folder that training reads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final

from xreal_synth.errors import TrainingError
from xreal_synth.images.manifest import fault_counts, near_patients
from xreal_synth.prepare import chexpert, mimic, nih, own_folder
from xreal_synth.prepare.choose import choose
from xreal_synth.prepare.found import FoundImages, Kind, SourcePlace, read_beside
from xreal_synth.prepare.publish import REFUSED, manifest_rows, write_account, write_manifest, write_tars
from xreal_synth.prepare.run import JOURNAL, ImagePreparer, OnImages, PrepareJournal, PrepareTask, RefusedMask
from xreal_synth.prepare.segmenters import open_segmenter
from xreal_synth.storage import LocalStore, Store, open_store, private_files
from xreal_synth.uris import is_remote, local_folder, scrubbed

SOURCES: Final[dict[Kind, tuple[Callable[[SourcePlace], FoundImages], str]]] = {
    "nih": (nih.find_nih, nih.LICENCE),
    "mimic": (mimic.find_mimic, mimic.LICENCE),
    "chexpert": (chexpert.find_chexpert, chexpert.LICENCE),
    "folder": (own_folder.find_folder, own_folder.LICENCE),
}


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome: the rows of the manifest, everything refused and left out, and `prepared.json`."""

    rows: list[dict[str, str]]
    found: FoundImages
    refused_masks: list[RefusedMask]
    account: dict[str, Any]

    @property
    def refused_share(self) -> float:
        """Refused images over all that were tried, 0..1."""
        refused = len(self.found.refused)
        return refused / max(1, refused + len(self.rows))


def prepare(
    task: PrepareTask, on_start: Callable[[int], None] = lambda images: None, on_images: OnImages = lambda images: None
) -> Report:
    """Prepare the images of a source, or go on with what `task.out` holds.

    `on_start` gets the number of images chosen, `on_images` how many more are through. An image that cannot be used
    is refused and listed, never an error. Raises TrainingError where the tables cannot be used, the folder holds
    something else, or no image is left; BundleError for the segmenter.
    """
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    images_at, tables_at = _source(task.source), _source(task.tables or task.source)
    place = SourcePlace(images_at, tables_at, task.encoding, task.blank, task.columns, task.boxes)
    find, licence = SOURCES[task.kind]
    found = find(place)
    if task.boxes and not found.box(read_beside(place.tables, task.boxes), task.boxes, task.columns):
        raise TrainingError(found=f"{task.boxes}: no box of an image in the table", wanted="the table's names")
    chosen = choose(found, task.choice)
    if not chosen:
        hint = "--min-age and the column of views say who is left out"
        if found.refused:
            hint = f"the first of those refused is {found.refused[0].file}: {found.refused[0].reason}"
        raise TrainingError(
            found=f"no image to prepare: {_counts(found)}", wanted="frontal images of adults", hint=hint
        )
    given = all(image.mask for image in chosen)
    segmenter = None if given else open_segmenter(task.segmenter, task.weights, task.device)
    mask_source = segmenter.name if segmenter else f"column {task.columns.mask}"
    private_files()
    out = LocalStore(task.out)
    made_so = {"kind": task.kind, "size": task.shape.size, "fit": task.shape.fit}
    journal = PrepareJournal(task.out, made_so)
    on_start(len(chosen))
    with closing(journal):
        preparer = ImagePreparer(task, place.images, out, found, segmenter, journal)
        images = preparer.prepare(chosen, on_images)
    found.notes += _notes(place, found, journal)
    refused = [asdict(refusal) for refusal in found.refused]
    out.replace(REFUSED, json.dumps(refused, indent=1, ensure_ascii=False).encode())
    if not images:
        raise TrainingError(
            found=f"no image is left: {_counts(found)}",
            wanted="images that can be used",
            hint=f"see {task.out / REFUSED}",
        )
    rows = manifest_rows(images, mask_source)
    write_manifest(out, rows)
    if task.shard_images:
        write_tars(out, rows, task.shard_images)
    choice = task.choice
    settings = {
        **made_so, "masks": mask_source, "source": scrubbed(task.source), "splits": str(choice.splits),
        "min_age": choice.min_age, "limit": choice.limit, "min_score": task.min_score, "blank": task.blank,
    }  # fmt: skip
    account = write_account(out, images, rows, found, settings, licence)
    return Report(rows, found, preparer.refused_masks, account)


def _source(uri: str) -> Store:
    """A place to read from; a folder may be a farm of links."""
    return open_store(uri) if is_remote(uri) else LocalStore(local_folder(uri), farm=True)


def _notes(place: SourcePlace, found: FoundImages, journal: PrepareJournal) -> list[str]:
    notes = []
    if journal.damaged:
        notes.append(f"{journal.damaged} damaged line(s) in {JOURNAL} are left out; their images were made again")
    stores = [store for store in (place.images, place.tables) if isinstance(store, LocalStore)]
    if folders := sorted({folder for store in stores for folder in store.mirrored or ()}):
        notes.append(f"links in the source lead into {len(folders)} folders outside it, e.g. {folders[0]}")
    if near := near_patients({image.patient for image in found.images}):
        reported = "; ".join(" and ".join(map(repr, group)) for group in near[:3])
        notes.append(f"patients that may be one, in {len(near)} cases: {reported}; they are taken as different")
    return notes


def _counts(found: FoundImages) -> str:
    left = ", ".join(f"{count} {reason}" for reason, count in found.left_out.most_common())
    return f"{len(found.refused)} refused ({fault_counts(found.refused)}), left out {left or 'none'}"
