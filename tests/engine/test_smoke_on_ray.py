"""recipes/smoke.yaml with its real networks: the same bytes whatever befalls the run.

More steps than the recipe's make a shard last long enough to be struck in its midst, and small shards are many.
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
MORE = ["sampling.steps=50", "output.shard_samples=2"]
DRIVE = f"""
import sys
from pathlib import Path
from xreal_synth.engine.ray_driver import generate
from xreal_synth.run.setup import open_run
from xreal_synth.recipe.load import load_recipe
from xreal_synth.storage import LocalStore
run = open_run(load_recipe(Path(sys.argv[1]), overrides=["anatomies=8", "compute.actors=1", *{MORE}]))
generate(run, LocalStore(Path(sys.argv[2])), address=sys.argv[3])
"""


def smoke(folder, *overrides, on_event=lambda event: None):
    """Runs the recipe on the joined Ray -> its summary."""
    run = open_run(load_recipe(SMOKE, overrides=[*overrides, *MORE]))
    return generate(run, LocalStore(folder), on_event=on_event, limits=Limits(tick_s=0.1))


def test_killed_driver_killed_actor_and_more_samples_change_no_byte(joined_ray, tmp_path, tar_hashes):
    """Eight groups, whose driver is killed after a shard; then ten, by two actors of which one is killed: as ten by one
    actor that nobody disturbs."""
    one, out = tmp_path / "one", tmp_path / "out"
    assert smoke(one, "compute.actors=1").exit_code == 0
    assert verify(LocalStore(one)).problems == ()
    driver = subprocess.Popen([sys.executable, "-c", DRIVE, str(SMOKE), str(out), joined_ray.address])
    try:
        deadline = time.monotonic() + 180
        while not list(out.glob("records/*.json")):
            assert driver.poll() is None, "the driver ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        driver.kill()
        driver.wait(timeout=30)
    whole = {
        name: sha for name, sha in tar_hashes(out).items() if (out / "records" / name).with_suffix(".json").exists()
    }
    up, lost, killed = [], [], []

    def kill_one() -> None:
        killed.append(joined_ray.actors()[0])
        os.kill(killed[0], signal.SIGKILL)

    def on_event(event) -> None:
        if isinstance(event, ActorUp):
            up.append(event)
            if len(up) == 1:
                threading.Timer(0.2, kill_one).start()
        if isinstance(event, ActorLost):
            lost.append(event)

    assert smoke(out, "compute.actors=2", on_event=on_event).exit_code == 0
    assert len(killed) == 1
    assert len(lost) >= 1
    assert tar_hashes(out) == tar_hashes(one)
    assert whole
    assert whole.items() <= tar_hashes(out).items()
    assert verify(LocalStore(out)).problems == ()
