"""The README's Python runs as written, on a small dataset; its recipe and its commands are valid."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from PIL import Image

from tests.doubles.fake_backend import FakeImages
from xreal_synth.cli.main import app
from xreal_synth.engine.worker import environment, run_shard
from xreal_synth.models.text.prompts import REPORT_WORDS, read_prompts
from xreal_synth.recipe.load import load_recipe, recipe_from_text
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import claim, open_run
from xreal_synth.storage import LocalStore

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    assert found, f"the README has no {language} block"
    return found


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder with a small dataset at out/quickstart, and its number of images."""
    folder = tmp_path_factory.mktemp("readme")
    run = open_run(load_recipe(ROOT / "recipes/smoke.yaml", output=str(folder / "out/quickstart")))
    store = LocalStore(folder / "out/quickstart")
    backend = FakeImages().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    claim(run, store, environment(backend))
    images = sum(
        run_shard(run, backend, run.plan.shard(k), store).samples for k in range(run.plan.shard_count)
    )
    return folder, images


def python_block(mark: str) -> str:
    (code,) = (block for block in blocks("python") if mark in block)
    return code


def test_reading_code_runs_as_written(quickstart: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, images = quickstart
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(python_block("wds.WebDataset"), names)
    batches = list(names["loader"])  # type: ignore[call-overload]
    assert sum(len(image) for image, _ in batches) == images
    assert batches[0][0].shape[1:] == (1, 64, 64)
    assert {float(label) for _, labels in batches for label in labels.flatten()} == {0.0, 1.0}


def test_training_code_runs_as_written(
    quickstart: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside six images under NIH's names and columns, three of them of held-out patients."""
    folder, _ = quickstart
    monkeypatch.chdir(folder)
    (folder / "nih/images").mkdir(parents=True)
    labels = ["No Finding", "Effusion", "Pneumonia|Effusion", "Atelectasis", "Pneumonia", "Atelectasis|Mass"]
    rows = ["Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"]
    for i, reported in enumerate(labels):
        Image.effect_noise((80, 64), 40).save(folder / f"nih/images/{i}.png")
        rows.append(f"{i}.png,{reported},{[5, 10, 15, 1, 2, 3][i]},{40 + i},{'MF'[i % 2]},PA")
    (folder / "nih/Data_Entry_2017_v2020.csv").write_text("\n".join(rows) + "\n")
    names: dict[str, Any] = {}
    exec(python_block("SyntheticDataset("), names)
    assert len(names["test"]) == 3
    assert len(names["train"]) == len(names["made"]) + 3
    assert names["made"].csv["split"].eq("train").all()
    assert torch.isfinite(names["loss"])
    auc = ast.literal_eval(capsys.readouterr().out)
    assert list(auc) == ["Atelectasis", "Effusion", "Pneumonia"]
    assert all(0 <= value <= 1 for value in auc.values())


def test_recipes_are_valid() -> None:
    assert [recipe_from_text(text).name for text in blocks("yaml")] == [
        "pneumonia-balance",
        "ward-images-edited",
    ]


def test_prompts_are_valid(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "prompts.yaml").write_text(text)
    table = read_prompts(tmp_path / "prompts.yaml", REPORT_WORDS)
    assert table.null == ""
    assert table.texts()[-1] == "Small left apical pneumothorax."


def test_commands_exist() -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    named = {line.split()[1] for line in lines if line.startswith("xreal-synth ")}
    assert named
    assert named <= set(known)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(recipe: Path) -> None:
    assert load_recipe(recipe).recipe.name == recipe.stem


def test_pictures_and_files_that_are_linked_exist() -> None:
    links = re.findall(r"\]\((?!#|https?:)([^)]+)\)", README)
    for link in links:
        file, _, place = link.partition("#")
        assert (ROOT / file).exists(), link
        headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE) if place else []
        assert not place or place in [heading.lower().replace(" ", "-") for heading in headings], link
