"""The notebook's cells run in order, on the tiny bundle and a few images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from xreal_synth import Dataset, GeneratedImage

NOTEBOOK = Path(__file__).parents[1] / "recipes/from-nothing-to-a-classifier.ipynb"
SMALLER = {'BUNDLE = "xreal-mini"': 'BUNDLE = "xreal-tiny"', '"anatomies": 32': '"anatomies": 12'}


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "kept without outputs"
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.ray
def test_from_nothing_to_a_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    names: dict[str, Any] = {}
    text = "\n".join(cells())
    assert all(text.count(old) == 1 for old in SMALLER)
    with torch.random.fork_rng(devices=[]):
        for number, cell in enumerate(cells()):
            for old, new in SMALLER.items():
                cell = cell.replace(old, new)
            exec(compile(cell, f"cell {number}", "exec"), names)
    assert isinstance(names["out"], GeneratedImage)
    assert isinstance(names["dataset"], Dataset)
    assert len(names["shown"]) == 6
    assert len(names["labels"]) + len(names["truth"]) == len(names["dataset"]) == 12
    assert 0 <= names["auroc"] <= 1
    assert names["loss"].item() < 0.7
