"""Copies of training images are found, moved and lighter or darker too; what is not a copy is let be."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.doubles.fakes import fake, fake_head, publish_fakes
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset
from xreal_synth.evaluation.intervals import proportion
from xreal_synth.evaluation.measurements import ImagePairs, ImageSet
from xreal_synth.evaluation.privacy import audit_images, nearest_by_pixels
from xreal_synth.export.txrv import SyntheticDataset
from xreal_synth.quality import copies
from xreal_synth.storage import LocalStore
from xreal_synth.types import GreyImage, ShardPlan

Evaluate = Callable[..., int]
Out = pytest.CaptureFixture[str]
Change = Callable[[GreyImage], GreyImage]


def cloud(seed: int, side: int = 128) -> GreyImage:
    """Smooth noise: no two seeds are alike."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), side / 16)
    return np.asarray(120 + 100 * field / np.abs(field).max(), np.uint8)


def moved(image: GreyImage, down: int, right: int) -> GreyImage:
    return np.roll(image, (down, right), (0, 1))


def lit(image: GreyImage, gain: float, more: float) -> GreyImage:
    return np.clip(image.astype(float) * gain + more, 0, 255).astype(np.uint8)


CHANGES: dict[str, Change] = {
    "as it is": lambda image: image,
    "moved by half a reduced pixel": lambda image: moved(image, 2, -2),
    "moved by 1/18": lambda image: moved(image, -7, 7),
    "lighter": lambda image: lit(image, 1, 30),
    "flatter and darker": lambda image: lit(image, 0.7, -5),
    "moved and lighter": lambda image: lit(moved(image, 3, 5), 1.1, 10),
}


def reduced(image: GreyImage) -> npt.NDArray[np.float32]:
    return copies.reduced(image).reshape(64, 64).astype(np.float32)


def seen(images: list[GreyImage], patients: list[str]) -> ImageSet:
    features = np.stack([image[::32, ::32].ravel() for image in images]).astype(np.float32)
    small, groups, rest = np.stack([copies.reduced(one) for one in images]), np.asarray(patients), np.empty(0)
    return ImageSet(
        features=features, logits=rest, rings=rest, reduced=small, dice=rest, peaks=rest.astype(int),
        groups=groups, labels=rest.astype(int), paired=rest, flagged=rest.astype(bool),
        inception=rest.astype(np.float32), sources=rest.astype(object), pairs=ImagePairs(),
    )  # fmt: skip


TRAINING = [cloud(seed) for seed in range(40)]
PATIENTS = [str(at // 2) for at in range(40)]
OTHERS = [cloud(seed) for seed in range(100, 120)]


@pytest.mark.parametrize("name", CHANGES)
def test_a_planted_copy_is_found_whatever_was_done_to_it(name: str) -> None:
    made = [*OTHERS[:5], CHANGES[name](TRAINING[17])]
    keys = [f"image{at}" for at in range(6)]
    audit = audit_images(keys, seen(made, keys), seen(TRAINING, PATIENTS), seen(OTHERS[5:], ["v"] * 15))
    (copy,) = (pair for pair in audit.copies if "pixels" in pair.by)
    assert (copy.key, copy.training) == ("image5", 17)
    assert audit.pairs[0] == copy
    assert audit.metrics["pixels"].made.value == pytest.approx(1 / 6)
    assert audit.metrics["pixels"].validation.value == 0


def test_distances_are_those_of_all_windows_by_hand() -> None:
    images, training = [reduced(image) for image in OTHERS[:2]], [reduced(image) for image in TRAINING[:3]]
    apart, which = nearest_by_pixels(np.stack(images), np.stack(training))

    def unit(window: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        flat = window.reshape(28, 2, 28, 2).mean(axis=(1, 3)).ravel().astype(float)
        return np.asarray((flat - flat.mean()) / np.linalg.norm(flat - flat.mean()))

    for at, image in enumerate(images):
        by_hand = [
            min(
                float(np.linalg.norm(unit(image[4:60, 4:60]) - unit(other[y : y + 56, x : x + 56])))
                for y in range(9)
                for x in range(9)
            )
            for other in training
        ]
        assert apart[at] == pytest.approx(min(by_hand), abs=1e-3)
        assert which[at] == int(np.argmin(by_hand))


def test_the_threshold_is_of_different_patients_alone() -> None:
    twice = [image for image in TRAINING[:20] for _ in range(2)]
    audit = audit_images(["a"], seen(OTHERS[:1], ["a"]), seen(twice, PATIENTS), seen(OTHERS[1:3], ["v", "w"]))
    same, _ = nearest_by_pixels(*(np.stack([reduced(image) for image in twice]),) * 2)
    assert same.max() < 0.01
    own = np.asarray(PATIENTS)
    apart, _ = nearest_by_pixels(*(np.stack([reduced(image) for image in twice]),) * 2, (own, own))
    assert audit.metrics["pixels"].threshold == pytest.approx(np.percentile(apart, 0.1))
    assert audit.metrics["pixels"].threshold > 0.1


def test_a_share_has_the_exact_interval() -> None:
    """None of 20: Clopper and Pearson's upper end is 1 - 0.025^(1/20)."""
    none = proportion(0, 20, "exact")
    assert (none.value, none.ci_low) == (0, 0)
    assert none.ci_high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert proportion(20, 20, "exact").ci_low == pytest.approx(0.025 ** (1 / 20))


@pytest.fixture
def planted(images: Path, tmp_path: Path) -> Path:
    """Eight groups of drawn images; the image of group 5 is a training image, moved and lighter."""
    store = LocalStore(tmp_path / "made")
    open_dataset(store, fake_head(shard_samples=8), "version: 1\n", lambda there, here: [])
    samples = [fake(group, "h", size=64) for group in range(8)]
    with Image.open(images / "image9.png") as image:
        copy = np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS))
    samples[5] = replace(samples[5], image=lit(moved(copy, 1, 2), 1, 15))
    publish_fakes(store, ShardPlan("fakes", 0, 0, 8), samples)
    finish(store, fake_head(shard_samples=8), split_of=lambda group: "train")
    return Path(store.uri)


def test_the_command_lists_quarantines_and_says_the_same_again(
    planted: Path, images: Path, evaluators: Path, tmp_path: Path, evaluate: Evaluate, capsys: Out
) -> None:
    options = ["privacy", str(planted), "--train", str(images / "manifest.csv"), "--evaluators", str(evaluators)]
    assert evaluate(*options, "--sheet", str(tmp_path / "pairs.png"), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["training_images"], found["validation_images"]) == (8, 8, 6)
    assert "0000000005-h" in [copy["key"] for copy in found["copies"]]
    near = {copy["key"]: copy for copy in found["nearest"]}["0000000005-h"]
    assert near["training"] == "image9.png"
    assert "pixels" in near["by"]
    kept = (planted / "privacy.json").read_text()
    assert "image9.png" not in kept, "the dataset's folder names no training image"
    assert not (planted / "excluded.csv").exists()
    with Image.open(tmp_path / "pairs.png") as sheet:
        assert sheet.width > 6 * 256

    assert evaluate(*options, "--quarantine") == 0
    reported = capsys.readouterr()
    assert "0000000005-h  nearest image9.png: pixels" in reported.out
    assert "added to" in reported.err
    with (planted / "excluded.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["key"] for row in rows} == {copy["key"] for copy in found["copies"]}
    assert all("below" in row["reason"] for row in rows)
    assert "0000000005-h" not in set(SyntheticDataset(planted).csv["key"])
    assert evaluate(*options, "--quarantine") == 0
    assert "0 images added" in capsys.readouterr().err
    assert (planted / "privacy.json").read_text() == kept


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--split", "train"], "both in training and in validation"),
        (["--train-split", "test"], "no usable row of split 'test'"),
        (["--real", "nowhere/"], "manifest.csv"),
    ],
)
def test_mistakes_are_reported(
    planted: Path, images: Path, evaluators: Path, evaluate: Evaluate, capsys: Out, more: list[str], words: str
) -> None:
    assert evaluate("privacy", str(planted), "--train", str(images), "--evaluators", str(evaluators), *more) == 2
    assert words in capsys.readouterr().err
    assert not (planted / "privacy.json").exists()


def test_validation_images_that_cannot_be_read_are_reported(
    planted: Path, images: Path, evaluators: Path, tmp_path: Path, evaluate: Evaluate, capsys: Out
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(images, broken)
    for image in broken.glob("image*.png"):
        image.write_bytes(b"no image")
    options = ["--train", str(images), "--real", str(broken), "--evaluators", str(evaluators)]
    assert evaluate("privacy", str(planted), *options) == 2
    assert "no usable validation image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "more", "words"),
    [
        ("privacy", ["--train"], "its own source by intention"),
        ("utility", ["--finding", "Pneumonia", "--out", "OUT", "--real"], "a test patient's"),
        ("readers make", ["OUT", "--real"], "neither real nor synthetic"),
    ],
)
def test_images_edited_from_real_ones_are_refused(
    edited_dataset: Path, images: Path, tmp_path: Path, evaluate: Evaluate, capsys: Out,
    command: str, more: list[str], words: str,
) -> None:  # fmt: skip
    options = [str(tmp_path / "out") if one == "OUT" else one for one in more]
    assert evaluate(*command.split(), str(edited_dataset), *options, str(images)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
