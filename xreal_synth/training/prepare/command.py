"""`xreal-synth prepare` as a function: from a source's tables to a folder that training reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from xreal_synth.anatomy.manifest import fault_counts, near_patients
from xreal_synth.errors import TrainingError
from xreal_synth.storage import LocalStore, Store, open_store, private_files
from xreal_synth.training.prepare import chexpert, mimic, nih, own_folder
from xreal_synth.training.prepare.audit import Audit, audit
from xreal_synth.training.prepare.choose import Choice, choose
from xreal_synth.training.prepare.films import Shape
from xreal_synth.training.prepare.found import Blank, FolderColumns, Found, Kind, Place
from xreal_synth.training.prepare.journal import Journal
from xreal_synth.training.prepare.publish import (
    REFUSED,
    manifest_rows,
    without_credentials,
    write_account,
    write_manifest,
    write_refused,
)
from xreal_synth.training.prepare.run import Making, OnFilms, Outcome, make_films
from xreal_synth.training.prepare.segmenters import open_segmenter
from xreal_synth.training.prepare.tables import read_beside
from xreal_synth.training.prepare.tars import write_tars
from xreal_synth.uris import is_remote, local_folder

SOURCES: Final[dict[Kind, tuple[Callable[[Place], Found], str]]] = {
    "nih": (nih.find_nih, nih.LICENCE),
    "mimic": (mimic.find_mimic, mimic.LICENCE),
    "chexpert": (chexpert.find_chexpert, chexpert.LICENCE),
    "folder": (own_folder.find_folder, own_folder.LICENCE),
}


@dataclass(frozen=True, slots=True)
class Task:
    """What to prepare: a source (path or any fsspec URI), how its tables are read, what is taken and made.

    `tables` is where the tables lie if not with the films; `boxes` is a list that is read instead of the source's
    boxes. `segmenter` is `pspnet` or a bundle; `weights` the folder of PSPNet's weights. `shard_films` writes
    WebDataset tars too, with this many films each.
    """

    kind: Kind
    source: str
    out: Path
    shape: Shape
    choice: Choice = field(default_factory=Choice)
    tables: str | None = None
    columns: FolderColumns = field(default_factory=FolderColumns)
    boxes: str = ""
    encoding: str = "utf-8-sig"
    blank: Blank = "unknown"
    segmenter: str = "xreal-mini"
    weights: Path | None = None
    device: str = "cpu"
    min_score: float = 0.0
    workers: int = 2
    shard_films: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What was made: the rows of the manifest, everything refused and left out, `prepared.json`, and its audit."""

    rows: list[dict[str, str]]
    found: Found
    outcome: Outcome
    account: dict[str, Any]
    audit: Audit

    @property
    def refused_share(self) -> float:
        refused = len(self.found.refused)
        return refused / max(1, refused + len(self.rows))


def prepare(
    task: Task,
    on_start: Callable[[int], None] = lambda films: None,
    on_films: OnFilms = lambda films: None,
) -> Report:
    """Prepare the films of a source, or go on with what `task.out` holds.

    `on_start` gets the number of films chosen, `on_films` how many more are through. A film that cannot be used
    is refused and listed, never an error. Raises TrainingError where the tables cannot be used, the folder holds
    something else, or no film is left; BundleError for the segmenter.
    """
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    place = Place(
        _source(task.source),
        _source(task.tables or task.source),
        task.encoding,
        task.blank,
        task.columns,
        task.boxes,
    )
    find, licence = SOURCES[task.kind]
    found = find(place)
    if task.boxes and not found.box(read_beside(place.tables, task.boxes), task.boxes, task.columns):
        raise TrainingError(
            found=f"{task.boxes}: no box of an image in the table", wanted="the table's names"
        )
    chosen = choose(found, task.choice)
    if not chosen:
        raise TrainingError(
            found=f"no film to prepare: {_counts(found)}",
            wanted="frontal films of adults",
            mend=_hint(found),
        )
    given = all(one.film.mask for one in chosen)
    segmenter = None if given else open_segmenter(task.segmenter, task.weights, task.device)
    mask_source = segmenter.name if segmenter else f"column {task.columns.mask}"
    private_files()
    out = LocalStore(task.out)
    made_so = {"kind": task.kind, "size": task.shape.size, "fit": task.shape.fit}
    journal = Journal(task.out, made_so)
    on_start(len(chosen))
    making = Making(task.shape, task.min_score, task.choice.min_age, task.workers)
    try:
        outcome = make_films(place.films, out, chosen, found, making, segmenter, journal, on_films)
    finally:
        journal.close()
    found.notes += _linked(place)
    if near := near_patients({film.patient for film in found.films}):
        told = "; ".join(" and ".join(map(repr, group)) for group in near[:3])
        found.notes.append(
            f"patients that may be one, in {len(near)} cases: {told}; they are taken as different"
        )
    write_refused(out, found)
    if not outcome.films:
        raise TrainingError(
            found=f"no film is left: {_counts(found)}",
            wanted="films that can be used",
            mend=f"see {task.out / REFUSED}",
        )
    rows = manifest_rows(outcome.films, mask_source)
    write_manifest(out, rows)
    if task.shard_films:
        write_tars(out, rows, task.shard_films)
    looked = audit(outcome.films, rows)
    settings = made_so | {"masks": mask_source} | _settings(task)
    account = write_account(out, rows, found, settings, licence, looked.as_dict())
    return Report(rows, found, outcome, account, looked)


def _source(uri: str) -> Store:
    """A place to read from; a folder may be a farm of links."""
    return open_store(uri) if is_remote(uri) else LocalStore(local_folder(uri), farm=True)


def _linked(place: Place) -> list[str]:
    stores = [store for store in (place.films, place.tables) if isinstance(store, LocalStore)]
    folders = sorted({folder for store in stores for folder in store.mirrored or ()})
    if not folders:
        return []
    return [f"links in the source lead into {len(folders)} folders outside it, e.g. {folders[0]}"]


def _settings(task: Task) -> dict[str, Any]:
    choice = task.choice
    return {
        "source": without_credentials(task.source),
        "splits": str(choice.splits),
        "min_age": choice.min_age,
        "limit": choice.limit,
        "min_score": task.min_score,
        "blank": task.blank,
    }


def _hint(found: Found) -> str:
    """What may bring films back in, by what was met first."""
    if found.refused:
        first = found.refused[0]
        return f"the first of those refused is {first.file}: {first.reason}"
    return "--min-age and the column of views say who is left out"


def _counts(found: Found) -> str:
    left = ", ".join(f"{count} {reason}" for reason, count in found.left_out.most_common())
    return f"{len(found.refused)} refused ({fault_counts(found.refused)}), left out {left or 'none'}"
