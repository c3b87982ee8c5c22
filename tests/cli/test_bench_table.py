"""The table of `bench sample`, and where it may be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from xreal_synth.cli.main import main


@pytest.mark.parametrize(("out", "reported"), [("no/such/folder/t.md", "no folder"), (".", "is a folder")])
def test_a_table_that_cannot_be_written_is_refused_before_anything_is_measured(
    out: str, reported: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["xreal-synth", "bench", "sample", "--out", out])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert reported in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []
