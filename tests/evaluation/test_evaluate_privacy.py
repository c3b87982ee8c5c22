"""Copies of training films are found, moved and lighter or darker too; what is not a copy is let be."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.doubles.phantoms import phantom, phantom_head, publish_phantoms
from xreal_synth.evaluation.privacy import Seen, audit_films, nearest_by_pixels, rate, reduced
from xreal_synth.export.txrv import SyntheticDataset
from xreal_synth.shards.finish import finish
from xreal_synth.shards.head import open_dataset
from xreal_synth.storage import LocalStore
from xreal_synth.types import Film, ShardPlan

Evaluate = Callable[..., int]
Out = pytest.CaptureFixture[str]
Change = Callable[[Film], Film]


def cloud(seed: int, side: int = 128) -> Film:
    """Smooth noise: no two seeds are alike."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), side / 16)
    return np.asarray(120 + 100 * field / np.abs(field).max(), np.uint8)


def moved(film: Film, down: int, right: int) -> Film:
    return np.roll(film, (down, right), (0, 1))


def lit(film: Film, gain: float, more: float) -> Film:
    return np.clip(film.astype(float) * gain + more, 0, 255).astype(np.uint8)


CHANGES: dict[str, Change] = {
    "as it is": lambda film: film,
    "moved by half a reduced pixel": lambda film: moved(film, 2, -2),
    "moved by 1/18": lambda film: moved(film, -7, 7),
    "lighter": lambda film: lit(film, 1, 30),
    "flatter and darker": lambda film: lit(film, 0.7, -5),
    "moved and lighter": lambda film: lit(moved(film, 3, 5), 1.1, 10),
}


def seen(films: list[Film], patients: list[str]) -> Seen:
    features = np.stack([film[::32, ::32].ravel() for film in films]).astype(np.float32)
    return Seen(np.stack([reduced(film) for film in films]), features, np.asarray(patients))


TRAINING = [cloud(seed) for seed in range(40)]
PATIENTS = [str(at // 2) for at in range(40)]
OTHERS = [cloud(seed) for seed in range(100, 120)]


@pytest.mark.parametrize("name", CHANGES)
def test_a_planted_copy_is_found_whatever_was_done_to_it(name: str) -> None:
    made = [*OTHERS[:5], CHANGES[name](TRAINING[17])]
    keys = [f"film{at}" for at in range(6)]
    audit = audit_films(keys, seen(made, keys), seen(TRAINING, PATIENTS), seen(OTHERS[5:], ["v"] * 15))
    (copy,) = (pair for pair in audit.copies if "pixels" in pair.by)
    assert (copy.key, copy.training) == ("film5", 17)
    assert audit.pairs[0] == copy
    assert audit.metrics["pixels"].made.mean == pytest.approx(1 / 6)
    assert audit.metrics["pixels"].validation.mean == 0


def test_distances_are_those_of_all_windows_by_hand() -> None:
    films, training = [reduced(film) for film in OTHERS[:2]], [reduced(film) for film in TRAINING[:3]]
    apart, which = nearest_by_pixels(np.stack(films), np.stack(training))

    def unit(window: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        flat = window.reshape(28, 2, 28, 2).mean(axis=(1, 3)).ravel().astype(float)
        return np.asarray((flat - flat.mean()) / np.linalg.norm(flat - flat.mean()))

    for at, film in enumerate(films):
        by_hand = [
            min(
                float(np.linalg.norm(unit(film[4:60, 4:60]) - unit(other[y : y + 56, x : x + 56])))
                for y in range(9)
                for x in range(9)
            )
            for other in training
        ]
        assert apart[at] == pytest.approx(min(by_hand), abs=1e-3)
        assert which[at] == int(np.argmin(by_hand))


def test_the_threshold_is_of_different_patients_alone() -> None:
    twice = [film for film in TRAINING[:20] for _ in range(2)]
    audit = audit_films(["a"], seen(OTHERS[:1], ["a"]), seen(twice, PATIENTS), seen(OTHERS[1:3], ["v", "w"]))
    same, _ = nearest_by_pixels(*(np.stack([reduced(film) for film in twice]),) * 2)
    assert same.max() < 0.01
    own = np.asarray(PATIENTS)
    apart, _ = nearest_by_pixels(*(np.stack([reduced(film) for film in twice]),) * 2, (own, own))
    assert audit.metrics["pixels"].threshold == pytest.approx(np.percentile(apart, 0.1))
    assert audit.metrics["pixels"].threshold > 0.1


def test_a_share_has_the_exact_interval() -> None:
    """None of 20: Clopper and Pearson's upper end is 1 - 0.025^(1/20)."""
    none = rate(np.zeros(20, bool))
    assert (none.mean, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert rate(np.ones(20, bool)).low == pytest.approx(0.025 ** (1 / 20))


@pytest.fixture
def planted(films: Path, tmp_path: Path) -> Path:
    """Eight groups of drawn films; the film of group 5 is a training film, moved and lighter."""
    store = LocalStore(tmp_path / "made")
    open_dataset(store, phantom_head(shard_samples=8), "version: 1\n", lambda there, here: [])
    samples = [phantom(group, "h", size=64) for group in range(8)]
    with Image.open(films / "film9.png") as image:
        copy = np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS))
    samples[5] = replace(samples[5], film=lit(moved(copy, 1, 2), 1, 15))
    publish_phantoms(store, ShardPlan("phantoms", 0, 0, 8), samples)
    finish(store, phantom_head(shard_samples=8), split_of=lambda group: "train")
    return Path(store.uri)


def test_the_command_lists_quarantines_and_says_the_same_again(
    planted: Path, films: Path, judges: Path, tmp_path: Path, evaluate: Evaluate, capsys: Out
) -> None:
    options = ["privacy", str(planted), "--train", str(films / "manifest.csv"), "--judges", str(judges)]
    assert evaluate(*options, "--sheet", str(tmp_path / "pairs.png"), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["films"], found["training_films"], found["validation_films"]) == (8, 8, 6)
    assert "0000000005-h" in [copy["key"] for copy in found["copies"]]
    near = {copy["key"]: copy for copy in found["nearest"]}["0000000005-h"]
    assert near["training"] == "film9.png"
    assert "pixels" in near["by"]
    kept = (planted / "privacy.json").read_text()
    assert "film9.png" not in kept, "the dataset's folder names no training film"
    assert not (planted / "excluded.csv").exists()
    with Image.open(tmp_path / "pairs.png") as sheet:
        assert sheet.width > 6 * 256

    assert evaluate(*options, "--quarantine") == 0
    told = capsys.readouterr()
    assert "0000000005-h  nearest film9.png: pixels" in told.out
    assert "added to" in told.err
    with (planted / "excluded.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["key"] for row in rows} == {copy["key"] for copy in found["copies"]}
    assert all("below" in row["reason"] for row in rows)
    assert "0000000005-h" not in set(SyntheticDataset(planted).csv["key"])
    assert evaluate(*options, "--quarantine") == 0
    assert "0 films added" in capsys.readouterr().err
    assert (planted / "privacy.json").read_text() == kept


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--split", "train"], "both in training and in validation"),
        (["--train-split", "test"], "no usable row of split 'test'"),
        (["--real", "nowhere/"], "manifest.csv"),
    ],
)
def test_mistakes_are_told(
    planted: Path, films: Path, judges: Path, evaluate: Evaluate, capsys: Out, more: list[str], words: str
) -> None:
    assert evaluate("privacy", str(planted), "--train", str(films), "--judges", str(judges), *more) == 2
    assert words in capsys.readouterr().err
    assert not (planted / "privacy.json").exists()


@pytest.mark.parametrize(
    ("command", "more", "words"),
    [
        ("privacy", ["--train"], "its own source by intention"),
        ("utility", ["--finding", "Pneumonia", "--out", "OUT", "--real"], "a test patient's"),
        ("readers make", ["OUT", "--real"], "neither real nor synthetic"),
    ],
)
def test_films_edited_from_real_ones_are_refused(
    edited_dataset: Path, films: Path, tmp_path: Path, evaluate: Evaluate, capsys: Out,
    command: str, more: list[str], words: str,
) -> None:  # fmt: skip
    options = [str(tmp_path / "out") if one == "OUT" else one for one in more]
    assert evaluate(*command.split(), str(edited_dataset), *options, str(films)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
