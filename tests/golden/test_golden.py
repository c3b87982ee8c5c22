"""The reference's own arrays, matched by this project's converter and sampler (see check.py)."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.numeric

HERE = Path(__file__).parent
FOLDER = HERE / "xreal-tiny"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_check", HERE / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "golden"))


def vectors() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "vectors.npz") as file:
        return dict(file)


@pytest.mark.parametrize("options", [[], ["--bundle", "--batch", "4"]])
def test_every_array_is_within_1e_4(options: list[str], check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Measured: the worst is x_hat with 1.7e-5."""
    assert check.main([*options, str(FOLDER)]) == 0
    lines = capsys.readouterr().out.splitlines()
    outputs = set(vectors()) - set(check.INPUTS)
    assert {line.split()[0] for line in lines[:-1]} == outputs
    assert lines[-1].startswith("worst ")


def test_wrong_arrays_fail(check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, arrays = copy(tmp_path), vectors()
    for name, factor in (("text_label", 1.01), ("z_pathology", 1.0003)):
        arrays[name] = arrays[name] * np.float32(factor)
    np.savez(folder / "vectors.npz", **arrays)
    assert check.main([str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("WRONG")] == ["text_label", "z_pathology"]


@pytest.mark.parametrize("name", ["x_anatomy", "noise"])
def test_a_missing_array_fails(check: ModuleType, tmp_path: Path, name: str) -> None:
    folder, arrays = copy(tmp_path), vectors()
    del arrays[name]
    np.savez(folder / "vectors.npz", **arrays)
    assert check.main([str(folder)]) == 1


@pytest.mark.parametrize(("key", "value"), [("guidance", 6.9), ("hold_steps", 4), ("steps", 20)])
def test_settings_are_read_from_config(check: ModuleType, tmp_path: Path, key: str, value: float) -> None:
    folder = copy(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    assert check.main([str(folder)]) == 1
