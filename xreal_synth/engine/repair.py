"""What a dataset lacks, and what is done about each shard: nothing else is touched.

The recipe is the dataset's own: the settings in dataset.json, the rest from its recipe.yaml. Every shard is looked
at down to each sample. A shard whose tar is whole gets its table and record back from it, without the models; any
other that is missing or broken is made again. Shards in quarantine are left unless they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.index import asked_groups
from xreal_synth.dataset.names import RECIPE, RECORDS, quarantine_key, shards_in, stem_of
from xreal_synth.dataset.record import read_record
from xreal_synth.dataset.status import read_note
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.ledger import adopt, adoptable
from xreal_synth.engine.progress import RunSummary
from xreal_synth.engine.publish import intact
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.run.reopen import kept_split, recipe_text, reopen, setting
from xreal_synth.run.setup import Run
from xreal_synth.storage import Store
from xreal_synth.types import ShardRecord

What = Literal["adopt", "make", "extend", "leave"]

WORDS: dict[What, str] = {
    "adopt": "its tar is whole: table and record are written from it",
    "make": "made again",
    "extend": "made again with the groups that the recipe has gained",
    "leave": "left in quarantine; --quarantined makes it again",
}


@dataclass(frozen=True, slots=True)
class RepairAction:
    """What is done about a shard, and what is wrong with it."""

    shard: int
    what: What
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """`actions` by shard; `ends` are problems of the files written at the end, which are written anew; `others` are
    files that no shard owns, about which nothing is done."""

    shards: int
    actions: tuple[RepairAction, ...]
    ends: tuple[str, ...]
    others: tuple[str, ...]

    def shards_to(self, *whats: What) -> tuple[int, ...]:
        return tuple(action.shard for action in self.actions if action.what in whats)

    @property
    def empty(self) -> bool:
        """Nothing is to be done."""
        return not self.ends and not self.shards_to("adopt", "make", "extend")

    @property
    def whole(self) -> bool:
        """Nothing is wrong."""
        return not self.actions and not self.ends and not self.others


def open_for_repair(
    store: Store, head: DatasetHead, *, anatomies: int | None, bundle: str | None, images: str | None
) -> Run:
    """The run that made the dataset, with its own groups or more.

    Without `anatomies` the groups are those that the last run asked for, as progress.json, index.json or
    recipe.yaml tell, in this order. Raises DatasetError if none does, or if the split is not known.
    """
    text = recipe_text(store)
    asked = anatomies or _asked(store, text)
    split = kept_split(text)
    there = _groups_there(store, head)
    if asked is None or split is None:
        raise DatasetError(
            where=store.uri,
            found=f"no readable {RECIPE} here",
            wanted="the recipe as it was kept: it says how many groups there are and how they are split",
            hint=f"put it back as {RECIPE}: that it is the right one is checked",
        )
    if anatomies is not None and anatomies < there:
        raise DatasetError(
            where=store.uri, found=f"{there} groups here", wanted=f"at most --anatomies {anatomies}",
            hint=f"give --anatomies {there} or more: repair takes nothing away",
        )  # fmt: skip
    return reopen(store, head, anatomies=max(asked, there), bundle=bundle, images=images, split=split)


def plan_repair(
    run: Run, store: Store, head: DatasetHead, *, quarantined: bool = False,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> RepairPlan:  # fmt: skip
    """Looks at everything and writes nothing. Raises DatasetError if dataset.json cannot be read."""
    plans = [run.plan.shard(shard) for shard in range(run.plan.shard_count)]
    report = verify(store, deep=True, expected=plans, on_shard=on_shard)
    reported: dict[int, list[str]] = {shard: [] for shard in report.broken_shards}
    ends, others = [], []
    for problem in report.problems:
        if problem.shard is not None:
            reported[problem.shard].append(str(problem))
        elif "/" in problem.path:
            others.append(str(problem))
        else:
            ends.append(str(problem))
    actions = tuple(
        RepairAction(shard, _what(run, store, head, shard, quarantined), tuple(wrong))
        for shard, wrong in sorted(reported.items())
    )
    return RepairPlan(len(plans), actions, tuple(ends), tuple(others))


def carry_out(
    run: Run, store: Store, head: DatasetHead, plan: RepairPlan,
    generate: Callable[[frozenset[int], dict[int, str]], RunSummary],
) -> RunSummary:  # fmt: skip
    """Adopts what is whole, then `generate(again, leave)` makes the rest and writes the files at the end.

    Being broken off at any time costs nothing but time: the same command goes on.
    """
    failed = [
        shard
        for shard in plan.shards_to("adopt")
        if adopt(run, store, run.plan.shard(shard), head.fingerprint, replacing=True) is None
    ]
    again = frozenset((*plan.shards_to("make", "extend"), *failed))
    return generate(again, dict.fromkeys(plan.shards_to("leave"), WORDS["leave"]))


def _what(run: Run, store: Store, head: DatasetHead, shard: int, quarantined: bool) -> What:
    stem = stem_of(head.name, shard)
    plan = run.plan.shard(shard)
    record = _readable(store, stem)
    if record is None and store.exists(quarantine_key(stem)) and not quarantined:
        return "leave"
    if record is not None and record.start == plan.start and record.stop < plan.stop:
        return "extend"
    if record is not None and not intact(store, record.tar):
        return "make"
    return "adopt" if adoptable(run, store, plan) else "make"


def _asked(store: Store, text: str) -> int | None:
    note = read_note(store)
    told = (note.groups if note else None, asked_groups(store), setting(text, "anatomies"))
    return next((groups for groups in told if isinstance(groups, int) and groups > 0), None)


def _groups_there(store: Store, head: DatasetHead) -> int:
    records = (_readable(store, stem_of(head.name, shard)) for shard in reversed(shards_in(store, RECORDS, head.name)))
    return next((record.stop for record in records if record is not None), 0)


def _readable(store: Store, stem: str) -> ShardRecord | None:
    """The shard's record; None where there is none, or a damaged one."""
    try:
        return read_record(store, stem)
    except (DatasetError, StorageError):
        return None
