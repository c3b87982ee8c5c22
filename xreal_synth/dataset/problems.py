"""One thing that is wrong with a dataset."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VerifyProblem:
    """`path` is the file, `shard` the shard to make again, None where that would not fix it."""

    path: str
    found: str
    shard: int | None

    def __str__(self) -> str:
        return f"{self.path}: {self.found}"
