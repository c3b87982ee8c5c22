"""Hostile inputs of every kind: each is refused in words, within a few seconds and a few hundred megabytes."""

from __future__ import annotations

import time
from pathlib import Path

import files_and_places
import images_and_archives
import pytest

from xreal_synth.anatomy.film_boxes import BadBoxes
from xreal_synth.anatomy.manifest import BadFilm
from xreal_synth.errors import XrealError
from xreal_synth.opening import UnreadableError

MOST_S = 10.0
MOST_MIB = 320
REFUSED = (XrealError, UnreadableError, BadFilm, BadBoxes)
CORPUS = dict([*images_and_archives.attacks(), *files_and_places.attacks()])


def test_the_corpus_is_whole():
    assert len(CORPUS) >= 150


@pytest.mark.parametrize("name", CORPUS)
def test_it_is_refused_in_bounds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XREAL_CACHE", str(tmp_path / "cache"))
    before, start = reset_peak(), time.monotonic()
    with pytest.raises(REFUSED) as told:
        CORPUS[name](tmp_path)
    took, grew = time.monotonic() - start, peak_kib() - before
    assert str(told.value)
    assert "SECRETQ" not in str(told.value)
    assert took < MOST_S
    assert grew < MOST_MIB << 10, f"{grew >> 10} MiB"


def reset_peak() -> int:
    """Has Linux forget this process's peak of memory; its memory now, KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kib()


def peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
