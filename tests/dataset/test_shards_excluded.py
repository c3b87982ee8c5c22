"""Images that readers leave out: the file is read back, grows, and is refused when it is not one."""

from __future__ import annotations

from pathlib import Path

import pytest

from xreal_synth.dataset.source import add_excluded, read_excluded
from xreal_synth.errors import DatasetError
from xreal_synth.storage import LocalStore


def test_reasons_are_kept_and_images_added_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert read_excluded(store) == {}
    assert add_excluded(store, {}) == 0
    assert not (tmp_path / "excluded.csv").exists()
    assert add_excluded(store, {"0000000004-v0": 'near, "too" near'}) == 1
    assert add_excluded(store, {"0000000004-v0": "again", "0000000002-h": "blurred"}) == 1
    assert read_excluded(store) == {"0000000002-h": "blurred", "0000000004-v0": 'near, "too" near'}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line missing"),
        ("key\n0000000004-v0\n", "first line"),
        ("key,reason\n0000000004-v0\n", "line 2: 1 cells"),
        ("key,reason\n../4,x\n", "not a sample key"),
        ("key,reason\n\xff", "decode"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "excluded.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=words):
        read_excluded(LocalStore(tmp_path))
