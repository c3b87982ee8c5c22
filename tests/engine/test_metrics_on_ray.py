"""A run's metrics as Prometheus reads them from Ray, and its actors as Ray's dashboard names them."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.util.state import list_actors, list_tasks

from tests.doubles.fake_backend import FakeImages
from tests.doubles.local_cluster import LocalCluster
from xreal_synth.dataset.record import parse_record
from xreal_synth.engine.metrics import ACTOR, NOTHING, RUN
from xreal_synth.engine.progress import Event, ShardDone
from xreal_synth.engine.ray_driver import generate
from xreal_synth.engine.schedule import Limits
from xreal_synth.storage import LocalStore

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("joined_ray")]

NAME = "metered"
WAIT_S = 30.0
Samples = dict[str, list[tuple[dict[str, str], float]]]


def scrape() -> Samples:
    """What Prometheus would read of this dataset from every node, by the names of the series."""
    found: Samples = {}
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels.get("dataset") in (NAME, None):
                    found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def when(seen: Samples, reported: Callable[[Samples], bool]) -> Samples:
    """Scrapes until that is true; with series that were seen before and went."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        seen |= scrape()
        if reported(seen):
            return seen
        time.sleep(0.3)
    raise AssertionError(f"only {sorted(name for name in seen if 'xreal' in name)}")


def total(found: Samples, name: str, **tags: str) -> float:
    return sum(value for labels, value in found[f"ray_xreal_synth_{name}"] if labels.items() >= tags.items())


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory, open_fault_run: Any) -> Any:
    """A run's summary, records and last scrape: two attempts are refused, a shard is tried twice, one given up."""
    folder = tmp_path_factory.mktemp("metered")
    checks = {"seam": {"action": "off"}, "change": {"action": "off"}}
    run = open_fault_run(name=NAME, compute__actors=1, quality__profile="standard", quality__checks=json.dumps(checks))
    backend = FakeImages(sleep_s=0.25, blank=frozenset({(0, 0), (5, 0)}), mistake=frozenset({11}))
    seen: Samples = {}

    def look(event: Event) -> None:
        if isinstance(event, ShardDone):
            seen.update(scrape())  # an actor's gauges go soon after it

    limits = Limits(tick_s=0.1, drain_s=60)
    summary = generate(run, LocalStore(folder), backend=backend, limits=limits, on_event=look)
    wanted = {name for metric in (*RUN, *ACTOR) for name in metric.series}
    wanted |= {"ray_node_cpu_utilization", "ray_tasks"}

    def complete(seen: Samples) -> bool:
        made = wanted <= seen.keys() and total(seen, "images_generated_total") >= summary.samples
        return made and total(seen, "shards", state="quarantined") == 1

    found = when(seen, complete)
    records = [parse_record(path.read_bytes(), path.name) for path in sorted((folder / "records").iterdir())]
    return summary, records, found


def test_counts_are_those_of_the_records(metered: Any) -> None:
    summary, records, found = metered
    assert (summary.exit_code, len(records), summary.quarantined) == (3, 5, (5,))
    for name, wanted in {
        "images_generated_total": sum(record.samples for record in records),
        "groups_accepted_total": sum(record.groups for record in records),
        "published_bytes_total": sum(record.tar.bytes for record in records),
        "attempts_rejected_total": 2,
        "shards_quarantined_total": 1,
        "shard_seconds_count": 5,
        "boot_seconds_count": 1,
    }.items():
        assert total(found, name) == pytest.approx(wanted, abs=1e-6), name
    assert total(found, "attempts_rejected_total", check="pixels.range") == 2
    assert total(found, "shards_retried_total") == NOTHING, "it begins before anything happens"


def test_gauges_are_those_of_the_run(metered: Any) -> None:
    _, records, found = metered
    assert total(found, "shards", state="done") == 5
    assert total(found, "shards", state="quarantined") == 1
    assert {labels["state"] for labels, _ in found["ray_xreal_synth_actors"]} == {"booting", "idle", "working"}
    assert total(found, "images_per_second") > 0
    assert total(found, "images", state="expected") >= sum(record.samples for record in records)


def test_an_actor_tells_its_own(metered: Any) -> None:
    """What it told in the last second before it was ended may be lost."""
    _, records, found = metered
    ((labels, images),) = found["ray_xreal_synth_actor_images_total"]
    assert labels["actor"] == "a0"
    assert labels["NodeAddress"]
    assert images >= sum(record.samples for record in records[:3])
    model = sum(record.timings["model_s"] for record in records[:3])
    assert total(found, "actor_seconds_total", part="model") >= model - 1e-2
    ((_, busy),) = found["ray_xreal_synth_actor_busy_share"]
    assert 0.3 < busy <= 1.0
    assert 3 <= total(found, "publish_seconds_count") <= 5


def test_tags_are_few(metered: Any) -> None:
    _, _, found = metered
    ours = {name: samples for name, samples in found.items() if "xreal_synth" in name}
    assert max(len(samples) for samples in ours.values()) <= 20
    tasks = {labels["Name"] for labels, _ in found["ray_tasks"]}
    assert "Generator.shard" in tasks
    ours_too = [name for name in tasks if not name.startswith("_ray_internal")]
    assert not [name for name in ours_too if any(character.isdigit() for character in name)], "no series a shard"


@pytest.mark.usefixtures("metered")
def test_actors_show_by_dataset_and_name(ray_head: LocalCluster) -> None:
    shown = {actor.repr_name for actor in list_actors(ray_head.jobs, detail=True, limit=1000)}
    assert f"xreal_synth:{NAME}:a0" in shown
    calls = {
        task.name
        for task in list_tasks(ray_head.jobs, detail=True, limit=10_000, filters=[("type", "=", "ACTOR_TASK")])
    }
    assert f"xreal_synth:{NAME}:a0.shard" in calls
