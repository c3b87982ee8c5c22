"""The digest follows what decides the bytes and nothing else; sampling is filled in from the bundle."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from xreal_synth.errors import RecipeError
from xreal_synth.recipe.digest import differences, digested_settings, recipe_digest
from xreal_synth.recipe.load import recipe_from_text
from xreal_synth.recipe.sampling import resolve_sampling
from xreal_synth.recipe.schema import Recipe
from xreal_synth.types import SamplingDefaults

DEFAULTS = SamplingDefaults(mode="branch", steps=25, hold=0.5, branch=0.25, guidance=4.0, soft=0.2)
TEXT = """\
version: 1
name: tiny
anatomies: 3
bundle: xreal-tiny
findings:
  - {weight: 1, labels: []}
  - {weight: 2, labels: [{name: Effusion, side: left}]}
output: {uri: out/tiny}
"""


def recipe(*overrides: str) -> Recipe:
    return recipe_from_text(TEXT, "r.yaml", overrides)


def settings(*overrides: str) -> dict[str, object]:
    given = recipe(*overrides)
    return digested_settings(given, resolve_sampling(given.sampling, DEFAULTS), content="a" * 64)


def digest(*overrides: str) -> str:
    return recipe_digest(settings(*overrides), "abc")


@pytest.mark.parametrize(
    "same",
    [
        "name=other", "anatomies=99", "output.uri=s3://elsewhere/x", "split.val=0.5", "compute.actors=2",
        "compute.actors={min: 1, max: 3}", "compute.drain_s=5", "compute.hang_timeout_s=5",
        "compute.gpus_per_actor=0.5", "compute.cpus_per_actor=2", "sampling.steps=25", "sampling.mode=branch",
        "output.shard_samples=64", "anatomy.augment.shift=0.03", "findings[1].weight=2.0",
        "findings[1].labels[0].name=Pleural Effusion", "findings[1].labels[0].zone=any", "output.upscale=null",
    ],
)  # fmt: skip
def test_what_changes_no_byte_keeps_the_digest(same: str) -> None:
    assert digest(same) == digest()


@pytest.mark.parametrize(
    "change",
    [
        "seed=1", "sampling.steps=30", "sampling.guidance=4.5", "findings[0].weight=2", "pairs.twin=true",
        "findings[1].labels[0].side=right", "labels.unrequested=unknown", "output.shard_samples=32",
        "anatomy.augment.shift=0.04", "anatomy.source={masks: {path: m}}", "quality.max_attempts=4",
        "placement.min_overlap=0.5", "compute.precision=fp32", "compute.micro_batch=4",
    ],
)  # fmt: skip
def test_what_changes_bytes_changes_the_digest(change: str) -> None:
    assert digest(change) != digest()
    assert differences(settings(), settings(change))


def test_masks_are_known_by_their_content_and_not_by_their_place() -> None:
    def of(path: str, content: str) -> dict[str, object]:
        given = recipe(f"anatomy.source={{masks: {{path: {path}}}}}")
        return digested_settings(given, resolve_sampling(given.sampling, DEFAULTS), content)

    assert of("here", "a" * 64) == of("s3://there/masks.tar", "a" * 64)
    (reported,) = differences(of("here", "a" * 64), of("here", "b" * 64))
    assert reported.startswith('anatomy.source.masks.content: "aaaa')


def test_the_bundles_content_counts() -> None:
    assert recipe_digest(settings(), "abd") != digest()


def test_settings_are_json_without_nulls_and_the_digest_is_stable() -> None:
    text = json.dumps(settings(), sort_keys=True)
    assert json.loads(text) == settings()
    assert "null" not in text
    assert "uri" not in text
    assert recipe_digest(json.loads(text), "abc") == digest()


def test_differences_name_both_sides() -> None:
    assert differences(settings(), settings("sampling.steps=30")) == ["sampling.steps: 25 there, 30 here"]
    assert differences(settings(), settings()) == []
    longer = settings("findings[1].labels[0].size=[0.1, 0.2]")
    assert differences(settings(), longer) == ["findings[1].labels[0].size: not set there, [0.1, 0.2] here"]
    assert differences(longer, settings()) == ["findings[1].labels[0].size: [0.1, 0.2] there, not set here"]


def test_sampling_is_filled_in_from_the_bundle() -> None:
    resolved = resolve_sampling(recipe("sampling={steps: 10, hold: 0.0}").sampling, DEFAULTS)
    assert (resolved.steps, resolved.hold, resolved.branch, resolved.guidance) == (10, 0.0, 0.25, 4.0)
    assert (resolved.hold_steps, resolved.branch_step) == (0, 2)


def test_reference_refuses_steps_that_do_not_divide_1000_wherever_they_come_from() -> None:
    odd = SamplingDefaults(mode="branch", steps=30, hold=0.5, branch=0.25, guidance=4.0, soft=0.2)
    with pytest.raises(RecipeError, match=r"sampling\.steps: steps: 30"):
        resolve_sampling(recipe("sampling.mode=reference").sampling, odd)
    assert resolve_sampling(recipe("sampling.mode=reference").sampling, DEFAULTS).steps == 25
    assert resolve_sampling(recipe().sampling, odd).steps == 30


def test_eta_is_the_bundles_in_branch_and_one_in_reference() -> None:
    bundle = SamplingDefaults(mode="branch", steps=25, hold=0.5, branch=0.25, guidance=4.0, soft=0.2, eta=0.5)
    assert resolve_sampling(recipe().sampling, bundle).eta == 0.5
    assert resolve_sampling(recipe("sampling.mode=reference").sampling, bundle).eta == 1.0
    assert resolve_sampling(recipe("sampling.mode=reference", "sampling.eta=0.2").sampling, bundle).eta == 0.2


def test_hold_and_the_softs_are_xreals_own_and_absent_from_the_rest() -> None:
    """The default is part of the digest as it ever was; a run without XReal names no setting of it."""
    assert settings()["sampling"] == settings("sampling.control=xreal")["sampling"]
    for control in ("controlnet", "none"):
        reported = settings(f"sampling.control={control}")["sampling"]
        assert isinstance(reported, dict)
        assert reported["control"] == control
        assert {"hold", "soft"}.isdisjoint(reported)
        assert digest(f"sampling.control={control}") != digest()
        for mode in ("branch", "reference", "paper"):
            resolved = resolve_sampling(
                recipe(f"sampling={{control: {control}, mode: {mode}}}").sampling,
                replace(DEFAULTS, soft_variance="kept"),
            )
            assert (resolved.hold, resolved.soft, resolved.soft_variance) == (None, None, None)
            assert resolved.hold_steps == 0
