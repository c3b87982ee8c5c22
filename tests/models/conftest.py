from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xreal_synth.cli.main import main
from xreal_synth.models.describe import SHIPPED


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs `xreal-synth` with these words in a folder of its own -> exit code and what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))

    def run_it(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["xreal-synth", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.err + captured.out

    return run_it


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
