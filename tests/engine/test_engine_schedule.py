"""Which shard goes where next, and what each kind of failure means."""

from __future__ import annotations

from xreal_synth.engine.schedule import Limits, ShardSchedule


def test_an_error_is_tried_three_times_on_different_actors():
    schedule = ShardSchedule([7], Limits())
    for tries, actor in enumerate(["a", "b"], start=1):
        assert schedule.take(actor) == 7
        assert schedule.failed(7, actor, "error", "boom")
        assert schedule.tries(7) == tries
        assert schedule.take(actor) is None
    assert schedule.take("c") == 7
    assert not schedule.failed(7, "c", "error", "boom again")
    assert schedule.given_up == {7: "boom again"}
    assert len(schedule) == 0


def test_a_mistake_is_given_up_at_once():
    schedule = ShardSchedule([0, 1], Limits())
    assert schedule.take("a") == 0
    assert not schedule.failed(0, "a", "mistake", "no such prompt")
    assert schedule.given_up == {0: "no such prompt"}
    assert schedule.take("a") == 1


def test_infrastructure_is_not_held_against_a_shard_and_ends_the_run_only_without_progress():
    schedule = ShardSchedule([0, 1], Limits(fruitless=4))
    for _ in range(3):
        shard = schedule.take("a")
        assert schedule.failed(shard, "a", "lost", "gone")
    assert not schedule.exhausted(actors=1)
    schedule.done(schedule.take("a"), "a")
    for _ in range(3):
        assert schedule.failed(schedule.take("a"), "a", "storage", "full")
        assert not schedule.exhausted(actors=1)
    assert schedule.failed(schedule.take("a"), "a", "lost", "gone")
    assert schedule.exhausted(actors=1)
    assert not schedule.exhausted(actors=3)
    assert schedule.given_up == {}
    assert schedule.reason(schedule.waiting[0]) == "gone"


def test_a_shard_that_kills_its_actors_while_others_are_finished_is_given_up():
    schedule = ShardSchedule([0, 1, 2, 3], Limits(fruitless=50))
    assert schedule.failed(schedule.take("a"), "a", "died", "gone")
    for actor in "bc":
        schedule.done(schedule.take(actor), actor)
        assert schedule.waiting[-1] == 0
    schedule.done(schedule.take("b"), "b")
    assert schedule.failed(schedule.take("b"), "b", "died", "gone")
    assert not schedule.failed(schedule.take("c"), "c", "died", "gone again")
    assert schedule.given_up == {0: "3 actors ended while they made it; the last: gone again"}


def test_no_shard_is_to_blame_where_every_actor_dies():
    schedule = ShardSchedule([0, 1], Limits(fruitless=20))
    for _ in range(20):
        assert not schedule.exhausted(actors=1)
        assert schedule.failed(schedule.take("a"), "a", "died", "gone")
    assert schedule.exhausted(actors=1)
    assert schedule.given_up == {}


def test_deaths_from_outside_are_not_held_against_a_shard():
    schedule = ShardSchedule([0, 1, 2], Limits(), finished=5)
    for _ in range(10):
        assert schedule.failed(0, "a", "lost", "node gone")
    assert schedule.failed(0, "a", "died", "gone")
    assert schedule.given_up == {}


def test_an_idle_actor_is_stale_when_all_that_waits_has_failed_on_every_actor():
    schedule = ShardSchedule([0], Limits())
    schedule.failed(schedule.take("a"), "a", "error", "boom")
    assert schedule.stale(["a"])
    assert not schedule.stale(["a", "b"])
    schedule = ShardSchedule([0, 1], Limits())
    schedule.failed(schedule.take("a"), "a", "error", "boom")
    assert not schedule.stale(["a"])
    assert not ShardSchedule([], Limits()).stale(["a"])


def test_failed_shards_wait_behind_the_others():
    schedule = ShardSchedule([0, 1, 2], Limits())
    schedule.failed(schedule.take("a"), "a", "lost", "gone")
    assert schedule.waiting == (1, 2, 0)
