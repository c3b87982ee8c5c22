"""The training guide's commands run as written on a dozen images, with tiny networks of two steps each."""

from __future__ import annotations

import csv
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.documents import ROOT, blocks, guide
from tests.doubles.schematic import schematic_mask
from xreal_synth.cli.main import app
from xreal_synth.dataset.verify import verify
from xreal_synth.errors import TrainingError
from xreal_synth.models.describe import describe, verify_files
from xreal_synth.models.load import load_bundle
from xreal_synth.storage import LocalStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SIDE = 64
FINDINGS = ["Pneumonia", "Infiltration", "Atelectasis", "Effusion", "Edema", "No Finding"]
EVERY = [
    *("loop.steps=2", "loop.batch=2", "loop.warmup_steps=1", "loop.validate_every=1", "loop.preview_every=2"),
    f"data.image_size={SIDE}",
]
TINY = {
    "autoencoder": ["model.refiner_width=8", "model.refiner_blocks=1", "model.critic_width=8"],
    "anatomy-controller": ["model.width=8", "model.blocks=1"],
    "denoiser": ["model.channels=[32, 32]", "model.attention=[false, true]", "model.token_width=8"],
    "controlnet": ["model.hint_channels=[4, 8, 8, 8]"],
    "segmenter": ["model.inner_size=32", "model.channels=[8, 8]"],
    "classifier": ["model.inner_size=32", "model.blocks=[1]"],
}
"""The guide's networks, smaller: `--set` these."""


def write_images(folder: Path, images: int = 16) -> None:
    """Square images whose grey follows schematic masks: one of each finding, then enough without for a mask bank."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    rows = []
    for number in range(images):
        mask = schematic_mask(SIDE, rng)
        grey = 60 + 150 * (mask == 0) + 110 * (mask > 2) + rng.normal(0, 8, mask.shape)
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / f"image{number}.png")
        Image.fromarray(mask).save(folder / f"mask{number}.png")
        rows.append(
            [
                f"image{number}.png",
                f"mask{number}.png",
                "Edema" if number == images - 2 else FINDINGS[min(number, 5)],
                number,
                "train" if number < images - 2 else "val",
            ]
        )
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "mask", "labels", "patient_id", "split"], *rows])


def commands(mark: str) -> Iterator[list[str]]:
    """The arguments of each xreal-synth command in the guide's one sh block that holds `mark`."""
    (block,) = (block for block in blocks(guide("training"), "sh") if mark in block)
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "xreal-synth", line
        yield words[1:]


def run(words: list[str]) -> None:
    """One command as the guide gives it, made small by further --set."""
    more: list[str] = []
    if words[0] == "train":
        more = [*EVERY, *TINY[words[1]]]
    elif words[0] == "generate":
        more = ["anatomies=2", "compute.actors=1", "sampling.steps=4"]
    reported = CliRunner().invoke(app, [*words, *(word for change in more for word in ("--set", change))])
    assert reported.exit_code == 0, (words, reported.output, reported.exception)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own-images")
    write_images(folder / "images")
    (folder / "recipes").mkdir()
    shutil.copyfile(ROOT / "recipes/quickstart.yaml", folder / "recipes/quickstart.yaml")
    return folder


@pytest.mark.ray
@pytest.mark.usefixtures("joined_ray")
def test_train_on_your_own_images(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    torch.set_num_threads(1)
    for words in commands("train autoencoder"):
        run(words)
    info = describe(place / "my-bundle")
    verify_files(info)
    assert (info.image_size, info.latent_shape, info.scale_factor) == (SIDE, (8, 8, 8), 1.0)
    assert set(info.prompts) == set(FINDINGS) - {"No Finding"}
    assert info.licence == "CC-BY-4.0"
    assert {"anatomy_bank", "segmenter", "classifier"} <= set(info.parts)
    dataset = LocalStore(place / "out/mine")
    assert not verify(dataset).problems
    images = sorted((place / "out/mine/shards").glob("*.tar"))
    assert images

    for words in commands("train controlnet"):
        if words[0] != "evaluate":
            run(words)
    steered = describe(place / "with-controlnet")
    assert set(steered.parts) == {*info.parts, "controlnet"}
    assert (steered.name, steered.licence) == ("with-controlnet", info.licence)
    assert load_bundle(steered).latent_shape == (8, 8, 8)


def test_a_bundle_says_what_it_lacks(place: Path, tmp_path: Path) -> None:
    def refused(*words: str) -> str:
        reported = CliRunner().invoke(app, ["bundle", "export", str(tmp_path / "out"), *words])
        assert isinstance(reported.exception, TrainingError), reported.output
        assert not list(tmp_path.iterdir())
        return str(reported.exception)

    found = refused("--autoencoder", str(tmp_path))
    assert "no --denoiser, --licence, --training-data" in found
    assert "--base BUNDLE" in found
    assert "nowhere" in refused("--base", "xreal-tiny", "--segmenter", "nowhere")
