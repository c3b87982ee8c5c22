"""What an extension costs: one of each kind is added to a copy of the package, in so many files, and is used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "xreal_synth"

CHECK = """
from xreal_synth.quality.checks import CheckEntry, Score

def measure(image, seen): return {"grey": float(image.image.mean())}

CHECK = CheckEntry(
    name="mean", rank=9, about="Mean grey.", measure=measure, standard="off", strict="reject",
    scores={"grey": Score(True, "mean grey level", "Least mean grey level.", 10, 20, (0, 255))},
)
"""
USES_CHECK = """
import numpy as np
from xreal_synth.quality.gate import SCORES
from xreal_synth.quality.checks import JudgedImage
from xreal_synth.quality.gate import Gate
from xreal_synth.recipe.quality import Quality, digested_quality, resolve_quality
unable = {"organs": "-", "finding": "-", "copies": "-"}
plain = resolve_quality(Quality(), unable, {})
assert set(digested_quality(plain)["checks"]) == {"pixels", "seam", "change"}, "earlier datasets keep their digest"
given = Quality.model_validate({"checks": {"mean": {"action": "reject", "grey": 50}}})
settings = resolve_quality(given, unable, {})
verdict = Gate(settings).judge([JudgedImage("k", np.full((64, 64), 30, np.uint8))])[0]
assert "mean.grey" in verdict.refused and SCORES["mean.grey"] == (True, "mean grey level")
assert resolve_quality(Quality(profile="strict"), unable, {}).checks[-1].bounds == {"grey": 20.0}
"""
USES_REGION = """
import numpy as np
from xreal_synth.anatomy.regions import region_mask
from tests.doubles.schematic import schematic_mask
from xreal_synth.planning.chest import Chest, Ground
from xreal_synth.planning.placement import place
from xreal_synth.planning.prior import Prior
from xreal_synth.recipe.findings import FindingLabel
from xreal_synth.dataset.check import _painted
from xreal_synth.dataset.meta import meta_json, parse_meta
from tests.doubles.fakes import fake
chest = schematic_mask(64)
ground = Ground(Chest(chest, ""), Prior.load(), 8, 0.6)
placed = place(FindingLabel(name="Mass", side="left"), ground, np.random.default_rng(0))
assert (placed.region, placed.side, placed.size) == ("lower half", "left", None)
region = region_mask(placed, chest)
assert region.any() and not region[:16].any()
try:
    FindingLabel(name="Mass", zone="upper")
except ValueError as error:
    assert "lower half of a lung" in str(error.errors()), error.errors()
else:
    raise AssertionError("zone is not one of its keys")
sample = fake(0, "v0", [placed], size=64)
assert parse_meta(meta_json(sample.meta), "x").findings == (placed,)
assert _painted(sample, 1, placed)
"""
USES_HOLD = """
import json
import torch
from pydantic import TypeAdapter
from xreal_synth.recipe.sampling import resolve_sampling
from xreal_synth.recipe.sampling import Sampling
from xreal_synth.sampling.blend import HOLDS
from xreal_synth.types import SamplingDefaults
told = {"steps": 4, "hold": 0.5, "branch": 0.5, "guidance": 1, "soft_variance": "hard"}
defaults = TypeAdapter(SamplingDefaults).validate_json(json.dumps(told))
settings = resolve_sampling(Sampling(), defaults)
one = torch.ones(1)
assert HOLDS[settings.soft_variance](one, 2 * one, one, 0.5, one) == 1
"""
USES_COLUMN = """
from dataclasses import replace
from xreal_synth.dataset.meta import meta_json, parse_meta
from tests.doubles.fakes import fake
from xreal_synth.dataset.table import build_table, meta_columns, read_table, sample_schema
from xreal_synth.dataset.tar import encode_sample
from xreal_synth.types import ShardPlan
import pyarrow as pa, pyarrow.parquet as pq
sample = fake(0, "h")
told = replace(sample, meta=replace(sample.meta, severity=0.5))
assert parse_meta(meta_json(told.meta), "x").severity == 0.5
assert b"severity" not in meta_json(sample.meta), "KEY.json of a sample without it is as it was"
assert meta_columns(told.meta)["severity"] == 0.5
table = build_table(ShardPlan("n", 0, 0, 1), [encode_sample(told).row])
assert read_table(table, "x", sample_schema()).to_pylist()[0]["severity"] == 0.5
older = pq.read_table(pa.BufferReader(table), use_threads=False).drop_columns(["severity"])
sink = pa.BufferOutputStream()
pq.write_table(older, sink, store_schema=False)
assert read_table(sink.getvalue().to_pybytes(), "x", sample_schema()).to_pylist()[0]["severity"] is None
"""

Changes = dict[str, tuple[tuple[str, str], ...]]
NEW: Changes = {}
REGION: Changes = {
    "findings.py": (
        ('    "heart": RegionRule(',
         '    "lower half": RegionRule("the lower half of a lung", ("side",), _lower, "both"),\n'
         '    "heart": RegionRule('),
        ('REGIONS: Final[dict[str, RegionRule]]',
         "def _lower(label_map: Mask, side: str, size: float | None) -> Bools:\n"
         "    lungs = np.isin(label_map, LUNGS_OF[side])\n"
         "    lungs[: len(lungs) // 2] = False\n"
         "    return lungs\n\n\nREGIONS: Final[dict[str, RegionRule]]"),
        ('KnownFinding("Mass", "Lung Lesion",', 'KnownFinding("Mass", "Lung Lesion", region="lower half", implies='),
    ),
}  # fmt: skip
HOLD: Changes = {
    "types.py": (('Literal["mixed", "kept"]', 'Literal["mixed", "kept", "hard"]'),),
    "sampling/blend.py": (('    "kept": kept_variance_blend,', '    "kept": kept_variance_blend,\n'
                           '    "hard": lambda z_hat, z, keep, abar, noise: blend(z_hat, z, keep),'),),
}  # fmt: skip
COLUMN: Changes = {
    "types.py": (("    sampling: dict[str, object]\n",
                  "    sampling: dict[str, object]\n    severity: float | None = None\n"),),
    "dataset/meta.py": (('    _fact("digest", str),', '    _fact("digest", str),\n'
                        '    _fact("severity", float | None, "float64", default=None),'),),
}  # fmt: skip
EXTENSIONS = {
    "a finding's region": (REGION, {}, USES_REGION, 1),
    "a check of the gate": (NEW, {"quality/mean.py": CHECK}, USES_CHECK, 1),
    "a blend rule": (HOLD, {}, USES_HOLD, 2),
    "a column of the table": (COLUMN, {}, USES_COLUMN, 2),
}
"""Changed files, new files, what uses them, and how many files of the package that costs. The test and the
documentation come on top, and for a column the place where its value is known."""


@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_extension_costs_so_many_files(name: str, tmp_path: Path) -> None:
    changed, new, uses, files = EXTENSIONS[name]
    assert len(changed) + len(new) == files
    copy = tmp_path / "xreal_synth"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("bundles", "__pycache__"))
    for path, replacements in changed.items():
        text = (copy / path).read_text(encoding="utf-8")
        for old, put in replacements:
            assert text.count(old) == 1, (path, old)
            text = text.replace(old, put)
        (copy / path).write_text(text, encoding="utf-8")
    for path, text in new.items():
        (copy / path).write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PACKAGE.parent}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", uses], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
