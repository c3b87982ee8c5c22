"""The split that each group has now.

A recipe's split may change after its shards are written: samples.parquet has the present one, a shard's own
table that of its writing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from xreal_synth.dataset.check import file_problems
from xreal_synth.dataset.names import INDEX, SAMPLES
from xreal_synth.dataset.table import with_splits
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.opening import UnreadableError, open_parquet, parse_json
from xreal_synth.storage import Store, local_copy
from xreal_synth.types import FileStamp, Split

SPLITS: tuple[str, ...] = get_args(Split)


@dataclass(frozen=True, slots=True, eq=False)
class SplitOf:
    """Splits by group, in 9 bytes a group: `groups` int64 ascending, `codes` uint8 places in SPLITS."""

    groups: npt.NDArray[np.int64]
    places: npt.NDArray[np.uint8]

    def applied(self, table: Any) -> Any:
        """The table with its `split` column as it is now; groups not known here keep theirs."""
        if not len(self.groups):
            return table
        asked = table.column("group").to_numpy()
        place = np.searchsorted(self.groups, asked).clip(0, len(self.groups) - 1)
        own = table.column("split").to_pylist()
        known = self.groups[place] == asked
        names = [
            SPLITS[code] if there else old for code, there, old in zip(self.places[place], known, own, strict=True)
        ]
        return with_splits(table, names)


def splits_of(store: Store) -> SplitOf:
    """What samples.parquet says, or nothing where the dataset was not finished.

    Raises DatasetError if samples.parquet is not the file that index.json names.
    """
    none = SplitOf(np.empty(0, np.int64), np.empty(0, np.uint8))
    if not store.exists(INDEX) or not store.exists(SAMPLES):
        return none
    stamp = samples_stamp(store)
    if problems := file_problems(store, stamp):
        raise _stale(store, problems[0])
    groups, places = [none.groups], [none.places]
    try:
        with local_copy(store, SAMPLES) as path, open_parquet(path) as file:
            for batch in file.iter_batches(batch_size=65_536, columns=["group", "split"], use_threads=False):
                found = batch.column("group").to_numpy()
                new = np.diff(found, prepend=-1) != 0
                split = batch.column("split").to_numpy(zero_copy_only=False)
                groups.append(found[new])
                places.append(np.array([SPLITS.index(name) for name in split[new]], np.uint8))
    except (OSError, UnreadableError) as error:
        raise _stale(store, f"cannot be read ({error})") from error
    joined, first = np.unique(np.concatenate(groups), return_index=True)
    return SplitOf(joined, np.concatenate(places)[first])


def samples_stamp(store: Store) -> FileStamp:
    """What index.json names samples.parquet as; raises DatasetError where it does not."""
    try:
        files = parse_json(store.read_bytes(INDEX))["files"]
        (entry,) = (entry for entry in files if entry["path"] == SAMPLES)
        return FileStamp(**entry)
    except (ValueError, KeyError, TypeError, StorageError) as error:
        raise _stale(store, f"no {INDEX} that names it") from error


def _stale(store: Store, found: str) -> DatasetError:
    return DatasetError(
        where=f"{store.uri}/{SAMPLES}", found=found,
        wanted="the file that index.json names, which holds each image's split",
        hint="run xreal-synth report to build it again",
    )  # fmt: skip
