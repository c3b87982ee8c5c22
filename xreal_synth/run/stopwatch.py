"""A thread's wall seconds, by name of what they went to."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

T = TypeVar("T")

MODEL: Final = "model_s"
"""In `Backend.render`: the sampler with its networks."""
GATE: Final = "gate_s"
"""In `Gate.judge`: the gate with its networks."""
WAIT: Final = "wait_s"
"""Where the model's thread waits for what plans or for what encodes."""
MAKE: Final = "make_s"
"""A shard from its beginning to its last image's verdict: the three above, and what else the model's thread does. The
tar is ended and published while the next shard is begun."""


class Stopwatch:
    """Adds up the seconds that one thread spends under each name. Names nest: seconds count under the innermost."""

    def __init__(self) -> None:
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Wall seconds by name so far, a copy."""
        return dict(self._spent)

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

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items; what each takes to come counts under the name, what is done with them does not."""
        source = iter(items)
        while True:
            with self.within(name):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item

    def _turn(self) -> None:
        now = time.monotonic()
        if self._open:
            self._spent[self._open[-1]] += now - self._since
        self._since = now
