from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import DatasetHead, open_dataset
from xreal_synth.dataset.record import DatasetSummary
from xreal_synth.models.describe import describe
from xreal_synth.report.card import dataset_card
from xreal_synth.storage import LocalStore
from xreal_synth.types import Rejected, ShardPlan

RECIPE = "version: 1\nname: fakes  # with ```backticks```\n"
FINDINGS = [
    {"weight": 4, "labels": []},
    {"weight": 4.5, "labels": [{"name": "Pneumonia", "side": "any", "zone": "lower", "size": [0.05, 0.35]}]},
    {"weight": 1, "labels": [{"name": "Effusion", "box": [0.1, 0.2, 0.3, 0.4]}, {"name": "Edema"}]},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetHead, DatasetSummary]:
    folder = tmp_path_factory.mktemp("card")
    store = LocalStore(folder)
    settings: dict[str, object] = {"findings": FINDINGS, "labels": {"unrequested": "negative"}}
    head = dataclasses.replace(fake_head(), settings=settings)
    open_dataset(store, head, RECIPE, lambda there, here: [])
    for k in range(2):
        shard = ShardPlan("fakes", k, 4 * k, 4 * k + 4)
        rejected = [Rejected(4 * k, 0, 0, "too dark", False)]
        publish_fakes(store, shard, fake_groups(shard.start, shard.stop), rejected)
    summary = finish(store, head, split_of=lambda group: "val" if group == 1 else "train")
    return folder, head, summary


def test_card_says_what_was_asked_and_made(made: tuple[Path, DatasetHead, DatasetSummary]) -> None:
    _, head, summary = made
    card = dataset_card(head, summary, RECIPE, bundle=describe("xreal-tiny"))
    _, matter, body = card.split("---\n", 2)
    fields = yaml.safe_load(matter)
    assert fields["license"] == "cc0-1.0"
    assert fields["size_categories"] == ["n<1K"]
    assert fields["configs"][0]["data_files"] == [{"split": "mixed", "path": "shards/*.tar"}]
    assert "webdataset" in fields["tags"]
    assert "A tar holds images of every split" in body
    assert "13 images of 32 x 32 pixels from 8 anatomies, in 2 shards" in body
    assert "2 attempts were rejected and 0 groups dropped" in body
    assert "| 0 | 4 | no finding | 3 |" in body
    assert "| 1 | 4.5 | Pneumonia (lower, 5% to 35% of the lung) | 3 |" in body
    assert "| 2 | 1 | Effusion (box 0.1, 0.2, 0.3, 0.4) + Edema | 2 |" in body
    assert "| Pneumonia | 3 | 10 | 0 |" in body
    assert "| Hernia | 0 | 5 | 8 |" in body
    assert "| val | 2 |" in body
    assert "not for diagnosis" in body
    assert head.digest in body
    assert describe("xreal-tiny").use_restriction in body
    assert f"````yaml\n{RECIPE}````" in body
    assert not re.search(r"{{|{%|\| None|`None`", body)


@pytest.mark.parametrize(
    ("control", "said", "unsaid"),
    [
        ("xreal", ["those that steered the model. The image"], ["No image here follows", "ControlNet"]),
        ("controlnet", ["the masks through a ControlNet"], ["No image here follows"]),
        ("none", ["No image here follows its organ mask", "Nothing made the images follow"], ["steered"]),
    ],
)
def test_the_card_says_what_the_organ_masks_mean(
    made: tuple[Path, DatasetHead, DatasetSummary], control: str, said: list[str], unsaid: list[str]
) -> None:
    _, head, summary = made
    head = dataclasses.replace(head, settings={**head.settings, "sampling": {"control": control}})
    card = dataset_card(head, summary, RECIPE, bundle=None)
    assert [words in card for words in said] == [True] * len(said)
    assert not any(words in card for words in unsaid)


def test_card_without_bundle_or_images_leaves_the_licence_open(
    made: tuple[Path, DatasetHead, DatasetSummary], tmp_path: Path
) -> None:
    head = fake_head()
    store = LocalStore(tmp_path)
    open_dataset(store, head, RECIPE, lambda there, here: [])
    card = dataset_card(head, finish(store, head), RECIPE, bundle=None)
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "other"
    assert "0 images of - pixels" in card


def test_an_unusual_licence_and_text_keep_the_tables_whole(made: tuple[Path, DatasetHead, DatasetSummary]) -> None:
    _, head, summary = made
    odd = dataclasses.replace(describe("xreal-tiny"), licence="My Own: Licence", training_data="a | b\nc")
    card = dataset_card(head, summary, RECIPE, bundle=odd)
    assert yaml.safe_load(card.split("---\n")[1])["license_name"] == "my-own-licence"
    assert "| the bundle was trained on | a \\| b c |" in card


def test_the_ten_lines_read_the_dataset(made: tuple[Path, DatasetHead, DatasetSummary]) -> None:
    folder, head, summary = made
    card = dataset_card(head, summary, RECIPE, bundle=None)
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    shown = "for image, label in loader:\n    print(tuple(image.shape), str(image.dtype), label.sum(0).tolist())\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code + shown], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "(13, 1, 32, 32) torch.float32 [3.0, 3.0, 2.0]"
