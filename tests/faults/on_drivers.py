"""Faults of the driver, and of those that work on one output at once."""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

from tests.doubles.fake_backend import FakeImages
from tests.doubles.local_cluster import other_cluster
from tests.doubles.shards import run_shard
from tests.faults.bed import DRIVER_S, Bed, Seen, Watched, environment_here
from tests.faults.drive import EXIT_CODE
from tests.faults.table import fault
from xreal_synth.engine.progress import Event, RunStarted, ShardDone, Warned
from xreal_synth.engine.ray_driver import PATIENCE_VARIABLE
from xreal_synth.errors import DatasetError, EngineError
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.storage import LocalStore

GROUP = 5
"""Of shard 2."""


@fault("driver-killed", "SIGKILL of the driver; the same command again", "it goes on after the finished shards")
def driver_killed(bed: Bed) -> Seen:
    out = bed.output()
    driver = bed.driver(out)
    try:
        _wait_for_records(out, driver, 2)
    finally:
        driver.kill()
        said = driver.communicate(timeout=30)[0]
    made = len(list(out.glob("records/*.json")))
    watched = bed.drive(out)
    seen = bed.seen(watched, out)
    started = watched.of(RunStarted)[0]
    assert isinstance(started, RunStarted)
    seen.must(made < 8, f"the driver was through before it could be killed: {said[-300:]}")
    seen.must(started.shards_done >= made, f"{started.shards_done} shards kept of {made}")
    seen.said = f"{started.shards_done} of 8 shards kept"
    return seen


HEAD_S = 20
"""Ray's patience with a head that does not answer, in the trial; left alone it is 60 s."""


@fault(
    "head-killed",
    "SIGKILL of the head's node with its actors; the same command again on a new head",
    "the driver ends by itself before Ray ends it; then it goes on",
    75,
)
def head_killed(bed: Bed) -> Seen:
    out = bed.output()
    with other_cluster(cpus=1) as cluster:
        patience = {PATIENCE_VARIABLE: str(HEAD_S)}
        driver = bed.driver(out, address=cluster.address, environment=patience)
        try:
            _wait_for_records(out, driver, 2)
            began = time.monotonic()
            bed.strike(cluster.kill_head)
            said = driver.communicate(timeout=DRIVER_S)[0]
            seconds = time.monotonic() - began
        finally:
            if driver.poll() is None:
                driver.kill()
                driver.wait(timeout=30)
    made = len(list(out.glob("records/*.json")))
    watched = bed.drive(out)
    seen = bed.seen(watched, out)
    seen.must(watched.exit_code == 0, f"exit code {watched.exit_code} on the new head")
    seen.must(2 <= made < 8, f"{made} shards were made before")
    seen.must("the head of the Ray cluster" in said and "Check failed" not in said, f"it said: {said[-600:]}")
    seen.must(seconds < HEAD_S + 5, f"the driver ended after {seconds:.0f} s")
    seen.exit_code, seen.detected_s = driver.returncode, seconds
    seen.said = next((line for line in said.splitlines() if "the head of the Ray cluster" in line), "")
    return seen


@fault("two-drivers", "a second driver on the same output", "both end well; work may be done twice")
def two_drivers(bed: Bed) -> Seen:
    out = bed.output()
    other = bed.driver(out, sleep_s=0.2)
    try:
        _wait_for_records(out, other, 1)
        watched = bed.drive(out, run=bed.run(compute__actors=1))
        said = other.communicate(timeout=DRIVER_S)[0]
    finally:
        if other.poll() is None:
            other.kill()
            other.wait(timeout=30)
    seen = bed.seen(watched, out)
    seen.must(other.returncode == 0, f"the other driver's exit code {other.returncode}: {said[-300:]}")
    warned = [event.message for event in watched.of(Warned) if isinstance(event, Warned)]
    seen.said = "; ".join(warned)
    return seen


@fault("job-stopped", "ray job stop; the same command again", "shards in flight are finished; then it goes on", 75)
def job_stopped(bed: Bed) -> Seen:
    from ray.job_submission import JobSubmissionClient

    out, marks = bed.output(), Path(bed.marks())
    jobs = JobSubmissionClient(bed.cluster.jobs)
    entry = shlex.join(bed.driver_command(out, sleep_s=0.1, held=(GROUP, marks)))
    settings = {"RAY_JOB_STOP_WAIT_TIME_S": "60", **environment_here()}
    job = jobs.submit_job(entrypoint=entry, runtime_env={"env_vars": settings})
    try:
        _wait_for(lambda: (marks / f"at-{GROUP}").exists(), "a shard's midst")
        bed.strike(lambda: jobs.stop_job(job))
        _wait_for(lambda: "are finished first" in jobs.get_job_logs(job), "the driver's word")
        (marks / "go").touch()
        _wait_for(lambda: jobs.get_job_status(job).is_terminal(), "the job's end")
    finally:
        said = jobs.get_job_logs(job)
    code = re.findall(rf"^{EXIT_CODE}(\d+)$", said, flags=re.MULTILINE)
    seen = Seen(int(code[-1]) if code else -1, said=said.strip().rpartition("\n")[2])
    drained = sorted(path.stem for path in out.glob("records/*.json"))
    seen.must(drained == ["chaos-000000", "chaos-000001", "chaos-000002"], f"made: {drained}; {said[-300:]}")
    watched: Watched = bed.drive(out)
    seen.must(watched.exit_code == 0, f"exit code {watched.exit_code} of the next run")
    bed.check(seen, out)
    return seen


@fault("late-actor", "late actors publish shards that were redone", "equal bytes change nothing, others are refused")
def late_actor(bed: Bed) -> Seen:
    out = bed.output()
    run = bed.run()
    late = FakeImages().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    refused: list[str] = []

    def publish(shard: int, replacing: bool) -> None:
        run_shard(run, late, run.plan.shard(shard), LocalStore(out), actor="late", replacing=replacing)

    def publish_other() -> None:
        """As a device that computes otherwise would: every image differs."""
        other = bed.run(seed=12)
        odd = replace(other, digest=run.digest)
        backend = FakeImages().open(odd, actor_shape(run.recipe.compute, Resources(1, 0)))
        try:
            run_shard(odd, backend, odd.plan.shard(2), LocalStore(out), actor="late")
        except DatasetError as error:
            refused.append(error.found)

    threads: list[threading.Thread] = []

    def on_event(event: Event) -> None:
        if isinstance(event, ShardDone) and event.shard < 3:
            actions = (lambda: publish(0, False), lambda: publish(1, True), publish_other)
            threads.append(threading.Thread(target=actions[event.shard], daemon=True))
            threads[-1].start()

    watched = bed.drive(out, on_event=on_event)
    for thread in threads:
        thread.join(DRIVER_S)
    seen = bed.seen(watched, out)
    seen.must(len(refused) == 1 and "other bytes" in refused[0], f"other bytes were not refused: {refused}")
    seen.said = refused[0] if refused else ""
    return seen


def _wait_for_records(out: Path, driver: subprocess.Popen[str] | None, count: int) -> None:
    def there() -> bool:
        if len(list(out.glob("records/*.json"))) >= count:
            return True
        if driver is not None and driver.poll() is not None:
            said = driver.communicate(timeout=10)[0]
            raise EngineError(found=f"the driver ended with {driver.returncode}: {said[-400:]}")
        return False

    _wait_for(there, f"{count} records")


def _wait_for(holds: object, what: str) -> None:
    assert callable(holds)
    deadline = time.monotonic() + DRIVER_S
    while not holds():
        if time.monotonic() > deadline:
            raise EngineError(found=f"waited {DRIVER_S:g} s in vain for {what}")
        time.sleep(0.02)
