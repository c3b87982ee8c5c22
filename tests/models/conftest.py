from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xreal_synth.models.describe import SHIPPED


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the tiny bundle to break."""
    return Path(shutil.copytree(SHIPPED / "xreal-tiny", tmp_path / "bundle"))


@pytest.fixture
def edit_json(bundle: Path) -> Callable[[Callable[[dict[str, Any]], None]], None]:
    def edit(change: Callable[[dict[str, Any]], None]) -> None:
        path = bundle / "bundle.json"
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    return edit
