"""Sick cards: whose fault a failure is, and whose canary image is the odd one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xreal_synth.dataset.names import DATASET
from xreal_synth.engine.backend import Networks
from xreal_synth.engine.schedule import Limits, ShardSchedule, Trust
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import Run

ALL = ("sick", "well")


def test_an_actor_rests_after_two_failures_in_a_row_and_is_retired_when_another_makes_one_of_them() -> None:
    schedule = ShardSchedule(range(6), Limits())
    for wanted in (0, 1):
        assert schedule.take("sick", ALL) == wanted
        assert schedule.failed(wanted, "sick", "error", "boom")
    assert schedule.take("sick", ALL) is None, "it rests"
    assert schedule.take("sick", ("sick",)) == 2, "but where nobody else lives"
    assert schedule.failed(2, "sick", "error", "boom")
    assert schedule.take("well", ALL) == 2, "what a resting actor failed last comes first: it tells"
    assert schedule.done(2, "well") == ["sick"]
    assert [schedule.tries(shard) for shard in (0, 1)] == [0, 0], "its failures are not held against the shards"


def test_an_actor_that_has_failed_is_no_witness_of_what_others_failed() -> None:
    schedule = ShardSchedule([0, 1], Limits())
    assert schedule.take("a") == 0
    schedule.failed(0, "a", "error", "boom")
    assert schedule.take("sick") == 1
    schedule.failed(1, "sick", "error", "boom")
    actors = ("a", "sick", "well")
    assert schedule.take("sick", actors) is None
    assert schedule.take("well", actors) == 0
    schedule.failed(0, "well", "error", "boom")
    assert schedule.take("sick", actors) == 0, "nobody is better placed now"


def test_a_shard_that_fails_everywhere_is_at_fault_and_not_its_actors() -> None:
    schedule = ShardSchedule([0, 1, 2], Limits())
    for actor in "abc":
        assert schedule.take(actor) == 0 if actor == "a" else True
        again = schedule.failed(0, actor, "error", "boom")
    assert not again
    assert [schedule.trust.strikes(actor) for actor in "abc"] == [0, 0, 0]


def test_making_a_shard_ends_a_row_of_failures() -> None:
    schedule = ShardSchedule(range(4), Limits())
    schedule.failed(schedule.take("a"), "a", "error", "boom")  # type: ignore[arg-type]
    assert schedule.done(schedule.take("a"), "a") == []  # type: ignore[arg-type]
    schedule.failed(schedule.take("a"), "a", "error", "boom")  # type: ignore[arg-type]
    assert not schedule.trust.rests("a")


def test_numbers_that_are_not_finite_are_the_shard_s_fault_when_a_second_actor_agrees() -> None:
    schedule = ShardSchedule([0, 1], Limits())
    assert schedule.failed(0, "a", "overflow", "the numbers overflow")
    assert schedule.tries(0) == 1
    assert not schedule.failed(0, "b", "overflow", "the numbers overflow")
    assert schedule.given_up == {0: "the numbers overflow"}
    assert schedule.failed(1, "a", "overflow", "the numbers overflow")
    assert schedule.failed(1, "b", "error", "something else"), "which is no agreement"


def test_the_odd_canary_is_the_one_that_fewer_actors_show() -> None:
    here, there = {"device": "H200"}, {"device": "H100"}
    trust = Trust()
    trust.shows(DATASET, here, "x")
    trust.shows("a", here, "x")
    trust.shows("b", here, "y")
    trust.shows("c", there, "z")
    trust.shows("cpu", {"device": "cpu"}, "")
    assert trust.odd == {"b"}, "another environment may make another image"
    for late in ("d", "e"):
        trust.shows(late, here, "y")
    assert trust.odd == {DATASET, "a"}, "the first of them was the sick one"


def test_the_canary_is_the_same_on_devices_that_compute_alike_and_another_where_one_weight_is_not(
    open_fault_run: Callable[..., Run],
) -> None:
    run = open_fault_run()
    shape = actor_shape(run.recipe.compute, Resources(1, 0))
    well, also, sick = (Networks().open(run, shape) for _ in range(3))
    assert well.canary == "", "on a CPU none is made"
    assert well.draw_canary() == also.draw_canary()
    assert well.is_sound()
    network: Any = sick.model
    next(network._vae.decoder.parameters()).flatten()[0] += 2.0
    assert sick.draw_canary() != well.draw_canary()
    network._embeddings = {prompt: tokens * float("nan") for prompt, tokens in network._embeddings.items()}
    assert sick.draw_canary() not in ("", well.draw_canary()), "numbers that are not finite are another canary"
