"""A Ray of a process's own: loopback, and a token that nobody else has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from tests.doubles.local_cluster import LocalCluster
from xreal_synth.engine import ray_session
from xreal_synth.errors import EngineError
from xreal_synth.recipe.schema import Compute

HOLD = """
import os, sys, ray
from xreal_synth.engine.ray_session import require_loopback, session
from xreal_synth.recipe.schema import Compute

before = os.environ.get("RAY_AUTH_MODE")
with session(None, Compute(actors=1)):
    require_loopback()
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.readline()
assert os.environ.get("RAY_AUTH_MODE") == before
assert "RAY_AUTH_TOKEN" not in os.environ
"""
INTRUDE = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
f = ray.remote(num_cpus=0)(lambda p: open(p, "w").write("x"))
ray.get(f.remote(sys.argv[2]), timeout=30)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_another_process_runs_nothing_in_it(tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        address = holder.stdout.readline().strip()
        assert address.startswith("127.0.0.1:"), holder.communicate(timeout=60)
        mark = tmp_path / "ran"
        done = subprocess.run(
            [sys.executable, "-c", INTRUDE, address, str(mark)],
            # Ray asks the machine's other address otherwise, and twenty times
            env={**environment, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_NUM_REDIS_GET_RETRIES": "2"},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        _, reported = holder.communicate("\n", timeout=120)
    assert done.returncode
    assert "uthenticat" in done.stderr
    assert not mark.exists()
    assert holder.returncode == 0, reported


def test_a_head_that_does_not_answer_is_waited_for_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "_HEAD_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EngineError, match="no Ray answers within"):
            ray_session._require_head(address)


def test_a_wide_listener_is_seen() -> None:
    code = (
        "import socket, sys, time\n"
        "s = socket.socket(); s.bind((sys.argv[1], 0)); s.listen()\n"
        "print('up', flush=True); time.sleep(60)\n"
    )
    for address, wide in (("127.0.0.1", False), ("0.0.0.0", True)):
        with subprocess.Popen([sys.executable, "-c", code, address], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            try:
                seen = _wide()
            finally:
                child.kill()
        assert seen is wide


def _wide() -> bool:
    """Whether `require_loopback` tells of the child that this test has started."""
    from xreal_synth.engine.ray_session import require_loopback
    from xreal_synth.errors import EngineError

    try:
        require_loopback()
    except EngineError as error:
        return "0.0.0.0" in error.found
    return False


@pytest.mark.ray
def test_a_process_that_has_joined_a_ray_uses_no_other_by_mistake(joined_ray: LocalCluster) -> None:
    port = joined_ray.address.rpartition(":")[2]
    for same in (None, "auto", joined_ray.address, f"localhost:{port}"):
        with ray_session.session(same, Compute(actors=1)):
            assert ray.is_initialized()
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:1"), ray_session.session("127.0.0.1:1", Compute(actors=1)):
        pass
    assert ray.is_initialized()
