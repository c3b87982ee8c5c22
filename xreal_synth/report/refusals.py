"""Refusals and their reasons: counted from rejected.parquet, batch by batch."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xreal_synth.opening import open_parquet

_BATCH: Final = 16_384
_KINDS: Final = 2048
_LISTED: Final = 12
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?%?")
OTHERS: Final = "other reasons"


@dataclass(frozen=True, slots=True)
class Reason:
    """Refused attempts of one kind: numbers in reasons are left out, `example` has those of the first."""

    words: str
    attempts: int
    example: str


@dataclass(frozen=True, slots=True)
class Refusals:
    """Refused attempts and dropped groups by the recipe's findings row, and the most frequent reasons."""

    attempts: dict[int, int]
    dropped: dict[int, int]
    reasons: tuple[Reason, ...]


def refusals(path: Path) -> Refusals:
    """Reads rejected.parquet once."""
    attempts: Counter[int] = Counter()
    dropped: Counter[int] = Counter()
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    with open_parquet(path) as file:
        for batch in file.iter_batches(_BATCH, columns=["row", "reason", "dropped"], use_threads=False):
            rows = batch.column("row").to_numpy()
            attempts.update(rows.tolist())
            dropped.update(rows[batch.column("dropped").to_numpy(zero_copy_only=False)].tolist())
            for entry in batch.column("reason").value_counts().to_pylist():
                words = _NUMBER.sub("#", entry["values"])
                words = words if words in examples or len(examples) < _KINDS else OTHERS
                reasons[words] += entry["counts"]
                examples.setdefault(words, entry["values"])
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    reported = [Reason(words, count, examples[words]) for words, count in ranked[:_LISTED]]
    if rest := sum(count for _, count in ranked[_LISTED:]):
        reported.append(Reason(OTHERS, rest, ranked[_LISTED][0]))
    return Refusals(dict(sorted(attempts.items())), dict(sorted(dropped.items())), tuple(reported))
