"""A thread's wall seconds, by name of what they went to."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MODEL: Final = "model_s"
"""In a `Renderer`: the sampler with its networks."""
GATE: Final = "gate_s"
"""Where the model's thread waits for the gate, which judges beside it."""
WAIT: Final = "wait_s"
"""Where the model's thread waits for what plans or for what encodes."""
OTHER: Final = "other_s"
"""What else the model's thread does."""
MAKE: Final = "make_s"
"""Of a shard, the four above together. A micro-batch's seconds are divided over the shards in it, by
their groups."""


class Stopwatch:
    """Adds up the seconds that one thread spends under each name. Names nest: seconds count under the innermost."""

    def __init__(self) -> None:
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    def lap(self) -> dict[str, float]:
        """Wall seconds by name since the last lap."""
        self._turn()
        spent, self._spent = self._spent, defaultdict(float)
        return dict(spent)

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """What its body takes counts under the name, also when it raises."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        now = time.monotonic()
        if self._open:
            self._spent[self._open[-1]] += now - self._since
        self._since = now
