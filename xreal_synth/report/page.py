"""report.html: one self-contained page that says what was asked, what was made, how good it is, and what is not there.

No script and no address: pictures are data URIs, charts inline SVG, zoom is HTML's popover. What comes from
users (names, reasons, recipe) is escaped by the template. The same dataset gives the same bytes.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final, Literal

import jinja2

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import QUARANTINE, RECORDS, REJECTED, SAMPLES, SHARDS, quarantine_key, shards_in, stem_of
from xreal_synth.dataset.record import DatasetSummary
from xreal_synth.dataset.seal import unsealed
from xreal_synth.dataset.status import read_note
from xreal_synth.errors import DatasetError, RecipeError, StorageError
from xreal_synth.escaping import without_places
from xreal_synth.models.describe import BundleInfo
from xreal_synth.recipe.load import in_todays_words, recipe_from_text
from xreal_synth.report.card import context, templates
from xreal_synth.report.drawing import BUDGET, FULL_CHANGE, Picture, heat_picture, within_budget
from xreal_synth.report.figures import histogram_svg, number, organ_outlines
from xreal_synth.report.measured import measured
from xreal_synth.report.picks import MOST_SHARDS, NO_FINDING, PAINTED_OVER, Picker
from xreal_synth.report.streamed import Streamed, refusals, stream
from xreal_synth.report.strips import MEAN_GROUPS, MeanAnatomy, Strip, read_strips
from xreal_synth.report.words import bound_of, words_for
from xreal_synth.storage import Store, local_copy

LISTED: Final = 20

State = Literal["complete", "partial", "unknown"]


@dataclass(frozen=True, slots=True)
class Status:
    """`asked` groups, None where nobody told; `planned` shards of them. `failed` has the reasons of the first LISTED of
    `quarantined`; `unmade` shards have no record for another reason."""

    state: State
    asked: int | None
    planned: int | None
    quarantined: int
    failed: dict[str, str]
    unmade: int


def status_of(store: Store, head: DatasetHead, summary: DatasetSummary, recipe_text: str) -> Status:
    """What is done against what the last run asked for, or recipe.yaml where no run has told.

    recipe.yaml is the file as given: `--set anatomies=..` may have changed it, so that less than it asks for
    is told as unknown.
    """
    done = set(shards_in(store, RECORDS, head.name))
    quarantined = sorted(set(shards_in(store, QUARANTINE, head.name)) - done)
    begun = set(shards_in(store, SHARDS, head.name)) | set(quarantined) | done
    covered = summary.groups + summary.dropped
    note = read_note(store)
    asked, sure = (note.groups if note else summary.asked), True
    if asked is None or asked < covered:
        asked, sure = _in_recipe(recipe_text), False
    if asked is not None and asked < covered:
        asked = None
    planned = -(-asked // head.shard_samples) if asked is not None and sure else None
    wanted = set(range(planned if planned is not None else max(begun, default=-1) + 1))
    unmade = len(wanted - done - set(quarantined))
    failed = dict(_failed(store, stem_of(head.name, shard)) for shard in quarantined[:LISTED])
    state: State = "unknown"
    if quarantined or unmade or (sure and asked is not None and covered < asked):
        state = "partial"
    elif asked == covered:
        state = "complete"
    reported = asked if sure or state == "complete" else None
    return Status(state, reported, planned, len(quarantined), failed, unmade)


def _failed(store: Store, stem: str) -> tuple[str, str]:
    key = quarantine_key(stem)
    try:
        return stem, str(unsealed(store.read_bytes(key), key).get("reason", ""))
    except (DatasetError, StorageError) as error:
        return stem, error.found


def _in_recipe(text: str) -> int | None:
    try:
        return recipe_from_text(in_todays_words(text)).anatomies
    except RecipeError:
        return None


RECIPE_SHOWN: Final = 60_000
"""Characters of the recipe's text."""
_HEATS: Final = 8
"""Findings whose boxes are drawn, the most frequent."""


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """Images of one kind of finding, of which there are `images`."""

    title: str
    images: int
    strips: list[Strip]


def report_html(
    store: Store, head: DatasetHead, summary: DatasetSummary, recipe_text: str, *, bundle: BundleInfo | None
) -> bytes:
    """The page's bytes, from the dataset's finished tables and a few of its tars.

    Raises DatasetError, StorageError where those cannot be read.
    """
    given = context(head, summary, bundle)
    healthy = frozenset(number for number, row in enumerate(given["rows"]) if row.healthy)
    picker = Picker(shards_in(store, RECORDS, head.name), healthy)
    with local_copy(store, SAMPLES) as path:
        streamed = stream(path, picker)
    with local_copy(store, REJECTED) as path:
        refused = refusals(path)
    wanted = [(pick.shard, pick.key) for pick in streamed.picks]
    wanted += [(one.shard, one.key) for score in streamed.scores for one in score.worst.images]
    strips, mean = read_strips(store, head, wanted, picker.shards if summary.samples else ())
    found, heats = _pictures(streamed, strips, mean)
    pictures, width = within_budget(found)
    text = _environment().get_template("report.html.j2").render(
        given, status=status_of(store, head, summary, recipe_text), recipe=_shortened(recipe_text),
        refused=refused, streamed=streamed, heats=heats,
        sheets=_sheets(streamed, strips, real=head.real_images), strips=strips,
        pictures=pictures, heights={one.name: one.height for one in pictures}, width=width, budget=BUDGET,
        mean=mean, mean_outlines=organ_outlines(dict(mean.organs)), spread=len(picker.shards),
        most_shards=MOST_SHARDS, mean_groups=MEAN_GROUPS, full_change=FULL_CHANGE,
        measured=measured(store, head), bound_of=bound_of, words_for=words_for, histogram_svg=histogram_svg,
        masks_path=without_places(head.setting("anatomy", "source", "masks", "path") or ""),
    )  # fmt: skip
    return text.encode()


def _pictures(
    streamed: Streamed, strips: dict[str, Strip], mean: MeanAnatomy
) -> tuple[dict[str, Picture], dict[str, str]]:
    """Every picture of the page once, by name; and the names of the most frequent findings' heat maps."""
    found: dict[str, Picture] = {}
    for key, strip in strips.items():
        found |= {f"{key}-{kind}": picture for kind, picture in strip.pictures.items()}
    if mean.image is None:
        return found, {}
    found["mean"] = mean.image
    shares = {one.name: share for one in streamed.findings if (share := one.share) is not None}
    heats = {name: f"heat-{place}" for place, name in enumerate(list(shares)[:_HEATS])}
    return found | {heats[name]: heat_picture(mean.image, shares[name]) for name in heats}, heats


def _sheets(streamed: Streamed, strips: dict[str, Strip], *, real: bool) -> list[Sheet]:
    """The images picked to be shown, a sheet a kind."""
    titles = {NO_FINDING: "Images as they are", PAINTED_OVER: "Findings painted over"} if real else {}
    sheets: dict[str, Sheet] = {}
    for pick in streamed.picks:
        sheet = sheets.setdefault(pick.kind, Sheet(titles.get(pick.kind, pick.kind), pick.images, []))
        sheet.strips.append(strips[pick.key])
    return list(sheets.values())


def _environment() -> jinja2.Environment:
    environment = templates(autoescape=True)
    environment.tests["has"] = operator.contains
    environment.filters |= {"pct": _percent, "num": number, "time": _time}
    return environment


def _shortened(recipe: str) -> str:
    recipe = without_places(recipe.rstrip())
    if len(recipe) <= RECIPE_SHOWN:
        return recipe
    return f"{recipe[:RECIPE_SHOWN]}\n# cut here: the whole is in recipe.yaml"


def _percent(value: float) -> str:
    return f"{value:.1%}" if 0 < value < 0.0995 or 0.9 < value < 1 else f"{value:.0%}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
