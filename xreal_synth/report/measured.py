"""What others have measured on a dataset and left in its folder: leak.json and evaluation.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pydantic import TypeAdapter, ValidationError

from xreal_synth.errors import StorageError
from xreal_synth.shards.names import EVALUATION
from xreal_synth.storage import Store

LEAK: Final = "leak.json"


@dataclass(frozen=True, slots=True)
class Leak:
    """AUC of telling sham-edited from unedited films, its 95% interval, and over how many films."""

    auc: float
    low: float
    high: float
    n: int

    @property
    def by_chance(self) -> bool:
        return self.low <= 0.5 <= self.high


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """A figure of the dataset (of one finding's films, or of all) with its interval, beside what real films reach.

    None where there is none.
    """

    name: str
    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    real: float | str | None = None
    finding: str | None = None


@dataclass(frozen=True, slots=True)
class _Rows:
    rows: tuple[EvaluationRow, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found; `problems` names files that are there but cannot be read."""

    leak: Leak | None
    evaluation: tuple[EvaluationRow, ...]
    problems: tuple[str, ...]


def measured(store: Store) -> Measured:
    """Reads both files; either may be missing."""
    problems: list[str] = []
    leak = _read(store, LEAK, Leak, problems)
    rows = _read(store, EVALUATION, _Rows, problems)
    return Measured(
        leak if isinstance(leak, Leak) else None,
        rows.rows if isinstance(rows, _Rows) else (),
        tuple(problems),
    )


@lru_cache(maxsize=2)
def _adapter(kind: type) -> TypeAdapter[object]:
    return TypeAdapter(kind)


def _read(store: Store, name: str, kind: type, problems: list[str]) -> object:
    if not store.exists(name):
        return None
    try:
        content = json.loads(store.read_bytes(name))
        return _adapter(kind).validate_python({"rows": content} if isinstance(content, list) else content)
    except (ValueError, ValidationError, StorageError) as error:
        problems.append(f"{name} cannot be read: {_first_line(error)}")
        return None


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).split("\n")[0]
