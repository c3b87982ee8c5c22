"""A small folder of drawn images in two splits, and tiny evaluator networks with seeded random weights."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
from tests.doubles.schematic import schematic_mask
from xreal_synth.cli.main import main
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset
from xreal_synth.evaluation.evaluators import write_evaluators
from xreal_synth.models.networks.finding_classifier import FindingClassifier
from xreal_synth.models.networks.segmenters import PyramidSegmenter
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardPlan

FINDINGS = ("Pneumonia", "Infiltration", "Atelectasis", "Effusion", "Edema")
LABELS = ["No Finding", "Effusion", "Pneumonia|Mass", "Hernia", "Edema|Pneumonia", "No Finding"]
TRAINING = 8


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six validation and eight training images: masks of ellipses, images that are darker in the lungs."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    with (folder / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "mask", "labels", "patient_id", "split", "boxes_xywh_norm"])
        for number in range(len(LABELS) + TRAINING):
            mask = schematic_mask(320, rng)
            image = np.where(np.isin(mask, (1, 2)), 60, 190) + rng.normal(0, 4, mask.shape)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"image{number}.png")
            Image.fromarray(mask).save(folder / f"mask{number}.png")
            split = "val" if number < len(LABELS) else "train"
            labels = LABELS[number % len(LABELS)]
            boxes = '[["Pneumonia", 0.2, 0.3, 0.2, 0.25]]' if "Pneumonia" in labels else ""
            table.writerow([f"image{number}.png", f"mask{number}.png", labels, str(number // 2), split, boxes])
    return folder


@pytest.fixture(scope="session")
def evaluators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluators")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        PyramidSegmenter(inner_size=32, blocks=(1,), width=8).save_pretrained(folder / "segmenter")
        classifier = FindingClassifier("densenet", 32, (1, 1), width=8, growth=4, findings=FINDINGS)
        classifier.save_pretrained(folder / "classifier")
    write_evaluators(folder)
    return folder


@pytest.fixture(scope="session")
def with_locator(evaluators: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluators, and one that says where."""
    folder = Path(shutil.copytree(evaluators, tmp_path_factory.mktemp("locator") / "evaluators"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        names = ("Edema", "Pneumonia", "Mass")
        FindingClassifier("resnet", 64, (1, 1), findings=names, places=True).save_pretrained(folder / "locator")
    write_evaluators(folder)
    return folder


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`xreal-synth evaluate ...` -> its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["xreal-synth", "evaluate", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run


@pytest.fixture(scope="session")
def fake_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve groups of drawn images of 64 pixels, with twins, Pneumonia and Effusion; no model made them."""
    store = LocalStore(tmp_path_factory.mktemp("fakes"))
    open_dataset(store, fake_head(), "version: 1\n", lambda there, here: [])
    for number in range(3):
        shard = ShardPlan("fakes", number, 4 * number, 4 * number + 4)
        publish_fakes(store, shard, fake_groups(shard.start, shard.stop, 64))
    finish(store, fake_head(), split_of=lambda group: "train")
    return Path(store.uri)


@pytest.fixture(scope="session")
def edited_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that says its images are edited from real ones."""
    store = LocalStore(tmp_path_factory.mktemp("edited"))
    head = fake_head()
    head = replace(head, settings={**head.settings, "anatomy": {"source": {"images": {"path": "images"}}}})
    open_dataset(store, head, "version: 1\n", lambda there, here: [])
    publish_fakes(store, ShardPlan("fakes", 0, 0, 1), fake_groups(0, 1))
    return Path(store.uri)
