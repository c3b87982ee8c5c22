"""constraints.txt: what the suite runs with, within what pyproject.toml asks for, and what the image is built with."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"gcsfs"}
"""Extras that the suite cannot run."""


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): exact for name, exact in pairs}


def test_every_dependency_stands_in_it_with_a_version_that_may_be() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = list(chain(project["dependencies"], *project["optional-dependencies"].values()))
    wanted = [one for one in map(Requirement, asked) if one.name not in {"xreal-synth", *ELSEWHERE}]
    assert len(wanted) > 30
    exact = pinned()
    for one in wanted:
        assert exact[canonicalize_name(one.name)] in one.specifier, one


def test_it_names_what_is_installed() -> None:
    assert pinned()["torch"] == version("torch").partition("+")[0]


def test_the_image_is_built_with_it() -> None:
    dockerfile = (ROOT / "cluster/docker/Dockerfile").read_text()
    assert "-c /wheels/constraints.txt" in dockerfile
    assert "!constraints.txt" in (ROOT / "cluster/docker/Dockerfile.dockerignore").read_text().splitlines()
    ray = re.search(r"ARG RAY_VERSION=([0-9.]+)", dockerfile)
    assert ray is not None
    assert ray[1] == pinned()["ray"]
