"""The state of a dataset: complete or not, and what of it is not there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import QUARANTINE, RECORDS, SHARDS, quarantine_key, shards_in, stem_of
from xreal_synth.dataset.note import read_note
from xreal_synth.dataset.seal import unsealed
from xreal_synth.dataset.summary import DatasetSummary
from xreal_synth.errors import DatasetError, RecipeError, StorageError
from xreal_synth.recipe.load import in_todays_words, recipe_from_text
from xreal_synth.storage import Store

LISTED: Final = 20

State = Literal["complete", "partial", "unknown"]


@dataclass(frozen=True, slots=True)
class FailedShard:
    """A shard in quarantine, with its reason."""

    shard: str
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """`asked` groups, None where nobody told; `planned` shards of them. `failed` lists the first LISTED of
    `quarantined`; `unmade` shards have no record for another reason."""

    state: State
    asked: int | None
    planned: int | None
    quarantined: int
    failed: tuple[FailedShard, ...]
    unmade: int

    @property
    def words(self) -> str:
        """The state as the page's headline says it."""
        return "as far as made" if self.state == "unknown" else self.state


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
    failed = tuple(_failed(store, head, shard) for shard in quarantined[:LISTED])
    state: State = "unknown"
    if quarantined or unmade or (sure and asked is not None and covered < asked):
        state = "partial"
    elif asked == covered:
        state = "complete"
    reported = asked if sure or state == "complete" else None
    return Status(state, reported, planned, len(quarantined), failed, unmade)


def _failed(store: Store, head: DatasetHead, shard: int) -> FailedShard:
    key = quarantine_key(stem_of(head.name, shard))
    try:
        reason = str(unsealed(store.read_bytes(key), key).get("reason", ""))
    except (DatasetError, StorageError) as error:
        reason = error.found
    return FailedShard(stem_of(head.name, shard), reason)


def _in_recipe(text: str) -> int | None:
    try:
        return recipe_from_text(in_todays_words(text)).anatomies
    except RecipeError:
        return None
