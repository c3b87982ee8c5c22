"""The house as xreal_synth/README.md maps it: rooms, one name a class, docstrings, and the walk of a recipe's box."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.documents import ROOT, guide
from tests.doubles.fake_backend import FakeImages
from tests.test_extension import EXTENSIONS
from xreal_synth import types
from xreal_synth.dataset.tar import encode_sample
from xreal_synth.engine.worker import make_group
from xreal_synth.recipe.findings import FindingLabel
from xreal_synth.recipe.load import load_recipe
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import open_run

PACKAGE = ROOT / "xreal_synth"
MAP = guide("").read_text(encoding="utf-8")
DOCUMENTED = 0.9
"""Share of public classes, functions and methods that have a docstring."""
VALIDATORS = {"field_validator", "model_validator", "overload"}

ARRAYS = {"GreyImage", "Mask", "Bools", "Ints", "Floats", "NDArray", "Tensor"}
SHAPE = re.compile(r"\[[^\]]*\]|Shapes:|scalar")
SUFFIX = re.compile(r"_[A-Z0-9][A-Za-z0-9]*$")
"""A name that tells its shape, z_BChw."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def modules() -> dict[str, ast.Module]:
    """The package's syntax trees by path below it."""
    found = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
    assert len(found) > 200
    return found


def public(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, Definition]]:
    """Public classes, functions and methods by qualified name; neither functions in functions nor pydantic's."""
    for node in body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        if {getattr(d.func if isinstance(d, ast.Call) else d, "id", "") for d in node.decorator_list} & VALIDATORS:
            continue
        yield inside + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public(node.body, f"{inside}{node.name}.")


def test_a_class_name_exists_once() -> None:
    names = Counter(
        node.name for tree in modules().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_what_is_public_is_documented() -> None:
    known = [(path, name, node) for path, tree in modules().items() for name, node in public(tree.body)]
    lacking = [f"{path}: {name}" for path, name, node in known if ast.get_docstring(node) is None]
    assert len(known) > 1500
    assert len(lacking) <= (1 - DOCUMENTED) * len(known), lacking


def test_where_arrays_pass_their_shapes_are_told() -> None:
    """By the docstring, by its class's or module's, or by a parameter's name; tables of weights have no one shape."""
    told: dict[str, bool] = {}
    for path, tree in modules().items():
        above = {node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.ClassDef)}
        for name, node in public(tree.body):
            if isinstance(node, ast.ClassDef):
                continue
            parameters = [*node.args.args, *node.args.kwonlyargs]
            annotations = [one for one in (*(p.annotation for p in parameters), node.returns) if one]
            words = set(re.findall(r"\w+", " ".join(map(ast.unparse, annotations))))
            if words & ARRAYS:
                texts = (ast.get_docstring(node) or "", above.get(name.partition(".")[0], ""))
                told[f"{path}: {name}"] = (
                    any(map(SHAPE.search, texts))
                    or "Shapes:" in (ast.get_docstring(tree) or "")
                    or any(SUFFIX.search(p.arg) for p in parameters)
                )
    assert len(told) > 250
    assert sum(told.values()) >= DOCUMENTED * len(told), [name for name, known in told.items() if not known]


def test_rooms_and_levels_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["type"] == "layers")
    wanted = {
        room.strip().removeprefix("xreal_synth."): level
        for level, layer in enumerate(reversed(layers))
        for room in layer.split("|")
    }
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", MAP, re.MULTILINE)
    mapped = {name: int(level) for level, rooms in rows for name in re.findall(r"\b(\w+)(?:\.py)?[/`]", rooms)}
    assert mapped == wanted
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} <= mapped.keys()


@pytest.mark.parametrize("name", EXTENSIONS)
def test_the_map_names_what_an_extension_touches(name: str) -> None:
    changed, new, _, _ = EXTENSIONS[name]
    rows = [row for row in MAP.splitlines() if row.startswith("| a ")]
    touched = [f"`{path}`" if path in changed else f"`{Path(path).parent}/`" for path in (*changed, *new)]
    assert any(all(path in row for path in touched) for row in rows), touched


def walked(index: int) -> list[str]:
    """The files, in order, in which something that carries a finding's place is given or returned."""
    kinds = (FindingLabel, types.PlacedFinding, types.MemberSpec, types.SampleSpec, types.SampleMeta, types.Sample)
    files: dict[str, None] = {}

    def carries(value: Any) -> bool:
        return isinstance(value[0] if isinstance(value, tuple | list) and value else value, kinds)

    def look(frame: FrameType, event: str, value: Any) -> None:
        path, code = Path(frame.f_code.co_filename), frame.f_code
        if event not in ("call", "return") or PACKAGE not in path.parents:
            return
        given = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]]
        if any(map(carries, given if event == "call" else [value])):
            files.setdefault(str(path.relative_to(PACKAGE)))

    sys.setprofile(look)
    try:
        run = open_run(load_recipe(ROOT / "recipes/smoke.yaml"))
        backend = FakeImages().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
        for sample in make_group(run, backend, index):
            encode_sample(sample)
    finally:
        sys.setprofile(None)
    return list(files)


def test_the_walk_of_a_box_is_as_the_map_tells_it() -> None:
    run = open_run(load_recipe(ROOT / "recipes/smoke.yaml"))
    boxed = next(row for row, one in enumerate(run.recipe.findings) if one.labels and one.labels[0].box)
    section = MAP.partition("## From a recipe's box")[2].partition("\n## ")[0]
    steps = re.findall(r"^\d+\. `(\S+)`", section, re.MULTILINE)
    beside = re.findall(r"`([\w/]+\.py)`", section.partition("Beside the way")[2])
    assert len(steps) <= 12
    assert all((PACKAGE / path).exists() for path in (*steps, *beside))
    met = walked(next(index for index in range(run.recipe.anatomies) if run.plan.row(index) == boxed))
    assert "planning/placement.py" in met
    assert "dataset/meta.py" in met
    assert set(met) - {*steps, *beside, "types.py"} == set()
    assert [path for path in steps if path in met] == [path for path in met if path in steps]
    assert {"recipe/load.py", "dataset/png.py"} >= set(steps) - set(met), "the first reads text, the last pixels"
