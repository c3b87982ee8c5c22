"""What a run's events and an actor's shards become as metrics, without Ray."""

from __future__ import annotations

from collections import defaultdict

import pytest

from xreal_synth.engine import metrics
from xreal_synth.engine.metrics import ACTOR, NOTHING, RUN, ActorMeters, Metric, RunMeters
from xreal_synth.engine.progress import (
    ActorLost,
    ActorUp,
    Advanced,
    RunStarted,
    ShardDone,
    ShardQuarantined,
    ShardRetried,
    Warned,
)

STARTED = RunStarted("/d", 6, 1, 24, 4, 2, "cpu", 4)


class Reported:
    """Counters added up, gauges as last set, observations in a list; by name and tag values."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = defaultdict(float)
        self.seen: dict[str, list[float]] = defaultdict(list)

    def __call__(self, metric: Metric, value: float, **tags: str) -> None:
        assert set(tags) == set(metric.tags)
        key = (metric.name, *tags.values())
        if metric.kind == "counter":
            assert value > 0
            self.values[key] += value
        elif metric.kind == "gauge":
            self.values[key] = value
        else:
            self.seen[metric.name].append(value)


def test_a_run_is_reported_by_its_events():
    reported = Reported()
    meters = RunMeters(reported)
    meters.on_event(ActorLost("a9", None, "before Ray is up"))
    assert not reported.values
    events = [
        STARTED,
        ActorUp("a0", "n", 12.5),
        Advanced(6, 24, 1.5, 12.0, 3, {"booting": 1, "idle": 0, "working": 2}, 2),
        ShardDone(1, 4, 3, 2.5, 2, 6, 2, 1, {"pixels.range": 2, "placement": 1}, 4096, {}, "a0"),
        ActorLost("a1", 2, "gone"),
        ShardRetried(2, 1, "gone"),
        ShardQuarantined(3, "poison"),
        Warned("nothing to count"),
    ]
    for event in events:
        meters.on_event(event)
    assert reported.seen == {"boot_seconds": [12.5], "shard_seconds": [2.5]}
    counted = {key: value for key, value in reported.values.items() if value >= 1}
    assert counted == pytest.approx({
        ("images_per_second",): 1.5, ("images", "done"): 6, ("images", "expected"): 24,
        ("actors", "booting"): 1, ("actors", "working"): 2, ("shards", "done"): 2, ("shards", "in_flight"): 2,
        ("shards", "waiting"): 1, ("shards", "quarantined"): 1, ("images_generated",): 4, ("groups_accepted",): 2,
        ("groups_dropped",): 1,
        ("attempts_rejected", "pixels.range"): 2, ("attempts_rejected", "placement"): 1, ("published_bytes",): 4096,
        ("actors_lost",): 1, ("shards_retried",): 1, ("shards_quarantined",): 1,
    })  # fmt: skip
    meters.on_event(Advanced(6, 24, 1.5, 12.0, 3, {"booting": 0, "idle": 0, "working": 2}, 2))
    assert {state: reported.values["shards", state] for state in ("done", "in_flight", "quarantined", "waiting")} == {
        "done": 2, "in_flight": 2, "quarantined": 1, "waiting": 1,
    }  # fmt: skip


def test_counters_begin_before_anything_happens():
    reported = Reported()
    RunMeters(reported).on_event(STARTED)
    begun = {key[0] for key, value in reported.values.items() if value == NOTHING}
    assert begun == {metric.name for metric in RUN if metric.kind == "counter" and not metric.tags}
    assert (NOTHING + 1e6) - NOTHING == 1e6


def test_an_actor_tells_where_its_time_goes():
    now = [100.0]
    reported = Reported()
    meters = ActorMeters(reported, lambda: now[0])
    meters.images(4.0)
    meters.images(0.0)
    now[0] = 112.0
    meters.worked({"other_s": 2.5, "model_s": 6.0, "gate_s": 1.0, "wait_s": 0.5})
    with meters.publishing():
        now[0] = 113.5
    assert reported.values["actor_images",] == pytest.approx(4.0)
    parts = {key[1]: value for key, value in reported.values.items() if key[0] == "actor_seconds"}
    assert parts == {"model": 6.0, "gate": 1.0, "wait": 0.5, "other": 2.5, "idle": 2.0}
    assert reported.values["actor_busy_share",] == 0.5
    assert reported.seen == {"publish_seconds": [1.5]}


def test_what_a_backend_does_not_tell_is_absent():
    now = [0.0]
    reported = Reported()
    meters = ActorMeters(reported, lambda: now[0])
    now[0] = 3.0
    meters.worked({"other_s": 2.0})
    assert reported.values.keys() == {("actor_images",), ("actor_seconds", "other"), ("actor_seconds", "idle")}


def test_a_shard_that_fails_to_publish_is_not_counted():
    reported = Reported()
    meters = ActorMeters(reported)
    with pytest.raises(OSError), meters.publishing():
        raise OSError
    assert reported.seen == {}


def test_names_are_prometheus_own_and_tags_are_few():
    every = (*RUN, *ACTOR)
    assert len({metric.name for metric in every}) == len(every)
    assert metrics.REJECTED.series == ("ray_xreal_synth_attempts_rejected_total",)
    assert metrics.SHARD_SECONDS.series[0] == "ray_xreal_synth_shard_seconds_bucket"
    assert {tag for metric in every for tag in metric.tags} == {"state", "check", "part"}
