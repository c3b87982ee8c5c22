"""Speeds kept by machine and bundle."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from xreal_synth import from_recipe
from xreal_synth.engine.estimate import estimate
from xreal_synth.errors import StorageError
from xreal_synth.speeds import keep_speed, kept_speeds


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XREAL_CACHE", str(tmp_path))
    return tmp_path


def test_the_last_speed_of_each_bundle_is_kept_for_this_machine_alone(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept_speeds("a" * 64) == {}
    keep_speed("a" * 64, "core", 0.5)
    keep_speed("b" * 64, "core", 2.0)
    file = keep_speed("a" * 64, "GPU", 0.01)
    assert kept_speeds("a" * 64) == {"GPU": 0.01}
    assert kept_speeds("b" * 64) == {"core": 2.0}
    assert [str(path) for path in (cache / "speeds").iterdir()] == [file]
    monkeypatch.setattr(platform, "node", lambda: "another.machine/..")
    assert kept_speeds("a" * 64) == {}


def test_what_others_may_have_put_there_is_not_taken(cache: Path) -> None:
    path = Path(keep_speed("a", "core", 1.0))
    assert path.parent.stat().st_mode & 0o077 == 0
    path.parent.chmod(0o777)
    assert kept_speeds("a") == {}
    assert not path.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"core": "fast"}}', '{"a": {"core": null}}'])
def test_a_damaged_file_is_named(cache: Path, text: str) -> None:
    path = Path(keep_speed("a", "core", 1.0))
    path.write_text(text)
    with pytest.raises(StorageError, match="damaged") as told:
        kept_speeds("a")
    assert told.value.where == str(path)


def test_a_plan_prefers_what_was_measured_here() -> None:
    recipe = {
        **from_recipe.BARE, "seed": 1, "anatomies": 4, "bundle": "xreal-tiny",
        "findings": [{"weight": 1, "labels": []}],
    }  # fmt: skip
    first = from_recipe.plan(recipe)
    stated = replace(first.run, bundle=replace(first.run.bundle, seconds_per_evaluation={"another CPU": 9.0}))
    assert set(estimate(stated, 4).device_seconds) == {"another CPU"}
    keep_speed(first.run.bundle.content_hash, "core", 0.5)
    assert from_recipe.plan(recipe).cost.device_seconds == {"core": 0.5 * first.cost.evaluations}
