"""The job's entry point: places, exit codes, and `ray job submit` against a local run, byte for byte."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xreal_synth.engine.job_package import output_place
from xreal_synth.errors import EngineError
from xreal_synth.jobs.generate import main

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
QUICKSTART = SMOKE.with_name("quickstart.yaml")
SUBMIT_S = 280


@pytest.mark.parametrize(
    ("uri", "root", "place"),
    [
        ("/data/x", None, "/data/x"),
        ("s3://bucket/x", "/ignored", "s3://bucket/x"),
        ("out/x", "/data/", "/data/out/x"),
        ("out/x", "s3://bucket/sets", "s3://bucket/sets/out/x"),
    ],
)
def test_output_place(uri, root, place):
    assert output_place(uri, root) == place


@pytest.mark.parametrize("root", [None, "relative/root"])
def test_relative_output_is_refused(root):
    with pytest.raises(EngineError, match="is relative"):
        output_place("out/x", root)


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        ([], "--output-root"),
        (["--output-root", "{tmp}", "--set", "anatomies=0"], "anatomies"),
        (["--output-root", "{tmp}", "--set", "bundle=nothing-of-the-kind"], "nothing-of-the-kind"),
        (["--output-root", "{tmp}", "--set", "sampling.mode=reference", "--set", "sampling.steps=7"], "1000"),
    ],
)
def test_mistakes_end_with_2_and_write_nothing(arguments, reported, tmp_path):
    lines: list[str] = []
    code = main([str(SMOKE), *(part.format(tmp=tmp_path) for part in arguments)], say=lines.append)
    assert code == 2
    assert reported in "\n".join(lines)
    assert list(tmp_path.iterdir()) == []


def tars(folder: Path) -> dict[str, str]:
    found = sorted((folder / "shards").iterdir())
    return {tar.name: hashlib.sha256(tar.read_bytes()).hexdigest() for tar in found}


@pytest.mark.ray
@pytest.mark.slow
def test_job_and_local_run_make_the_same_bytes(ray_head, tmp_path):
    """The quickstart, smaller, in two shards: an actor on the head, one on a Ray of the local run's own."""
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(QUICKSTART, work)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    entry = [sys.executable, "-m", "xreal_synth.jobs.generate", "quickstart.yaml"]
    entry += ["--set", "anatomies=2", "--set", "output.shard_samples=1", "--set", "compute.actors=1"]
    local = subprocess.run(
        [*entry, "--output-root", str(tmp_path / "local")],
        cwd=work, env=environment, capture_output=True, text=True, timeout=SUBMIT_S, check=False,
    )  # fmt: skip
    assert local.returncode == 0, local.stdout + local.stderr
    job = subprocess.run(
        [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", ray_head.jobs,
         "--working-dir", ".", "--", *entry, "--output-root", str(tmp_path / "job")],
        cwd=work, env=environment, capture_output=True, text=True, timeout=SUBMIT_S, check=False,
    )  # fmt: skip
    assert job.returncode == 0, job.stdout + job.stderr
    assert "2 of 2 shards" in job.stdout
    assert (tmp_path / "job" / "out" / "quickstart" / "contact_sheet.png").is_file()
    made = tars(tmp_path / "local" / "out" / "quickstart")
    assert sorted(made) == [f"quickstart-{k:06d}.tar" for k in range(2)]
    assert tars(tmp_path / "job" / "out" / "quickstart") == made
