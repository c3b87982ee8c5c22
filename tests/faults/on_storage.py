"""Faults of the place where the dataset goes."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.doubles.fake_backend import FakeImages
from tests.doubles.processes import strike
from tests.faults.bed import LIMITS, QUICK, Bed, Seen
from tests.faults.storm import InStorm, storm_uri
from tests.faults.table import fault
from xreal_synth.engine.progress import ShardAdopted, ShardDiscarded

GROUP = 5
"""Of shard 2, whose tar is cut."""

FEW = replace(LIMITS, fruitless=4)


@fault("disk-full", "no space left after a few shards; room is made, the same command again", "ends soon; goes on", 3)
def disk_full(bed: Bed) -> Seen:
    """On a small tmpfs where this process may mount one, else with a limit on the size of the actors' files."""
    total = sum(path.stat().st_size for path in bed.whole_folder.rglob("*") if path.is_file())
    folder = bed.output().parent
    out = folder / "out"
    with _small_disk(folder, total // 2) as grow:
        limit = None if grow is not None else _largest(bed.whole_folder) - 1
        watched = bed.drive(out, replace(QUICK, sleep_s=0.02, file_limit=limit), limits=FEW)
        assert watched.summary is not None, "the run has ended"
        seen = Seen(watched.exit_code)
        reasons = [failure.reason for failure in watched.summary.failures if failure.reason]
        seen.said = reasons[0].splitlines()[0] if reasons else watched.summary.message
        reported = ("No space left", "File too large")
        seen.must(any(word in seen.said for word in reported), f"the reason is not reported: {seen.said}")
        seen.must(not watched.summary.quarantined, "shards were quarantined for want of room")
        if grow is not None:
            grow()
        again = bed.drive(out, FakeImages())
        seen.must(again.exit_code == 0, f"exit code {again.exit_code} once there was room")
        bed.check(seen, out)
    return seen


@fault("storage-flaky", "every fifth call to the storage fails", "tried again")
def storage_flaky(bed: Bed) -> Seen:
    return _in_storm(bed, errors=5)


@fault("storage-slow", "every call to the storage takes 0.1 s", "waited for")
def storage_slow(bed: Bed) -> Seen:
    return _in_storm(bed, delay_ms=100)


@fault(
    "half-written",
    "cut tars, tables and records, tars without records; an actor killed meanwhile",
    "adopted if whole, else made again",
)
def half_written(bed: Bed) -> Seen:
    out = bed.output()
    shutil.copytree(bed.whole_folder, out)
    cut(out / "shards/chaos-000001.tar")
    (out / "records/chaos-000001.json").unlink()
    cut(out / "shards/chaos-000002.tar")
    cut(out / "tables/chaos-000003.parquet")
    cut(out / "records/chaos-000004.json")
    (out / "records/chaos-000005.json").unlink()
    old = out / "shards/.tmp-0123456789abcdef"
    old.write_bytes(b"half of a tar")
    os.utime(old, (time.time() - 7200,) * 2)
    watched = bed.drive(out, replace(QUICK, **bed.trap(GROUP, strike)))
    seen = bed.seen(watched, out)
    seen.must(seen.retried in (1, 2), f"{seen.retried} shards retried, wanted the one struck, and one being published")
    found = [len(watched.of(kind)) for kind in (ShardDiscarded, ShardAdopted)]
    seen.must(found == [4, 1], f"shards made again and adopted: {found}, wanted 4 and 1")
    seen.must(not old.exists(), "an old temporary file was not swept away")
    return seen


def cut(path: Path) -> None:
    """Takes away the file's second half."""
    os.truncate(path, path.stat().st_size // 2)


def _in_storm(bed: Bed, *, errors: int = 0, delay_ms: int = 0) -> Seen:
    out = bed.output()
    backend = InStorm(sleep_s=0.05)
    watched = bed.drive(storm_uri(out, errors=errors, delay_ms=delay_ms), backend)
    return bed.seen(watched, out)


@contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[Callable[[], bool] | None]:
    """A file system of `size` bytes mounted at the folder; yields what makes it larger, None if it may not be."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not _done(mount):
        yield None
        return
    try:
        yield lambda: _done(["mount", "-o", "remount,size=256m", str(folder)])
    finally:
        for _ in range(20):
            if _done(["umount", str(folder)]):
                break
            time.sleep(0.25)


def _done(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except OSError:
        return False


def _largest(folder: Path) -> int:
    return max(path.stat().st_size for path in (folder / "shards").iterdir())
