"""recipes/smoke.yaml with its real networks: the same bytes whatever befalls the run.

More steps than the recipe's make a shard last long enough to be struck in its midst.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from xreal_synth.dataset.verify import verify
from xreal_synth.engine.progress import ActorLost, ActorUp
from xreal_synth.engine.ray_driver import generate
from xreal_synth.engine.schedule import Limits
from xreal_synth.recipe.load import load_recipe
from xreal_synth.run.setup import open_run
from xreal_synth.storage import LocalStore

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("joined_ray")]

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
DRIVE = """
import sys
from pathlib import Path
from xreal_synth.engine.ray_driver import generate
from xreal_synth.run.setup import open_run
from xreal_synth.recipe.load import load_recipe
from xreal_synth.storage import LocalStore
run = open_run(load_recipe(Path(sys.argv[1]), overrides=["compute.actors=1", "sampling.steps=50"]))
generate(run, LocalStore(Path(sys.argv[2])), address=sys.argv[3])
"""


def smoke(folder, *overrides, on_event=lambda event: None):
    """Runs the recipe on the joined Ray -> its summary."""
    run = open_run(load_recipe(SMOKE, overrides=[*overrides, "sampling.steps=50"]))
    return generate(run, LocalStore(folder), on_event=on_event, limits=Limits(tick_s=0.1))


@pytest.fixture(scope="module")
def one_actor(joined_ray, tmp_path_factory, tar_hashes):
    """The tars of an undisturbed run with one actor."""
    folder = tmp_path_factory.mktemp("one")
    assert smoke(folder, "compute.actors=1").exit_code == 0
    assert verify(LocalStore(folder)).problems == ()
    return tar_hashes(folder)


def test_two_actors_one_of_them_killed(joined_ray, tmp_path, one_actor, tar_hashes):
    up, lost, killed = [], [], []

    def kill_one() -> None:
        killed.append(joined_ray.actors()[0])
        os.kill(killed[0], signal.SIGKILL)

    def on_event(event) -> None:
        if isinstance(event, ActorUp):
            up.append(event)
            if len(up) == 2:
                threading.Timer(0.2, kill_one).start()
        if isinstance(event, ActorLost):
            lost.append(event)

    summary = smoke(tmp_path, "compute.actors=2", on_event=on_event)
    assert summary.exit_code == 0
    assert len(killed) == 1
    assert len(lost) >= 1
    assert tar_hashes(tmp_path) == one_actor


def test_killed_driver_and_resume_with_two_actors(joined_ray, tmp_path, one_actor, tar_hashes):
    driver = subprocess.Popen([sys.executable, "-c", DRIVE, str(SMOKE), str(tmp_path), joined_ray.address])
    try:
        deadline = time.monotonic() + 180
        while not list(tmp_path.glob("records/*.json")):
            assert driver.poll() is None, "the driver ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        driver.kill()
        driver.wait(timeout=30)
    assert smoke(tmp_path, "compute.actors=2").exit_code == 0
    assert tar_hashes(tmp_path) == one_actor
    assert verify(LocalStore(tmp_path)).problems == ()


def test_more_samples_leave_whole_shards_as_they_were(tmp_path, one_actor, tar_hashes):
    assert smoke(tmp_path, "anatomies=8", "compute.actors=1").exit_code == 0
    before = tar_hashes(tmp_path)
    assert smoke(tmp_path, "anatomies=10", "compute.actors=2").exit_code == 0
    after = tar_hashes(tmp_path)
    assert {name: after[name] for name in before} == before
    assert after == one_actor
