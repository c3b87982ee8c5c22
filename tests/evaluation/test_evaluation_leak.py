"""The leak probe: finds what betrays an edit, and nothing where there is nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tests.doubles.fakes import box_finding, fake, fake_head, publish_fakes
from xreal_synth.anatomy.regions import region_mask
from xreal_synth.cli.main import main
from xreal_synth.dataset.head import open_dataset
from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.leak import FEATURES, features, leak
from xreal_synth.storage import LocalStore
from xreal_synth.types import GreyImage, Sample, ShardPlan

SIZE = 64
Trace = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def smoothed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ndimage.gaussian_filter(image, 0.6)


def louder(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image + rng.normal(0, 6, image.shape)


def gridded(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image + 4 * (np.indices(image.shape).sum(axis=0) % 2)


def brighter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image + 25


def renoised(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As good an edit as can be: the fake's own noise, drawn anew."""
    smooth = np.round((image - 60) / 45) * 45 + 60
    return smooth + rng.normal(0, 6, image.shape)


def groups(trace: Trace, count: int = 40) -> Iterator[Sample]:
    """Twins of plain organs with noise, and shams with a trace in a box that moves about."""
    for group in range(count):
        rng = np.random.default_rng(group)
        x, y = (int(rng.integers(2, 7)) * 4 for _ in range(2))
        place = box_finding("Pneumonia", (x, y, x + 20, y + 24))
        twin = fake(group, "h", size=SIZE)
        yield replace(twin, image=plain(group))
        sham = fake(group, "s0", size=SIZE, sham=[place])
        painted = trace(plain(group).astype(float), rng).clip(0, 255).round().astype(np.uint8)
        region = region_mask(place, sham.anatomy)
        yield replace(sham, image=np.where(region, painted, plain(group)))


def plain(group: int) -> GreyImage:
    rng = np.random.default_rng(1000 + group)
    levels = 60 + 45 * np.round(ndimage.gaussian_filter(rng.normal(0, 12, (SIZE, SIZE)), 8))
    return np.asarray((levels + rng.normal(0, 6, levels.shape)).clip(0, 255).round(), dtype=np.uint8)


@pytest.mark.parametrize("trace", [smoothed, louder, gridded])
def test_what_betrays_an_edit_is_found(trace: Trace) -> None:
    figures = leak(groups(trace), steps=1 if trace is gridded else 60)
    assert figures.auc.ci_low > 0.85
    if trace is not gridded:
        assert figures.network.ci_low > 0.7
    assert figures.auc.n == figures.network.n == 80
    assert figures.groups == 40
    assert max(figures.alone.values()) > 0.7


def test_a_step_at_the_border_is_found() -> None:
    figures = leak(groups(brighter), steps=1)
    assert figures.auc.ci_low > 0.7
    assert figures.alone["grey step at the border"] > 0.7


def test_a_perfect_edit_cannot_be_reported() -> None:
    figures = leak(groups(renoised, 60), steps=60)
    assert figures.auc.ci_low < 0.5 < figures.auc.ci_high
    assert figures.network.ci_low < 0.55
    few = [leak(groups(renoised, 20), most=12, steps=5) for _ in range(2)]
    assert few[0] == few[1]
    assert few[0].groups == 12


def test_features_are_finite_for_any_region() -> None:
    image = fake(0, "h", size=SIZE).image
    for box in ((0, 0, SIZE, SIZE), (0, 0, 4, 4), (60, 60, 64, 64), (0, 30, SIZE, 34)):
        region = np.zeros((SIZE, SIZE), dtype=bool)
        region[box[1] : box[3], box[0] : box[2]] = True
        reported = features(image, region)
        assert reported.shape == (len(FEATURES),)
        assert np.isfinite(reported).all()
    assert np.isfinite(features(np.zeros_like(image), region)).all()


def test_groups_without_a_twin_or_a_sham_are_no_pairs() -> None:
    with pytest.raises(DatasetError, match=r"(?s)0 groups with a sham.*pairs: \{twin: true, sham: 1.0\}"):
        leak(sample for sample in groups(smoothed) if sample.meta.member == "s0")


def test_the_command_leaves_its_figures_with_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, head = LocalStore(tmp_path), fake_head(shard_samples=12)
    open_dataset(store, head, "version: 1\n", lambda there, here: [])
    samples = []
    for group in range(12):
        place = box_finding("Pneumonia", (8, 16, 32, 44))
        samples += [fake(group, "h", size=SIZE), fake(group, "v0", [place], size=SIZE)]
        samples.append(fake(group, "s0", size=SIZE, sham=[place]))
    publish_fakes(store, ShardPlan("fakes", 0, 0, 12), samples)
    monkeypatch.setattr("xreal_synth.evaluation.leak.leak", partial(leak, steps=5))
    monkeypatch.setattr("sys.argv", ["xreal-synth", "evaluate", "leak", str(tmp_path), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    reported = json.loads((tmp_path / "leak.json").read_text())
    assert json.loads(capsys.readouterr().out) == reported
    assert set(reported) == {"auc", "low", "high", "n", "groups", "network", "features", "digest"}
    assert reported["n"] == 24
    assert set(reported["features"]) == set(FEATURES)
