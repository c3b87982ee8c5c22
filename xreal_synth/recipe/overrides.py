"""`--set key.path=value`: changes to a recipe's values before they are validated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from xreal_synth.errors import Problem
from xreal_synth.recipe.kinds import shown
from xreal_synth.recipe.yaml_text import Path, parse, path_text

_PART: Final = re.compile(r"([^.\[\]=]+)((?:\[[0-9]{1,6}\])*)")
_FORM: Final = "KEY.PATH=VALUE, e.g. sampling.steps=10 or findings[0].weight=2"


def apply(value: object, overrides: Sequence[str]) -> tuple[object, list[Problem], set[Path]]:
    """The value with every override set, what is wrong with them, and the paths they set.

    Overrides apply in order, the last wins. Whether a key exists is for the schema to say.
    """
    problems: list[Problem] = []
    touched: set[Path] = set()
    for text in overrides:
        target, _, written = text.partition("=")
        path = parse_path(target.strip())
        if path is None or "=" not in text:
            problems.append(Problem(f"--set {text}", "not an override", _FORM))
            continue
        document = parse(written)
        if document.problems:
            problems.extend(Problem(f"--set {text}", p.found, p.wanted, p.hint) for p in document.problems)
            continue
        value, problem = _set(value, path, document.value, text)
        if problem is not None:
            problems.append(problem)
        touched.add(path)
    return value, problems, touched


def parse_path(text: str) -> Path | None:
    """`findings[0].weight` as ("findings", 0, "weight"); None if it is no such path."""
    path: list[str | int] = []
    for part in text.split("."):
        match = _PART.fullmatch(part)
        if match is None:
            return None
        path.append(match[1].strip())
        path.extend(int(number) for number in re.findall(r"[0-9]+", match[2]))
    return tuple(path)


def _set(root: object, path: Path, new: object, text: str) -> tuple[object, Problem | None]:
    if root is None:
        root = {}
    node = root
    for depth, part in enumerate(path):
        here = path_text(path[:depth]) or "the recipe"
        last = depth == len(path) - 1
        if isinstance(part, int):
            if not isinstance(node, list):
                return root, Problem(f"--set {text}", f"`{here}` is {shown(node)}", "a list")
            if part >= len(node):
                count = f"items 0 to {len(node) - 1}" if node else "no items"
                return root, Problem(f"--set {text}", f"item [{part}]", f"`{here}` has {count}")
            if last:
                node[part] = new
            node = node[part]
            continue
        if not isinstance(node, dict):
            hint = f"set `{here}` as a whole: --set '{here}={{...}}'"
            if isinstance(node, list):
                hint = f"name an item of it: {here}[0].{part}"
            found = f"`{here}` is {shown(node)}, which has no keys"
            return root, Problem(f"--set {text}", found, "a group of keys", hint)
        if last:
            node[part] = new
        elif node.get(part) is None:
            node[part] = {}
        node = node[part]
    return root, None
