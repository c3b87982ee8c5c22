"""From a recipe to its dataset, in Python: the one flow that the command line and a job's entry point call too.

What is light is imported here; Ray, pyarrow and models where they are first needed.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from xreal_synth.errors import EngineError, Problem, RecipeError
from xreal_synth.recipe.kinds import shown
from xreal_synth.recipe.load import (
    SHIPPED,
    LoadedRecipe,
    load_recipe,
    recipe_file,
    recipe_from_text,
    shipped_file,
    with_overrides,
)
from xreal_synth.run.setup import Run, open_run, require_placeable
from xreal_synth.storage import is_remote, local_folder, open_store
from xreal_synth.types import NormBox, Side, Zone

if TYPE_CHECKING:
    from xreal_synth.engine.estimate import CostEstimate
    from xreal_synth.engine.progress import Event, RunSummary
    from xreal_synth.generated import Dataset
    from xreal_synth.planning.probe import ProbeReport
    from xreal_synth.recipe.schema import Recipe
    from xreal_synth.report.build import Built

RecipeGiven = str | os.PathLike[str] | Mapping[str, Any]
"""A recipe's file, its YAML text (of several lines), or the same as a dict."""

BARE: Final[dict[str, Any]] = {"version": 1, "name": "pipeline", "output": {"uri": "unset"}}
"""What a recipe must have, for one that is never written."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What an image is to show, and where: by side, zone and size, or in a box; as a recipe's `labels` say it.

    `side` is the patient's (`left` is the right half of the picture), `zone` a third of the lung's height, `size` the
    area over that lung's area, [lowest, highest], `box` (x0, y0, x1, y1) as shares of the picture, `prompt` text in
    place of the bundle's. Raises RecipeError for what no recipe may say.
    """

    name: str
    side: Side = "any"
    zone: Zone = "any"
    size: tuple[float, float] | None = None
    box: NormBox | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        row = {"weight": 1, "labels": [self.label]}
        try:
            _of_dict(BARE | {"bundle": "any", "anatomies": 1, "findings": [row]}, "Finding")
        except RecipeError as error:
            inner = [replace(one, path=one.path.rpartition("].")[2]) for one in error.problems]
            raise RecipeError("Finding", inner) from None

    @property
    def label(self) -> dict[str, Any]:
        """The same in a recipe's words."""
        given = {name: value for name, value in asdict(self).items() if value not in (None, "any")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def open_recipe(
    recipe: RecipeGiven,
    *,
    overrides: Sequence[str] = (),
    output: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Run:
    """Reads and checks everything that needs neither torch nor Ray: recipe, bundle, organ masks or real images.

    `output` replaces output.uri. Raises RecipeError, BundleError, AnatomyError.
    """
    loaded = _loaded(recipe, overrides, output)
    if is_remote(loaded.recipe.bundle):
        from xreal_synth.cache import cache_folder

        say(f"bundle {loaded.recipe.bundle}: fetched once per machine, to {cache_folder()}")
    return open_run(loaded)


def _loaded(recipe: RecipeGiven, overrides: Sequence[str], output: str | None) -> LoadedRecipe:
    _require_texts(overrides)
    if isinstance(recipe, Mapping):
        return _of_dict(recipe, "recipe", overrides, output)
    if isinstance(recipe, str) and "\n" in recipe:
        return _of_text(recipe, "recipe", overrides, output)
    if not isinstance(recipe, str | os.PathLike):
        raise RecipeError("recipe", [Problem("", shown(recipe), "a recipe's name or file, its YAML text, or a dict")])
    loaded = load_recipe(Path(recipe), overrides=overrides, output=output)
    if beside := _beside(loaded.recipe, recipe_file(Path(recipe))):
        loaded = load_recipe(Path(recipe), overrides=[*overrides, *beside], output=output)
    return loaded


def _require_texts(overrides: object) -> None:
    if isinstance(overrides, list | tuple) and all(isinstance(one, str) for one in overrides):
        return
    texts = ["anatomies=3"]
    if isinstance(overrides, str):
        texts = [overrides]
    elif isinstance(overrides, Mapping):
        texts = [f"{key}={shown(value)}" for key, value in overrides.items()]
    raise RecipeError("recipe", [Problem("overrides", shown(overrides), "a list of texts", f"write {texts}")])


def _beside(recipe: Recipe, file: Path) -> list[str]:
    """Overrides that give what lies beside the recipe's file, and not below the current folder, its place.

    Raises RecipeError, with both places, for what is at neither.
    """
    from xreal_synth.engine.job_package import named_files

    overrides, problems = [], []
    shipped = file.resolve().parent == SHIPPED.resolve()
    for where, given in () if shipped else named_files(recipe):
        here = local_folder(given)
        beside = file.parent / here
        if here.exists() or beside == here:
            continue
        if beside.exists():
            overrides.append(f"{where}={json.dumps(str(beside))}")
        elif shipped_file(given) == given and (where != "bundle" or len(here.parts) > 1):
            found = f"{given}: nothing at {here.absolute()}, nor at {beside.absolute()}"
            wanted = "a path from the current folder, or from the recipe's"
            problems.append(Problem(where, found, wanted, f"check it, or --set {where}=PATH"))
    if problems:
        raise RecipeError(str(file), problems)
    return overrides


def _of_text(text: str, source: str, overrides: Sequence[str], output: str | None) -> LoadedRecipe:
    recipe = recipe_from_text(text, source, overrides, output)
    return LoadedRecipe(recipe, with_overrides(text, overrides) if overrides else text)


def _of_dict(
    recipe: Mapping[str, Any], source: str, overrides: Sequence[str] = (), output: str | None = None
) -> LoadedRecipe:
    try:
        return _of_text(recipe_yaml(recipe), source, overrides, output)
    except RecipeError as error:  # of lines that the caller has never seen
        problems = [replace(one, found=re.sub(r" \(line \d+\)", "", one.found)) for one in error.problems]
        raise RecipeError(source, problems) from None


def recipe_yaml(recipe: Mapping[str, Any]) -> str:
    """A dict as a recipe's text; tuples, paths and `Finding`s may stand in it. Raises RecipeError."""
    try:
        return yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        found = str(error).replace("\n", " ")
        raise RecipeError("recipe", [Problem("", found, "numbers, texts, lists and dicts")]) from error


def _plain(value: Any) -> Any:
    if isinstance(value, Finding):
        return value.label
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended: its summary, the report if one was written, and why not if it could not be."""

    summary: RunSummary
    built: Built | None
    failed: str

    @property
    def exit_code(self) -> int:
        return self.summary.exit_code or 3 * bool(self.failed)


def make_dataset(
    run: Run, *, source: str = "recipe", address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> RunEnd:  # fmt: skip
    """Makes what the recipe's dataset still lacks, then its card, contact sheet and report; `source` names the recipe
    in errors. Raises XrealError where nothing could start."""
    from xreal_synth.engine.quiet import quiet_ray

    require_placeable(run, source)
    quiet_ray()
    from xreal_synth.engine.ray_driver import generate as run_engine

    summary = run_engine(run, open_store(run.recipe.output.uri), address=address, on_event=on_event)
    return end_of(run, summary)


def end_of(run: Run, summary: RunSummary) -> RunEnd:
    """Writes what a person opens first, where the run came to its end."""
    from xreal_synth.report.build import try_build

    if summary.dataset is None:
        return RunEnd(summary, None, "")
    return RunEnd(summary, *try_build(open_store(summary.uri), summary.dataset, run.bundle))


def generate(
    recipe: RecipeGiven,
    output: str | os.PathLike[str] | None = None,
    *,
    overrides: Sequence[str] = (),
    address: str | None = None,
    progress: bool = True,
) -> Dataset:
    """Makes a recipe's dataset on all cores or GPUs of this machine, or on the Ray cluster at `address`.

    Calling it again goes on where it stopped, and makes nothing twice; the same recipe gives the same bytes as
    `xreal-synth generate`. `output` replaces output.uri, `overrides` are texts like `anatomies=64`. An interrupt
    finishes the shards in flight. What was not made is a warning; raises XrealError where nothing could start,
    EngineError where nothing was made.
    """
    from xreal_synth.engine.log import LineLog
    from xreal_synth.generated import Dataset

    say = print_line if progress else _silent
    run = open_recipe(recipe, overrides=overrides, output=None if output is None else str(output), say=say)
    end = make_dataset(run, address=address, on_event=LineLog(say).on_event)
    summary = end.summary
    left = [f"shard {one.shard}: {one.reason or 'not begun'}" for one in summary.failures]
    if end.exit_code:
        told = "; ".join(filter(None, (*left[:5], summary.message, end.failed)))
        if not summary.shards_done:
            raise EngineError(found=f"no shard was made: {told}", hint="call generate again to go on")
        done = f"{summary.shards_done} of {summary.shards_total} shards are made"
        warnings.warn(f"{summary.uri}: {done}: {told}", stacklevel=2)
    return Dataset(summary.uri)


def print_line(line: str) -> None:
    """Says a line on standard output, without what a terminal would obey."""
    from xreal_synth.escaping import for_terminal

    print(for_terminal(line), flush=True)


def _silent(line: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a recipe would make: `table` has a row for each of its findings rows, `cost` evaluations, bytes and time."""

    run: Run
    probe: ProbeReport
    cost: CostEstimate

    @property
    def table(self) -> list[dict[str, Any]]:
        """A dict a findings row: what is asked for, groups, the share of anatomies on which it has a place."""
        return [
            {"row": row.row, "asked": row.asked, "labels": row.names, "groups": row.groups, "placeable": row.placeable,
             "reasons": [{"where": error.where, "reason": error.found, "times": n} for error, n in row.reasons]}
            for row in self.probe.rows
        ]  # fmt: skip

    @property
    def labels(self) -> list[dict[str, Any]]:
        """A dict a label of each set: images expected with 1, 0 and unknown."""
        return [asdict(count) for count in self.probe.labels]


def plan(
    recipe: RecipeGiven, *, overrides: Sequence[str] = (), output: str | None = None,
    say: Callable[[str], None] = _silent,
) -> PlanReport:  # fmt: skip
    """What a recipe would make, without making it. Raises RecipeError where a row has no place on any anatomy.

    Its device time is that of this machine where `doctor` has measured the bundle on it, else as the bundle states it.
    """
    from xreal_synth.engine.estimate import estimate
    from xreal_synth.planning.probe import probe
    from xreal_synth.speeds import kept_speeds

    run = open_recipe(recipe, overrides=overrides, output=output, say=say)
    report = probe(run.plan)
    report.require_placeable(str(recipe) if isinstance(recipe, str | os.PathLike) else "recipe")
    speeds = kept_speeds(run.bundle.content_hash) or run.bundle.seconds_per_evaluation
    known = replace(run, bundle=replace(run.bundle, seconds_per_evaluation=speeds))
    return PlanReport(run, report, estimate(known, report.images))
