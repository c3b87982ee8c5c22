"""The documents' Python runs as written, on a small dataset; their recipes, commands, links and lengths are right."""

from __future__ import annotations

import ast
import functools
import importlib.util
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
import yaml
from PIL import Image
from ray.scripts.scripts import cli as ray_cli

from tests.documents import DOCUMENTS, README, ROOT, blocks, commands, guide, inline_commands
from tests.doubles.fake_backend import FakeImages
from tests.doubles.shards import run_shard
from xreal_synth.cli.main import app
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.meta import FACTS
from xreal_synth.engine.worker import environment
from xreal_synth.findings import FINDINGS, REGIONS
from xreal_synth.models.text.prompts import REPORT_WORDS, read_prompts
from xreal_synth.recipe.load import load_recipe, recipe_from_text
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import claim, open_run
from xreal_synth.storage import LocalStore

NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
MOST_LINES = {"README.md": 180}
"""A guide has fewer than 250; the change log grows."""


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A folder with a small dataset at out/quickstart, labels unknown where not asked for; its images by split."""
    folder = tmp_path_factory.mktemp("readme")
    changes = ["labels.unrequested=unknown"]
    output = str(folder / "out/quickstart")
    run = open_run(load_recipe(ROOT / "recipes/smoke.yaml", output=output, overrides=changes))
    store = LocalStore(folder / "out/quickstart")
    backend = FakeImages().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    head = claim(run, store, environment(backend))
    for k in range(run.plan.shard_count):
        run_shard(run, backend, run.plan.shard(k), store)
    return folder, finish(store, head, split_of=run.plan.split, asked=run.recipe.anatomies).splits


def test_every_python_block_is_run_below() -> None:
    found = [(name, len(blocks(path, "python"))) for name, path in zip(NAMES, DOCUMENTS, strict=True)]
    assert [one for one in found if one[1]] == [("README.md", 1), ("xreal_synth/dataset/README.md", 1)]


def test_reading_code_runs_as_written(quickstart: tuple[Path, dict[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, images = quickstart
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    (code,) = blocks(README, "python")
    exec(code, names)
    batches = list(names["loader"])
    assert sum(len(image) for image, _ in batches) == images["train"] < sum(images.values())
    assert batches[0][0].shape[1:] == (1, 64, 64)
    assert all(0 <= image.min() <= image.max() <= 1 for image, _ in batches)
    values = [float(label) for _, labels in batches for label in labels.flatten()]
    assert {value for value in values if not math.isnan(value)} == {1.0}
    assert any(math.isnan(value) for value in values)


def test_training_code_runs_as_written(
    quickstart: tuple[Path, dict[str, int]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    (code,) = blocks(guide("dataset"), "python")
    exec(code, names)
    assert len(names["test"]) == 3
    assert len(names["train"]) == len(names["made"]) + 3
    assert names["made"].csv["split"].eq("train").all()
    assert torch.isfinite(names["loss"])
    auc = ast.literal_eval(capsys.readouterr().out)
    assert list(auc) == ["Atelectasis", "Effusion", "Pneumonia"]
    assert all(0 <= value <= 1 for value in auc.values())


def test_recipes_are_valid() -> None:
    assert [recipe_from_text(text).name for path in DOCUMENTS for text in blocks(path, "yaml")] == [
        "pneumonia-small",
        "pneumonia-balance",
        "ward-images-edited",
    ]


def test_the_table_of_findings_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.*?) ?\|$", guide("recipe").read_text(), re.MULTILINE)
    told = {words: (names.split(", "), tuple(keys.split(", ")) if keys else ()) for words, names, keys in rows}
    assert {
        rule.words: ([one.name for one in FINDINGS.values() if one.region == region], rule.keys)
        for region, rule in REGIONS.items()
    }.items() <= told.items()


def test_the_fields_of_a_sample_are_all_told() -> None:
    section = guide("dataset").read_text().partition("| in `KEY.json`")[2].partition("\n\n")[0]
    first = [re.match(r"\| (.+?) \|", row) for row in section.splitlines()[2:]]
    told = [name for cell in first if cell for name in re.findall(r"`(\w+)`", cell[1])]
    assert sorted(told) == sorted({fact.path[0] for fact in FACTS})


def test_prompts_are_valid(tmp_path: Path) -> None:
    (text,) = (text for path in DOCUMENTS for text in blocks(path, "yml"))
    (tmp_path / "prompts.yaml").write_text(text)
    table = read_prompts(tmp_path / "prompts.yaml", REPORT_WORDS)
    assert table.null == ""
    assert table.texts()[-1] == "Small left apical pneumothorax."


@functools.cache
def ours() -> Any:
    """The command line, whole."""
    return typer.main.get_command(app)


def problem(words: list[str]) -> str:
    """What is wrong with a command of ours; empty if nothing is, or if it is another program's."""
    if words[0] == "xreal-synth":
        return _verb_problem(ours(), words[1:])
    if words[0] == "ray":
        own, then = (words[1:], []) if "--" not in words else _split(words[1:])
        return _verb_problem(ray_cli, own) or (problem(then) if then else "")
    if words[:2] == ["python", "-m"]:
        module = words[2].removesuffix(".main")
        return "" if importlib.util.find_spec(module) else f"no module {module}"
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        asked = {word for word in words[1:] if "=" not in word}
        return "" if asked <= set(targets) else f"no target {words[1:]}"
    return ""


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """A command, and the one that it runs: what comes after `--`."""
    return words[: words.index("--")], words[words.index("--") + 1 :]


def _verb_problem(command: Any, words: list[str]) -> str:
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] in command.commands:
            command, words = command.commands[words[0]], words[1:]
        elif command.name == "evaluate":  # `evaluate out/set` is `evaluate dataset out/set`
            command = command.commands["dataset"]
        else:
            return f"no command {words[0]}"
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
    given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    recipes = [word for word in words if word.startswith("recipes/") and not (ROOT / word).exists()]
    unknown = [word for word in given if word not in known]
    return f"{command.name}: no option {unknown}" if unknown else f"no file {recipes}" if recipes else ""


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist_with_their_options(name: str) -> None:
    for words in (*commands(ROOT / name), *inline_commands(ROOT / name)):
        assert not problem(words), (words, problem(words))


def test_a_wrong_command_is_found() -> None:
    assert problem(["xreal-synth", "generate", "recipes/smoke.yaml", "--out", "x"])
    assert problem(["xreal-synth", "evaluate", "utility", "x", "--reel", "y"])
    assert problem(["xreal-synth", "generate", "recipes/none.yaml"])
    assert problem(["xreal-synth", "make"])
    assert problem(["ray", "start", "--heads"])
    assert problem(["ray", "job", "submit", "--", "python", "-m", "xreal_synth.nowhere"])
    assert problem(["make", "everything"])
    assert problem(["python", "-m", "xreal_synth.nowhere"])


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(recipe: Path) -> None:
    assert load_recipe(recipe).recipe.name == recipe.stem


def _anchors(document: Path) -> list[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("name", NAMES)
def test_pictures_files_and_places_that_are_linked_exist(name: str) -> None:
    document = ROOT / name
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text(encoding="utf-8")):
        file, _, place = link.partition("#")
        target = document.parent / file if file else document
        assert target.exists(), link
        assert not place or place in _anchors(target), link


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_a_document_is_short(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= MOST_LINES.get(name, 249)


def test_every_guide_is_linked_from_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    left = [name for name in NAMES if name != "README.md" and f"({name}" not in text]
    assert left == ["CHANGELOG.md", "xreal_synth/evaluation/evaluator_networks/README.md"]


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert cited["version"] == version[1]
    assert cited["references"][0]["title"].startswith("XReal")
