"""The wheel, installed outside of the clone: recipes, bundles and the API are in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("setuptools") is None or find_spec("pip") is None, reason="nothing builds a wheel here")
def test_recipes_are_planned_by_name_without_a_clone(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("xreal_synth", "recipes"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."],
        cwd=source, capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    script = (
        "import sys, xreal_synth\n"
        "from xreal_synth import Finding, plan\n"
        "from xreal_synth.recipe.load import shipped_recipes\n"
        "print(xreal_synth.__file__)\n"
        "print(*(plan(name).probe.images for name in ('own-masks', 'quickstart')))\n"
        "print(Finding('Effusion').name, len(shipped_recipes()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True,
        env=os.environ | {"PYTHONPATH": str(site)},
    )  # fmt: skip
    place, *rest = done.stdout.split()
    assert Path(place).is_relative_to(site)
    assert rest == ["64.0", "40.0", "Effusion", str(len(list((ROOT / "recipes").glob("*.yaml"))))]
