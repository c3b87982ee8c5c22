"""The recipe's gate: profiles, what overrides them, what cannot run, and what is digested."""

from __future__ import annotations

from typing import Any

import pytest

from xreal_synth.errors import RecipeError
from xreal_synth.recipe.quality import KnownFile, Quality, as_digested, digested_quality, in_profile, resolve_quality

UNABLE = {"organs": "bundle x has no segmenter", "copies": "no quality.checks.copies.index is given"}


def quality(**fields: Any) -> Quality:
    return Quality.model_validate(fields)


def test_standard_is_the_default_and_what_cannot_run_is_named() -> None:
    found = resolve_quality(quality(), UNABLE, {})
    assert found.profile == "standard"
    assert [check.name for check in found.checks] == ["pixels", "seam", "finding", "change"]
    assert found.unchecked == UNABLE
    assert found.gated
    assert all(isinstance(value, float) for check in found.checks for value in check.bounds.values())


def test_none_checks_nothing_and_keeps_its_old_digest() -> None:
    found = resolve_quality(quality(profile="none"), {}, {})
    assert not found.gated
    assert digested_quality(found) == {"profile": "none", "max_attempts": 3}
    assert resolve_quality(quality(profile="none"), {}, {}, negative_below=0.5).gated


def test_a_check_takes_what_it_is_given_and_the_rest_from_the_profile() -> None:
    given = quality(profile="strict", checks={"organs": {"action": "warn", "heart": 0.6}, "seam": {"action": "off"}})
    checks = {check.name: check for check in resolve_quality(given, {"copies": "-"}, {}).checks}
    assert checks["organs"].action == "warn"
    assert checks["organs"].bounds == {**in_profile("organs", "strict")[1], "heart": 0.6}
    assert "seam" not in checks
    alone = resolve_quality(quality(profile="none", checks={"pixels": {"action": "warn"}}), {}, {})
    assert [(check.name, check.action) for check in alone.checks] == [("pixels", "warn")]


@pytest.mark.parametrize(
    ("fields", "path", "found"),
    [
        ({"checks": {"organs": {"action": "warn"}}}, "quality.checks.organs", "no segmenter"),
        ({"checks": {"organs": {"heart": 0.5}}}, "quality.checks.organs", "no segmenter"),
        ({"profile": "none", "checks": {"seam": {"energy": 2.0}}}, "quality.checks.seam.energy", "is off"),
        ({"checks": {"change": {"action": "off", "inside": 2.0}}}, "quality.checks.change.inside", "is off"),
    ],
)
def test_what_cannot_be_is_reported(fields: dict[str, Any], path: str, found: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve_quality(quality(**fields), UNABLE, {})
    (problem,) = caught.value.problems
    assert problem.path == path
    assert found in problem.found


def test_a_file_brings_its_bound_and_is_known_by_its_content() -> None:
    files = {"copies": KnownFile("a" * 64, {"distance": 7.5})}
    (check,) = [
        check
        for check in resolve_quality(quality(checks={"copies": {"index": "i.st"}}), {}, files).checks
        if check.name == "copies"
    ]
    assert (check.bounds, check.file, check.sha256) == ({"distance": 7.5}, "i.st", "a" * 64)
    own = quality(checks={"copies": {"index": "i.st", "distance": 3}})
    settings = resolve_quality(own, {"organs": "-"}, files)
    reported = digested_quality(settings)
    assert reported["checks"]["copies"] == {"action": "reject", "distance": 3.0, "content": "a" * 64}  # type: ignore[index]
    assert "organs" not in reported["checks"]  # type: ignore[operator]
    as_digested(reported, {"checks": {"copies": {"index": "moved.st"}}})
    again = resolve_quality(Quality.model_validate(reported), {"organs": "-"}, files)
    assert digested_quality(again) == digested_quality(settings)
    with pytest.raises(RecipeError, match="sha256 bbbb"):
        resolve_quality(Quality.model_validate(reported), {"organs": "-"}, {"copies": KnownFile("b" * 64)})


def test_strict_is_nowhere_looser_than_standard() -> None:
    from xreal_synth.quality.gate import CHECKS, SCORES

    for name in CHECKS:
        for score, value in in_profile(name, "standard")[1].items():
            strict = in_profile(name, "strict")[1][score]
            assert strict >= value if SCORES[f"{name}.{score}"][0] else strict <= value
            assert f"{name}.{score}" in SCORES


def test_a_check_that_does_not_run_is_not_digested_and_stays_off_when_a_dataset_is_reopened() -> None:
    """So a check that a later version adds leaves earlier datasets resumable."""
    before = resolve_quality(quality(), {**UNABLE, "change": "this version does not have it"}, {})
    reported = digested_quality(before)
    assert "change" not in reported["checks"]  # type: ignore[operator]
    off = resolve_quality(quality(checks={"change": {"action": "off"}}), UNABLE, {})
    assert digested_quality(off) == reported
    as_digested(reported, {})
    assert digested_quality(resolve_quality(Quality.model_validate(reported), {}, {})) == digested_quality(before)
