"""The driver in every order of events of two actors and three shards."""

from __future__ import annotations

import pytest

from tests.scale.explored import Explored, Troubles, explore
from xreal_synth.engine.schedule import ShardSchedule

KILLER = frozenset({1})
KILLER_AND_MORE = Troubles(killers=KILLER, deaths=1)


@pytest.mark.parametrize(
    ("troubles", "most_ended"),
    [
        (Troubles(), 0),
        (Troubles(deaths=1), 1),
        (Troubles(others=1), 0),
        (Troubles(refusals=1), 0),
        (Troubles(killers=KILLER), 5),
        (KILLER_AND_MORE, 6),
        (Troubles(killers=frozenset({0, 2})), 15),
        (Troubles(poison=frozenset({1})), 0),
        (Troubles(sick=True, poison=frozenset({1})), 0),
        (Troubles(sick=True, deaths=1), 1),
        (Troubles(stop=True), 0),
        (Troubles(stop=True, deaths=1), 1),
        (Troubles(stop=True, killers=KILLER), 5),
    ],
    ids=str,
)
def test_all_that_can_be_made_is_made(troubles: Troubles, most_ended: int) -> None:
    """Or all that was begun, where the run is asked to stop. No shard but a bad one is given up, and few actors are
    lost to those that end them; where most shards do, the run gives up instead."""
    found = explore(2, 3, troubles)
    assert found.states > 100
    assert found.ends > 1
    assert found.most_ended <= most_ended


def test_one_actor_has_few_ways() -> None:
    assert explore(1, 1, Troubles()) == Explored(states=4, ends=1, most_ended=0)


def test_a_fault_of_the_driver_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that ends its actors, given to the next one at once, ends so many that the run gives up on others."""
    monkeypatch.setattr(ShardSchedule, "_waits", lambda schedule, failures: False)
    with pytest.raises(AssertionError, match="not made"):
        explore(2, 3, KILLER_AND_MORE)
