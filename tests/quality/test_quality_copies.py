"""The copy check: its index file, a copied training image, and the command that makes the index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from xreal_synth.cli.main import app
from xreal_synth.errors import BundleError
from xreal_synth.quality.checks import JudgedImage
from xreal_synth.quality.copies import build_index, index_threshold, read_index, write_index
from xreal_synth.quality.gate import Gate
from xreal_synth.types import CheckSettings, QualitySettings


def blobs(seed: int, size: int = 96) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 6)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is read in several blocks."""
    monkeypatch.setattr("xreal_synth.quality.copies._ROWS", 128)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("copies") / "index.safetensors"
    images = ((f"{seed}.png", str(seed // 2), blobs(seed)) for seed in range(300))
    path.write_bytes(write_index(build_index(images)))
    return path


def test_a_copied_training_image_is_refused_and_another_is_not(index: Path) -> None:
    settings = CheckSettings("copies", "reject", {"distance": index_threshold(index)}, str(index))
    gate = Gate(QualitySettings("standard", 3, (settings,)))
    copied = blobs(250, 128).astype(int) + np.random.default_rng(0).integers(-6, 7, (128, 128))
    copy, other = gate.judge([JudgedImage("a", copied.clip(0, 255).astype(np.uint8)), JudgedImage("b", blobs(5000))])
    assert copy.refused == ("copies.distance",)
    assert "nearest training image" in copy.reasons[0]
    assert other.accepted


def test_the_index_finds_the_image_itself_and_keeps_its_names(index: Path) -> None:
    read = read_index(index)
    apart, which = read.nearest(blobs(200))
    assert read.names[which] == "200.png"
    assert apart < 0.5 < read.threshold
    others = [seed for seed in range(300) if seed // 2 != 100]
    apart = min(build_index([(str(s), "p", blobs(s))]).nearest(blobs(200))[0] for s in others[:50])
    assert apart >= read.threshold


def test_the_threshold_is_a_percentile_of_the_nearest_of_other_patients() -> None:
    images = [(str(s), str(s // 2), blobs(s)) for s in range(12)]
    made = build_index(images)
    flat = np.stack([np.asarray(t, float) - np.mean(t) for t in made.thumbs])
    apart = np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(-1))
    apart[[[a // 2 == b // 2 for b in range(12)] for a in range(12)]] = np.inf
    assert made.threshold == pytest.approx(np.percentile(apart.min(1), 0.1))


def test_images_of_one_patient_alone_give_no_threshold() -> None:
    assert build_index((str(seed), "one", blobs(seed)) for seed in range(3)).threshold == 0


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", None])
def test_another_file_is_no_index(tmp_path: Path, content: bytes | None) -> None:
    from safetensors.numpy import save

    path = tmp_path / "x"
    path.write_bytes(save({"a": np.zeros(3, np.float32)}) if content is None else content)
    with pytest.raises(BundleError, match="quality index"):
        read_index(path)


def test_the_command_makes_an_index(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "index.safetensors"
    reported = CliRunner().invoke(app, ["quality", "index", "--data", str(image_folder()), str(out)])
    assert reported.exit_code == 0, reported.output
    assert "3 images" in reported.output
    assert read_index(out).names == ("a.png", "b.png", "c.png")


def test_an_index_has_the_same_bytes_whenever_it_is_written(index: Path) -> None:
    read = read_index(index)
    assert {write_index(read) for _ in range(20)} == {index.read_bytes()}
