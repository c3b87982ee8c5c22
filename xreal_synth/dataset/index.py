"""index.json: the dataset's files, then a line per shard, then the totals; and the split that each group has now.

It has a line for each shard, so that neither writer nor reader needs to hold all of it. A recipe's split may change
after its shards are written: samples.parquet has the present one, a shard's own table that of its writing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, get_args

import numpy as np
import numpy.typing as npt

from xreal_synth.dataset.check import file_problems
from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import INDEX, SAMPLES
from xreal_synth.dataset.record import Tally
from xreal_synth.dataset.table import with_splits
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.opening import UnreadableError, open_parquet, parse_json
from xreal_synth.storage import Store, local_copy
from xreal_synth.types import FileStamp, ShardRecord, Split

_SHARDS: Final = '\n"shards": ['
_CHUNK: Final = 1 << 20
SPLITS: tuple[str, ...] = get_args(Split)


class IndexWriter:
    """Takes the shards' records one at a time, in order, and then writes the index: the same bytes each time.

    The lines wait in the temporary file `lines`, `tally` has counted the records. Where a gate was, the lines have
    what it refused and the totals what it did.
    """

    def __init__(self, lines: Path) -> None:
        self._path = lines
        self._lines: IO[str] = lines.open("w", encoding="utf-8", newline="\n")
        self._separator = "\n"
        self.tally = Tally()

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def add(self, record: ShardRecord) -> None:
        """Writes a shard's line and adds it to the totals."""
        self.tally.count(record)
        self._lines.write(self._separator + json.dumps(_line(record)))
        self._separator = ",\n"

    def write(self, out: Path, head: DatasetHead, files: list[FileStamp], asked: int | None) -> None:
        """The whole index; `asked` is the number of groups that the recipe asks for, where that is known."""
        self._lines.flush()
        first: dict[str, object] = {"format_version": head.format_version, "name": head.name, "digest": head.digest}
        if asked is not None:
            first["asked"] = {"groups": asked}
        counted = self.tally.summary()
        totals: dict[str, object] = {name: getattr(counted, name) for name in ("samples", "groups", "bytes")}
        if counted.gate is not None:
            totals["gate"] = asdict(counted.gate)
        with (
            out.open("w", encoding="utf-8", newline="\n") as file,
            self._path.open("r", encoding="utf-8", newline="\n") as lines,
        ):
            _write_fields(file, "{", first)
            file.write(f',\n"files": {json.dumps([asdict(entry) for entry in files])},{_SHARDS}')
            while text := lines.read(_CHUNK):
                file.write(text)
            _write_fields(file, "\n],", totals)
            file.write("\n}\n")


def index_start(store: Store) -> dict[str, Any]:
    """What the index says before its shards; reads no further than it must.

    Raises StorageError, OSError, ValueError.
    """
    data, mark = b"", _SHARDS.encode()
    for chunk in store.chunks(INDEX):
        seen = max(len(data) - len(mark), 0)
        data += chunk
        if (end := data.find(mark, seen)) >= 0:
            data = data[:end].removesuffix(b",") + b"\n}"
            break
    fields = parse_json(data)
    if not isinstance(fields, dict):
        raise ValueError(f"{INDEX} holds no object")
    return fields


def asked_groups(store: Store) -> int | None:
    """The groups that the last finished run asked for, as index.json tells; None where it does not."""
    try:
        reported = index_start(store).get("asked")
    except (ValueError, StorageError, OSError):
        return None
    groups = reported.get("groups") if isinstance(reported, dict) else None
    return groups if isinstance(groups, int) and groups > 0 else None


def names_shards(store: Store) -> bool:
    """Whether index.json names shards; False where it cannot be read."""
    try:
        return bool(parse_json(store.read_bytes(INDEX))["shards"])
    except (ValueError, StorageError, OSError, KeyError, TypeError):
        return False


def _write_fields(file: IO[str], lead: str, fields: dict[str, object]) -> None:
    file.write(lead + ",".join(f"\n{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()))


def _line(record: ShardRecord) -> dict[str, object]:
    line: dict[str, object] = {
        "shard": record.shard, "path": record.tar.path, "samples": record.samples, "groups": record.groups,
        "start": record.start, "stop": record.stop, "bytes": record.tar.bytes, "sha256": record.tar.sha256,
    }  # fmt: skip
    if record.gate is not None:
        line |= {"rejected": record.rejected, "dropped": record.dropped}
    return line


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
