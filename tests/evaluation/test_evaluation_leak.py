"""The leak probe: finds what betrays an edit, and nothing where there is nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tests.doubles.phantoms import box_finding, phantom, phantom_head, publish_phantoms
from xreal_synth.anatomy.regions import region_mask
from xreal_synth.cli.main import main
from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.leak import FEATURES, features, leak
from xreal_synth.shards.head import open_dataset
from xreal_synth.storage import LocalStore
from xreal_synth.types import Film, Sample, ShardPlan

SIZE = 64
Trace = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def smoothed(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ndimage.gaussian_filter(film, 0.6)


def louder(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return film + rng.normal(0, 6, film.shape)


def gridded(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return film + 4 * (np.indices(film.shape).sum(axis=0) % 2)


def brighter(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return film + 25


def renoised(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As good an edit as can be: the phantom's own noise, drawn anew."""
    smooth = np.round((film - 60) / 45) * 45 + 60
    return smooth + rng.normal(0, 6, film.shape)


def groups(trace: Trace, count: int = 40) -> Iterator[Sample]:
    """Twins of plain organs with noise, and shams with a trace in a box that moves about."""
    for group in range(count):
        rng = np.random.default_rng(group)
        x, y = (int(rng.integers(2, 7)) * 4 for _ in range(2))
        place = box_finding("Pneumonia", (x, y, x + 20, y + 24))
        twin = phantom(group, "h", size=SIZE)
        yield replace(twin, film=plain(group))
        sham = phantom(group, "s0", size=SIZE, sham=[place])
        painted = trace(plain(group).astype(float), rng).clip(0, 255).round().astype(np.uint8)
        region = region_mask(place, sham.anatomy)
        yield replace(sham, film=np.where(region, painted, plain(group)))


def plain(group: int) -> Film:
    rng = np.random.default_rng(1000 + group)
    levels = 60 + 45 * np.round(ndimage.gaussian_filter(rng.normal(0, 12, (SIZE, SIZE)), 8))
    return np.asarray((levels + rng.normal(0, 6, levels.shape)).clip(0, 255).round(), dtype=np.uint8)


@pytest.mark.parametrize("trace", [smoothed, louder, gridded])
def test_what_betrays_an_edit_is_found(trace: Trace) -> None:
    figures = leak(groups(trace))
    assert figures.auc.low > 0.85
    assert figures.auc.n == 80
    assert figures.groups == 40
    assert max(figures.alone.values()) > 0.7


def test_a_step_at_the_border_is_found() -> None:
    figures = leak(groups(brighter))
    assert figures.auc.low > 0.7
    assert figures.alone["grey step at the border"] > 0.7


def test_a_perfect_edit_cannot_be_told() -> None:
    figures = leak(groups(renoised, 60))
    assert figures.auc.low < 0.5 < figures.auc.high
    few = [leak(groups(renoised, 20), most=12) for _ in range(2)]
    assert few[0] == few[1]
    assert few[0].groups == 12


def test_features_are_finite_for_any_region() -> None:
    film = phantom(0, "h", size=SIZE).film
    for box in ((0, 0, SIZE, SIZE), (0, 0, 4, 4), (60, 60, 64, 64), (0, 30, SIZE, 34)):
        region = np.zeros((SIZE, SIZE), dtype=bool)
        region[box[1] : box[3], box[0] : box[2]] = True
        told = features(film, region)
        assert told.shape == (len(FEATURES),)
        assert np.isfinite(told).all()
    assert np.isfinite(features(np.zeros_like(film), region)).all()


def test_groups_without_a_twin_or_a_sham_are_no_pairs() -> None:
    with pytest.raises(DatasetError, match=r"(?s)0 groups with a sham.*pairs: \{twin: true, sham: 1.0\}"):
        leak(sample for sample in groups(smoothed) if sample.meta.member == "s0")


def test_the_command_leaves_its_figures_with_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, head = LocalStore(tmp_path), phantom_head(shard_samples=12)
    open_dataset(store, head, "version: 1\n", lambda there, here: [])
    samples = []
    for group in range(12):
        place = box_finding("Pneumonia", (8, 16, 32, 44))
        samples += [phantom(group, "h", size=SIZE), phantom(group, "v0", [place], size=SIZE)]
        samples.append(phantom(group, "s0", size=SIZE, sham=[place]))
    publish_phantoms(store, ShardPlan("phantoms", 0, 0, 12), samples)
    monkeypatch.setattr("sys.argv", ["xreal-synth", "evaluate", "leak", str(tmp_path), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = json.loads((tmp_path / "leak.json").read_text())
    assert json.loads(capsys.readouterr().out) == told
    assert set(told) == {"auc", "low", "high", "n", "groups", "features", "digest"}
    assert told["n"] == 24
    assert set(told["features"]) == set(FEATURES)
