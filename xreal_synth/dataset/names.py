"""Names of a dataset's files, of its samples and of a sample's members.

A key is `{group:010d}-{member}`; members are `h` (healthy twin), `v0`, `v1`.. (variants), `s0`.. (shams).
A shard's stem is `{dataset}-{shard:06d}`. Both grow by digits, never by leading zeros.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from xreal_synth.errors import DatasetError
from xreal_synth.storage import Store

DATASET: Final = "dataset.json"
RECIPE: Final = "recipe.yaml"
SAMPLES: Final = "samples.parquet"
REJECTED: Final = "rejected.parquet"
INDEX: Final = "index.json"
EXCLUDED: Final = "excluded.csv"
SHEET: Final = "contact_sheet.png"
CARD: Final = "README.md"
REPORT: Final = "report.html"
LEAK: Final = "leak.json"
PROGRESS: Final = "progress.json"
EVALUATION: Final = "evaluation.json"
EVALUATION_TABLE: Final = "evaluation.md"

SHARDS: Final = "shards"
TABLES: Final = "tables"
RECORDS: Final = "records"
QUARANTINE: Final = "quarantine"
LOGS: Final = "logs"
FOLDERS: Final = (SHARDS, TABLES, RECORDS, QUARANTINE)
"""Where a shard's files lie."""

IMAGE: Final = "png"
META: Final = "json"
ANATOMY: Final = "anatomy.png"
PATHOLOGY: Final = "pathology.png"
CHANGE: Final = "change.png"
SUFFIXES: Final = (IMAGE, META, ANATOMY, PATHOLOGY, CHANGE)

HUB_SPLITS: Final = {"train": "train", "val": "validation", "test": "test"}
"""A dataset's split -> its name in files for the Hugging Face Hub."""

_KEY = re.compile(r"([0-9]{10}|[1-9][0-9]{10,17})-(h|[vs](?:0|[1-9][0-9]{0,5}))")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_STEM = re.compile(r"(.+)-([0-9]{6}|[1-9][0-9]{6,17})")


class Key(NamedTuple):
    """A sample's key, taken apart."""

    group: int
    member: str


class Stem(NamedTuple):
    """A shard's stem, taken apart."""

    name: str
    shard: int


def is_key(text: str) -> bool:
    """Whether the text is a sample's key, as `0000000042-v0`."""
    return _KEY.fullmatch(text) is not None


def is_tar_key(text: str) -> bool:
    """Whether it is a name that `tar_key` gives."""
    stem = owner(text)
    return text.startswith(f"{SHARDS}/") and stem is not None and is_name(stem.name)


def is_name(text: str) -> bool:
    """Whether a dataset may be called so."""
    return _NAME.fullmatch(text) is not None


def parse_key(text: str, where: str = "") -> Key:
    """Group and member of a key; raises DatasetError for anything else."""
    match = _KEY.fullmatch(text)
    if match is None:
        raise DatasetError(
            where=where, found=f"{text!r} is not a sample key",
            wanted="ten digits, a dash, then h, v0, v1.. or s0, s1.. (0000000042-v0)",
        )  # fmt: skip
    return Key(int(match[1]), match[2])


def stem_of(name: str, shard: int) -> str:
    """A shard's files without their endings: `NAME-000042` of NAME and 42."""
    return f"{name}-{shard:06d}"


def parse_stem(text: str) -> Stem | None:
    """Dataset and shard number of a stem, None for anything else."""
    match = _STEM.fullmatch(text)
    return Stem(match[1], int(match[2])) if match else None


def tar_key(stem: str) -> str:
    """Where the shard's images lie."""
    return f"{SHARDS}/{stem}.tar"


def table_key(stem: str) -> str:
    """Where the shard's table of samples lies."""
    return f"{TABLES}/{stem}.parquet"


def rejects_key(stem: str) -> str:
    """Where the shard's table of refused attempts lies."""
    return f"{TABLES}/{stem}.rejected.parquet"


def record_key(stem: str) -> str:
    """Where the shard's record lies, which makes it done."""
    return f"{RECORDS}/{stem}.json"


def quarantine_key(stem: str) -> str:
    """Where the reason lies for which the shard was given up."""
    return f"{QUARANTINE}/{stem}.json"


_GAPS: Final = 100
_REJECTS: Final = ".rejected.parquet"
_ENDINGS: Final = {SHARDS: ".tar", TABLES: ".parquet", RECORDS: ".json", QUARANTINE: ".json"}


def shards_in(store: Store, folder: str, name: str) -> list[int]:
    """Numbers, ascending, of the shards of dataset `name` that have a file in this folder.

    Reject tables and foreign files are passed over.
    """
    return sorted(shards_among(store.list(folder), name))


def shards_among(keys: Iterable[str], name: str) -> Iterator[int]:
    """As `shards_in`, of keys already listed, in their order."""
    for key in keys:
        stem = owner(key)
        if stem is not None and stem.name == name and not key.endswith(_REJECTS):
            yield stem.shard


def owner(key: str) -> Stem | None:
    """Dataset and shard of a file in one of a dataset's folders; None for one that no shard writes."""
    folder, _, file = key.partition("/")
    ending = _REJECTS if folder == TABLES and file.endswith(_REJECTS) else _ENDINGS.get(folder, "/")
    return parse_stem(file.removesuffix(ending)) if file.endswith(ending) else None


def numbers_up_to(present: Iterable[int], where: str) -> range:
    """Shard numbers from 0 to the largest of those present; raises DatasetError where nearly all would be missing."""
    known = set(present)
    last = max(known, default=-1)
    if last >= _GAPS * (len(known) + 1000):
        raise DatasetError(
            where=where, found=f"a file of shard {last}, and files of {len(known)} shards in all",
            wanted="a dataset's shards", hint=f"take the files of shard {last} out of the folder",
        )  # fmt: skip
    return range(last + 1)
