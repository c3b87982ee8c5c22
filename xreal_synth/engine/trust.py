"""Which actors' devices can be trusted. Pure bookkeeping, without Ray.

An actor that fails two shards in a row rests while others live that could make them: if one of them makes a shard that
it failed, its device is at fault and it is retired; where they fail too, the shard is. An actor whose canary image is
not that of most actors with its fingerprint computes otherwise than they do, and is retired too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

RESTS_AFTER: Final = 2
DATASET: Final = "dataset.json"
"""The voter for the canary that was recorded when the dataset was begun."""

_Kind = tuple[tuple[str, str], ...]


class Trust:
    """What is known of the actors of one run, by their names."""

    def __init__(self) -> None:
        self._strikes: dict[str, set[int]] = {}
        self._canaries: dict[_Kind, dict[str, list[str]]] = {}

    def strikes(self, actor: str) -> int:
        """Shards that it has failed since it last made one, and that are not known to be at fault."""
        return len(self._strikes.get(actor, ()))

    def rests(self, actor: str) -> bool:
        """Whether it has failed so many in a row that others should have them first."""
        return self.strikes(actor) >= RESTS_AFTER

    def witnesses(self, actor: str, actors: Iterable[str]) -> list[str]:
        """Of these, those that are to be trusted more; none for an actor that has failed nothing."""
        limit = min(self.strikes(actor), RESTS_AFTER)
        return [one for one in actors if self.strikes(one) < limit] if limit else []

    def failed(self, actor: str, shard: int) -> None:
        self._strikes.setdefault(actor, set()).add(shard)

    def given_up(self, shard: int, actors: Iterable[str]) -> None:
        """The shard was at fault."""
        for actor in actors:
            self._strikes.get(actor, set()).discard(shard)

    def made(self, shard: int, actor: str, failed_on: Iterable[str]) -> dict[str, set[int]]:
        """An actor has made what others had failed; those of them that are to be retired, with what they failed."""
        self._strikes.pop(actor, None)
        guilty = [one for one in failed_on if one != actor and self.rests(one)]
        return {one: self._strikes.pop(one) for one in guilty}

    def shows(self, actor: str, fingerprint: Mapping[str, str], canary: str) -> None:
        """Notes an actor's canary image, by its hash; without one nothing is known."""
        if canary:
            kinds = self._canaries.setdefault(tuple(sorted(fingerprint.items())), {})
            kinds.setdefault(canary, []).append(actor)

    @property
    def odd(self) -> set[str]:
        """The actors whose canary is another than that of most with their fingerprint; of as many, than the first."""
        found: set[str] = set()
        for canaries in self._canaries.values():
            trusted = max(canaries, key=lambda canary: len(canaries[canary]))
            found.update(one for canary, actors in canaries.items() if canary != trusted for one in actors)
        return found
