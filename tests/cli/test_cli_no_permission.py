"""Commands of a user who may not read or write a place: exit code 2 and a message, never a traceback."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.doubles.schematic import schematic_mask

ROOT = Path(__file__).parents[2]
UNPRIVILEGED = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
"""What takes from root that modes do not bind it."""
RECIPE = """
version: 1
name: closed
anatomies: 1
bundle: xreal-tiny
findings: [{weight: 1, labels: []}]
sampling: {steps: 2}
output: {uri: out}
"""
PREPARE = ("prepare", "folder", "source", "--table", "list.csv", "--mask-column", "mask", "--size", "64",
           "--review", "0", "--out")  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A recipe and a source of one image that everyone may read, and folders that only their owner may."""
    mask = schematic_mask(96, np.random.default_rng(1))
    (tmp_path / "source/masks").mkdir(parents=True)
    image = np.select([np.isin(mask, (1, 2)), mask == 3, mask == 4], [60, 200, 230], 140)
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "source/0.png")
    Image.fromarray(mask).save(tmp_path / "source/masks/0.png")
    with (tmp_path / "source/list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["image", "patient_id", "labels", "mask"], ["0.png", "1", "No Finding", "masks/0.png"]]
        )
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for name, mode in (("unwritable", 0o555), ("unreadable", 0o000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list.csv").write_text("image\n")
        (tmp_path / name).chmod(mode)
    yield tmp_path
    (tmp_path / "unreadable").chmod(0o755)


COMMANDS = [
    ("generate", "recipe.yaml", "--output", "unwritable/out"),
    ("generate", "recipe.yaml", "--output", "unreadable/out"),
    ("generate", "recipe.yaml", "--output", "unreadable"),
    ("generate", "unreadable/recipe.yaml"),
    (*PREPARE, "unwritable/out"),
    (*PREPARE, "unreadable/out"),
    ("prepare", "folder", "unreadable", "--table", "list.csv", "--out", "unwritable/out"),
    ("preview", "recipe.yaml", "-n", "1", "--out", "unwritable/preview.png"),
    ("verify", "unreadable"),
    ("recipe", "new", "unwritable/mine.yaml"),
]
SCRIPT = """
import contextlib, io, json, sys, traceback
from xreal_synth.cli import main, output
ended = []
for command in json.loads(sys.argv[1]):
    sys.argv = ["xreal-synth", *command]
    said = io.StringIO()
    for console in (output.console, output.notes):
        console.file, console.width = said, 400
    try:
        main.main()
    except SystemExit as end:
        ended.append([end.code, said.getvalue()])
    except BaseException:
        ended.append([1, said.getvalue() + traceback.format_exc()])
print(json.dumps(ended))
"""


def test_a_place_without_permission_is_told(place: Path) -> None:
    root = os.geteuid() == 0
    if root and shutil.which(UNPRIVILEGED[0]) is None:
        pytest.skip("modes do not bind root")
    done = subprocess.run(
        [*(UNPRIVILEGED if root else ()), sys.executable, "-c", SCRIPT, json.dumps(COMMANDS)], cwd=place,
        capture_output=True, text=True, timeout=280, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    ended = json.loads(done.stdout.splitlines()[-1])
    assert len(ended) == len(COMMANDS)
    for command, (code, said) in zip(COMMANDS, ended, strict=True):
        assert code == 2, (command, said)
        assert "Traceback" not in said
        assert "error:" in said
        assert "unwritable" in said or "unreadable" in said, said
