"""The README's Python runs as written, on a small dataset; its recipe and its commands are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from xreal_synth.cli.main import app
from xreal_synth.engine.fake_backend import Phantom
from xreal_synth.engine.resources import Resources, actor_shape
from xreal_synth.engine.setup import claim, open_run
from xreal_synth.engine.worker import environment, run_shard
from xreal_synth.recipe.load import load_recipe, recipe_from_text
from xreal_synth.storage import LocalStore

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    assert found, f"the README has no {language} block"
    return found


def test_reading_code_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = open_run(load_recipe(ROOT / "recipes/smoke.yaml", output="out/quickstart"))
    store = LocalStore(tmp_path / "out/quickstart")
    backend = Phantom().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    claim(run, store, environment(backend))
    films = sum(
        run_shard(run, backend, run.plan.shard(k), store).samples for k in range(run.plan.shard_count)
    )
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(code, names)
    batches = list(names["loader"])  # type: ignore[call-overload]
    assert sum(len(film) for film, _ in batches) == films
    assert batches[0][0].shape[1:] == (1, 64, 64)
    assert {float(label) for _, labels in batches for label in labels.flatten()} == {0.0, 1.0}


def test_recipe_is_valid() -> None:
    (text,) = blocks("yaml")
    assert recipe_from_text(text).name == "pneumonia-balance"


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
    assert all((ROOT / link).exists() for link in links), links
