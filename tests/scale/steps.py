"""What readers of a dataset cost, each in a process of its own.

Run as `python -m tests.scale.steps STEP FOLDER SHARDS`, it prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.scale.dataset import simulated_run
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import read_head
from xreal_synth.dataset.names import INDEX, RECORDS, SHARDS, TABLES, shards_in
from xreal_synth.dataset.status import StatusReader
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.ledger import read_ledger
from xreal_synth.errors import EngineError
from xreal_synth.opening import parse_json
from xreal_synth.storage import LocalStore, Store


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step over a dataset of `shards`: seconds, seconds of the processor, and the process's peak memory."""

    step: str
    shards: int
    seconds: float
    cpu_s: float
    peak_bytes: int

    @property
    def ms_per_shard(self) -> float:
        return 1e3 * self.seconds / self.shards


def _list(store: Store, shards: int) -> int:
    name = read_head(store).name
    found = {folder: shards_in(store, folder, name) for folder in (RECORDS, SHARDS, TABLES)}
    return min(map(len, found.values()))


def _resume(store: Store, shards: int) -> int:
    ledger = read_ledger(simulated_run(shards), store, {}, lambda event: None)
    return ledger.totals.shards - len(ledger.todo)


def _status(store: Store, shards: int) -> int:
    return StatusReader(store).read().shards_done


def _finish(store: Store, shards: int) -> int:
    run = simulated_run(shards)
    return finish(store, read_head(store), split_of=run.plan.split, asked=shards).shards


def _verify(store: Store, *, deep: bool) -> int:
    report = verify(store, deep)
    return report.shards if report.ok else -1


STEPS: Final[dict[str, Callable[[Store, int], int]]] = {
    "list": _list,
    "resume": _resume,
    "status": _status,
    "finish": _finish,
    "verify --quick": lambda store, shards: _verify(store, deep=False),
    "verify": lambda store, shards: _verify(store, deep=True),
}
"""Each returns the number of shards that it found whole."""


def measure_step(step: str, folder: Path, shards: int) -> StepRow:
    """The step in a process of its own; raises EngineError if it does not find every shard.

    What verify wants to find is finished before, unmeasured.
    """
    store = LocalStore(folder)
    if step.startswith("verify") and not store.exists(INDEX):
        _finish(store, shards)
    command = [sys.executable, "-m", "tests.scale.steps", step, str(folder), str(shards)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EngineError(
            where=str(folder), found=f"{step} failed: {done.stderr.strip().splitlines()[-1:]}", wanted="a whole dataset"
        )
    return StepRow(**parse_json(done.stdout))


def peak_bytes() -> int:
    """The most memory that this process itself has had; ru_maxrss also counts the parent's before exec."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main(step: str, folder: str, shards: int) -> None:
    began, cpu = time.monotonic(), time.process_time()
    found = STEPS[step](LocalStore(Path(folder)), shards)
    row = StepRow(step, shards, time.monotonic() - began, time.process_time() - cpu, peak_bytes())
    if found != shards:
        raise SystemExit(f"{step} found {found} whole shards of {shards}")
    json.dump(asdict(row), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
