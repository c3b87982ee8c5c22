"""The verbs that need no Ray, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from rich.text import Text

from xreal_synth.cli.main import app, main
from xreal_synth.cli.output import RunDisplay, console
from xreal_synth.engine.progress import Advanced, RunEnded, RunStarted, RunSummary

ROOT = Path(__file__).parents[2]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["xreal-synth", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


def told(command: Any) -> Iterator[str]:
    """Every text of a command's help, and of those below it."""
    for one in (command, *command.params):
        yield from (
            text for name in ("help", "epilog", "show_default") if isinstance(text := getattr(one, name, 0), str)
        )
    for inner in getattr(command, "commands", {}).values():
        yield from told(inner)


def test_help_is_printed_as_it_is_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    texts = list(told(typer.main.get_command(app)))
    assert len(texts) > 300
    assert [text for text in texts if Text.from_markup(text).plain != text.replace("\\[", "[")] == []
    monkeypatch.setenv("COLUMNS", "200")
    call(monkeypatch, "prepare", "--help")
    assert "JSON of [name, x, y, w, h] in shares." in capsys.readouterr().out


def test_plan_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    call(monkeypatch, "plan", str(ROOT / "recipes/smoke.yaml"), "--json")
    plan = json.loads(capsys.readouterr().out)
    assert (plan["samples"], plan["images"], plan["shards"]) == (10, 18, 3)
    pneumonia = next(c for c in plan["labels"] if (c["label_set"], c["label"]) == ("txrv18", "Pneumonia"))
    assert pneumonia["positive"] == 5
    assert plan["estimate"]["evaluations_per_twin"] == 5
    assert plan["estimate"]["evaluations_per_edit"] == 2 * (5 - 1)


def test_plan_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    call(monkeypatch, "plan", str(ROOT / "recipes/smoke.yaml"))
    said = capsys.readouterr()
    assert "Effusion + Atelectasis" in said.out
    assert "18 of 10 anatomies" in said.out
    assert "too few" not in said.err
    call(monkeypatch, "plan", str(ROOT / "recipes/smoke.yaml"), "--set", "anatomies=2")
    assert "too few anatomies for every row: none for row 0, 3" in capsys.readouterr().err


def test_a_billion_samples_need_neither_torch_nor_ray_nor_memory() -> None:
    script = (
        "import re, sys, time\n"
        "from pathlib import Path\n"
        "from xreal_synth.from_recipe import open_recipe\n"
        "from xreal_synth.planning.probe import probe\n"
        "import xreal_synth.engine.estimate, scipy.ndimage\n"
        "began = time.process_time()\n"
        f"run = open_recipe(Path({str(ROOT / 'recipes/smoke.yaml')!r}), overrides=['anatomies=1000000000'])\n"
        "report = probe(run.plan)\n"
        "run.plan.sample(999_999_999, 0)\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())\n"
        "print(time.process_time() - began, int(peak[1]) / 1024,\n"
        "      'torch' in sys.modules, 'ray' in sys.modules, report.samples)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    seconds, megabytes, torch, ray, samples = done.stdout.split()
    assert float(seconds) < 2
    assert float(megabytes) < 300
    assert (torch, ray, samples) == ("False", "False", "1000000000")


def test_schema(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    call(monkeypatch, "recipe", "schema")
    schema = json.loads(capsys.readouterr().out)
    assert {"version", "name", "anatomies", "findings", "output"} <= set(schema["properties"])


def test_bundle_show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    call(monkeypatch, "bundle", "show", "xreal-tiny", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["image size"].startswith("64 x 64")
    monkeypatch.setattr(console, "_width", 80)
    call(monkeypatch, "bundle", "show", "xreal-tiny")
    said = capsys.readouterr().out
    assert told["content hash"] in "".join(said.replace("content hash", "").split()), "whole, however narrow"
    assert "…" not in said


def test_preview_draws_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    target = tmp_path / "sheet.png"
    call(monkeypatch, "preview", str(ROOT / "recipes/smoke.yaml"), "-n", "2", "--out", str(target))
    with Image.open(target) as sheet:
        assert sheet.width >= 4 * 64
    assert "of 2 anatomies" in capsys.readouterr().out


def test_recipes_and_bundles_are_listed_and_taken_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, "recipe", "list", "--json")
    recipes = json.loads(capsys.readouterr().out)
    assert set(recipes) == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert all(len(about) > 10 for about in recipes.values())
    call(monkeypatch, "bundle", "list", "--json")
    assert json.loads(capsys.readouterr().out)["xreal-mini"]["image_size"] == 256
    for name in recipes:
        call(monkeypatch, "recipe", "check", name)
    capsys.readouterr()
    call(monkeypatch, "plan", "smoke", "--json")
    assert json.loads(capsys.readouterr().out)["name"] == "smoke"


@pytest.mark.parametrize("arguments", [["recipe", "check", "smoke", "--json"], ["recipe", "list", "--json", "-q"]])
def test_json_is_all_there_is_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    call(monkeypatch, *arguments)
    assert "smoke" in str(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--license"], "bundle xreal-mini: CC-BY-4.0"),
        (["train", "--list"], "paper-denoiser"),
        (["-h"], "Look after a"),
    ],
)
def test_what_there_is_can_be_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    call(monkeypatch, *arguments)
    assert said in capsys.readouterr().out


def test_a_new_recipe_is_one_of_those_with_its_comments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from xreal_synth.recipe.load import load_recipe

    monkeypatch.chdir(tmp_path)
    call(monkeypatch, "recipe", "new", "My Set.yaml", "--from", "multi-finding")
    text = Path("My Set.yaml").read_text()
    recipe = load_recipe(Path("My Set.yaml")).recipe
    assert (recipe.name, recipe.output.uri) == ("my-set", "out/my-set")
    assert text.count("#") == (ROOT / "recipes/multi-finding.yaml").read_text().count("#")


@pytest.mark.parametrize(
    "verb",
    [
        *("plan", "preview", "generate", "verify", "replay", "report", "train", "evaluate anatomy"),
        *("bundle show", "bundle list", "bundle add-prompt", "export", "recipe list", "recipe new", "doctor"),
        *("convert xreal", "convert cheff", "convert diffusers", "convert controlnet"),
    ],
)
def test_help_has_two_examples_or_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    call(monkeypatch, *verb.split(), "-h")
    assert "xreal-synth " + verb in capsys.readouterr().out.partition("Examples")[2]


def test_the_bar_names_no_rate_before_images_and_ends_with_how_many_there_are() -> None:
    written = StringIO()
    summary = RunSummary(0, "out", 2, 2, 17, 10, 1, 0, 17, 9.0, 1.9, {})
    with RunDisplay(Console(file=written, force_terminal=True, width=120, color_system=None)) as display:
        display.on_event(RunStarted("out", 2, 0, 18, 0, 1, "cpu", 4))
        for event, words in (
            (Advanced(0, 18, 0.0, None, 1, {"booting": 1}), "0 of about 18 images, actors starting"),
            (Advanced(8, 18, 2.0, 5.0, 1, {}, 1), "8 of about 18 images, 2.00 images/s, 5 s left"),
            (RunEnded(summary), " 17 images"),
        ):
            written.truncate(0)
            display.on_event(event)
            display.refresh()
            assert words in written.getvalue()
            assert "0.00" not in written.getvalue()
