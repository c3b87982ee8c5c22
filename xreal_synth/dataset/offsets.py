"""Single samples out of a tar: where each begins, and one read and checked by itself.

A sample's members lie side by side, so one range of bytes holds them with their headers.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xreal_synth.dataset.names import SUFFIXES
from xreal_synth.dataset.source import Source, shard_table, without_excluded
from xreal_synth.dataset.tar import content_sha256, raw_samples
from xreal_synth.errors import DatasetError
from xreal_synth.opening import UnreadableError, open_tar
from xreal_synth.storage import Store, local_copy, open_store

Offsets = npt.NDArray[np.int64]


def sample_offsets(path: Path, where: str, keys: tuple[str, ...]) -> Offsets:
    """int64 [n + 1]: sample i's members are the bytes [offsets[i], offsets[i + 1]) of the tar.

    Reads headers alone. Raises DatasetError unless the tar's members are exactly those of `keys`, in order.
    """
    wanted = [f"{key}.{suffix}" for key in keys for suffix in SUFFIXES]
    starts, end = [], 0
    try:
        with open_tar(path) as tar:
            for position, name in enumerate(wanted):
                member = tar.next()
                if member is None or member.name != name or not member.isreg():
                    found = "the tar's end" if member is None else f"member {member.name[:120]!r}"
                    raise DatasetError(where=where, found=found, wanted=f"{name!r} at this place")
                if position % len(SUFFIXES) == 0:
                    starts.append(member.offset)
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has read
            if tar.next() is not None:
                raise DatasetError(where=where, found="more members than its table has rows")
    except (tarfile.TarError, OSError, EOFError, UnreadableError) as error:
        raise DatasetError(where=where, found=f"cannot be read as a tar ({error})") from error
    return np.array([*starts, end], dtype=np.int64)


def sample_members(data: bytes, key: str, sha256: str, where: str) -> dict[str, bytes]:
    """Suffix -> content of the one sample in this range of a tar.

    Raises DatasetError unless it is `key` and its content has the hash that its row of the table names.
    """
    size = len(data) + 2 * tarfile.BLOCKSIZE
    ended = data + bytes(-(-size // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - len(data))
    found = list(raw_samples(ended, where))
    if [name for name, _ in found] != [key]:
        names = ", ".join(name for name, _ in found) or "nothing"
        raise DatasetError(where=where, found=names, wanted=key, hint="run xreal-synth verify")
    ((_, members),) = found
    if content_sha256(members.values()) != sha256:
        raise DatasetError(
            where=f"{where}:{key}", found="its bytes are not those its table's row names",
            hint="run xreal-synth verify, then restore or make the shard again",
        )  # fmt: skip
    return members


class SampleReader:
    """Single samples of a dataset by tar and key.

    Nothing is opened before the first, and no file stays open; each process opens the store for itself, so that it
    may be pickled and forked.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._store: Store | None = None
        self._opened_by = 0
        self._rows: dict[str, dict[str, tuple[int, str]]] = {}
        self._offsets: dict[str, Offsets] = {}

    def add(self, tar: str, table: Any) -> None:
        """Makes a tar known, by its table: key and sha256 of each of its samples, in order."""
        rows = zip(table.column("key").to_pylist(), table.column("sha256").to_pylist(), strict=True)
        self._rows[tar] = {key: (place, sha256) for place, (key, sha256) in enumerate(rows)}

    def has(self, tar: str, key: str) -> bool:
        """Whether the tar holds a sample of this key."""
        return key in self._rows[tar]

    def members(self, tar: str, key: str) -> dict[str, bytes]:
        """Suffix -> content. Raises DatasetError where the bytes are not those that the sample's row names."""
        place, sha256 = self._rows[tar][key]
        if self._store is None or self._opened_by != os.getpid():
            self._store, self._opened_by = open_store(self._uri), os.getpid()
        offsets = self._offsets.get(tar)
        if offsets is None:
            with local_copy(self._store, tar) as path:
                offsets = self._offsets[tar] = sample_offsets(path, tar, tuple(self._rows[tar]))
        data = self._store.read_range(tar, *map(int, offsets[place : place + 2]))
        return sample_members(data, key, sha256, tar)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None}


def open_samples(source: Source) -> tuple[SampleReader, list[Any]]:
    """A reader of the dataset's images, and the table of each sound shard without the excluded ones.

    Shards that are not sound are in `source.skipped`.
    """
    reader, tables = SampleReader(source.store.uri), []
    for record in source.records:
        table = shard_table(source, record)
        if table is not None:
            reader.add(record.tar.path, table)
            tables.append(without_excluded(source, table))
    return reader, tables
