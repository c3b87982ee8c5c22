"""The two stages as loops, on a model that can be worked out by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from xreal_synth.errors import BundleError
from xreal_synth.sampling.controlled import (
    FreedRegion,
    Guide,
    Rule,
    anatomy_stage,
    decode_scaled,
    free_stage,
    pathology_from_branch,
    pathology_from_noise,
    run_steps,
)
from xreal_synth.sampling.noise import BatchNoise, NoiseKey, philox
from xreal_synth.sampling.schedule import make_schedule
from xreal_synth.types import SamplingSettings

pytestmark = pytest.mark.numeric


def rule_of(model: Any, steps: int = 8, resample: int = 1) -> Rule:
    return Rule(make_schedule(model.alphas_cumprod, steps, "branch"), model.prediction_type, resample)


def noise_of(model: Any, rows: int, member: str = "") -> BatchNoise:
    keys = tuple(NoiseKey(1, row, 0, member) for row in range(rows))
    return BatchNoise(philox, keys, model.latent_shape, torch.device("cpu"))


def stage_a(model: Any, rule: Rule, hold_steps: int = 4, soft: float = 0.2) -> Any:
    label_map = torch.zeros(2, 32, 32, dtype=torch.uint8)
    label_map[:, 8:24, 8:24] = 4
    guide = Guide(model.embed(["No Finding"] * 2))
    return anatomy_stage(model, label_map, guide, rule, noise_of(model, 2), hold_steps=hold_steps, soft=soft)


@pytest.mark.parametrize("resample", [1, 3])
@pytest.mark.parametrize("held", [0, 5, 8])
def test_held_steps_are_counted_and_resampled(flat: Any, resample: int, held: int) -> None:
    calls: list[tuple[int, int]] = []
    draws: list[str] = []

    def hold(step: int, repeat: int, z: Tensor) -> Tensor:
        calls.append((step, repeat))
        return z

    def noise(purpose: str, step: int, repeat: int) -> Tensor:
        draws.append(purpose)
        return torch.zeros(1, 2, 8, 8)

    states = run_steps(
        lambda z, t: torch.zeros_like(z), torch.ones(1, 2, 8, 8), rule_of(flat, 8, resample), noise, "a",
        hold=hold, held=held,
    )  # fmt: skip
    resampled = min(held, 7)
    assert calls == [(s, r) for s in range(held) for r in range(resample if s < 7 else 1)]
    assert draws.count("a.resample") == (resample - 1) * resampled
    assert draws.count("a.step") == 8 + (resample - 1) * resampled
    assert len(states) == 9


def test_the_result_is_what_the_model_predicts(make: Any) -> None:
    """The model insists on z0 = grey, so what is left is the noise of the last abar: std sqrt(1 - abar_0)."""
    for kind in ("epsilon", "v_prediction"):
        model = make.model(kind)
        z = stage_a(model, rule_of(model)).states[-1] / model.scale_factor
        assert (z - 0.3).abs().max() < 0.05


def test_eps_and_v_models_walk_the_same_path(make: Any) -> None:
    runs = [stage_a(make.model(kind), rule_of(make.model(kind))).states for kind in ("epsilon", "v_prediction")]
    for ours, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_hold_puts_the_noised_rough_image_where_the_organs_are(flat: Any) -> None:
    rule = rule_of(flat)
    stage = stage_a(flat, rule, soft=0.0)
    inside = stage.mask.expand(-1, 2, -1, -1) == 1
    noise = noise_of(flat, 2)
    for step in range(4):
        abar = rule.schedule.abar[step]
        known = abar**0.5 * stage.z_hat + (1 - abar) ** 0.5 * noise("a.hold", step)
        assert torch.allclose(stage.states[step][inside], known[inside])
    start = noise("a.x_T")
    assert torch.equal(stage.states[0][~inside], start[~inside])


@pytest.mark.parametrize("start", [0, 2, 7, 8])
def test_branch_keeps_the_trajectory_outside_the_region(flat: Any, start: int) -> None:
    rule = rule_of(flat)
    states = stage_a(flat, rule).states
    m_p = torch.zeros(2, 1, 8, 8)
    m_p[0, :, 2:5, 3:6] = 1
    guide = Guide(flat.embed(["Edema"] * 2), flat.embed([""] * 2), 2.0)
    edited = pathology_from_branch(flat, states, m_p, guide, rule, noise_of(flat, 2, "v0"), start=start)
    outside = (m_p == 0).expand(-1, 2, -1, -1)
    assert len(edited) == len(states)
    for step, (before, after) in enumerate(zip(states, edited, strict=True)):
        assert torch.equal(before[outside], after[outside])
        assert torch.equal(before[1], after[1])
        changed = bool((before[~outside] != after[~outside]).any())
        assert changed == (step > start)


def test_branch_ends_at_the_guided_prediction_inside(flat: Any) -> None:
    rule = rule_of(flat)
    m_p = torch.ones(2, 1, 8, 8)
    guide = Guide(flat.embed(["Edema"] * 2), flat.embed([""] * 2), 2.0)
    edited = pathology_from_branch(flat, stage_a(flat, rule).states, m_p, guide, rule, noise_of(flat, 2, "v0"), start=2)
    assert (decode_scaled(flat, edited[-1]) - (0.5 + 2.0 * 0.1)).abs().max() < 0.05


def test_reference_holds_every_step_to_the_encoded_image(flat: Any) -> None:
    rule = rule_of(flat)
    image = torch.rand(2, 1, 32, 32)
    m_p = torch.zeros(2, 1, 8, 8)
    m_p[:, :, :4] = 1
    noise = noise_of(flat, 2, "v0")
    guide = Guide(flat.embed(["Edema"] * 2))
    z0, states = pathology_from_noise(flat, image, m_p, guide, rule, noise)
    torch.testing.assert_close(z0, 4.0 * (flat.encode(image)[0] + 0.01 * noise("b.posterior")))
    for step in range(8):
        abar = rule.schedule.abar[step]
        known = abar**0.5 * z0 + (1 - abar) ** 0.5 * noise("b.hold", step)
        torch.testing.assert_close(states[step][:, :, 4:], known[:, :, 4:])
    assert torch.equal(states[0][:, :, :4], noise("b.x_T")[:, :, :4])


@pytest.mark.parametrize("resample", [1, 2])
@pytest.mark.parametrize(("freed_from", "replaced"), [(None, 4), (3, 2), (0, 0)])
def test_steps_whose_result_the_hold_replaces_are_skipped_bit_for_bit(
    make: Any, resample: int, freed_from: int | None, replaced: int
) -> None:
    """With soft 1 the states are those of a run that asks the denoiser in every step."""
    model = make.model("v_prediction")
    rule, label_map = rule_of(model, 8, resample), torch.full((2, 32, 32), 4, dtype=torch.uint8)
    region = torch.zeros(2, 1, 8, 8)
    region[..., 2:5, 2:5] = 1
    freed = None if freed_from is None else FreedRegion(region, freed_from)
    full, short = (
        anatomy_stage(
            model, label_map, Guide(model.embed(["No Finding"] * 2)), rule, noise_of(model, 2),
            hold_steps=5, soft=1.0, freed=freed, replaced=skipped,
        ).states
        for skipped in (0, replaced)
    )  # fmt: skip
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(short, full, strict=True))
    settings = SamplingSettings("joint", "xreal", 8, 0.625, (freed_from or 0) / 8, 2.0, 1.0, resample, "kept")
    assert settings.replaced_steps(freed=freed is not None) == replaced
    assert dataclasses.replace(settings, soft=0.9).replaced_steps() == 0


def test_the_second_order_solver_is_nearer_to_the_dense_solution(make: Any) -> None:
    """Data whose mean depends on the noise level, so that first-order steps err: predicted z0 = z * abar."""
    model = make.model("epsilon")

    def end(steps: int, *, multistep: bool) -> float:
        schedule = make_schedule(model.alphas_cumprod, steps, "branch", 2.0)
        abars = dict(zip(schedule.timesteps, schedule.abar, strict=True))
        rule = Rule(schedule, "epsilon", eta=0.0, multistep=multistep)

        def denoise(z: Tensor, t: int) -> Tensor:
            abar = abars[t]
            return (z - abar**0.5 * (z * abar)) / (1 - abar) ** 0.5

        states = run_steps(
            denoise, torch.full((1, 2, 8, 8), 1.5), rule, noise_of(model, 1), "a",
            hold=lambda step, repeat, z: z, held=0,
        )  # fmt: skip
        return float(states[-1][0, 0, 0, 0])

    dense = end(200, multistep=False)
    assert abs(end(10, multistep=True) - dense) < 0.5 * abs(end(10, multistep=False) - dense)


def test_no_step_that_is_held_or_noisy_is_of_second_order(flat: Any) -> None:
    noisy, held = Rule(rule_of(flat).schedule, "epsilon"), Rule(rule_of(flat).schedule, "epsilon", eta=0.0)
    for rule, hold_steps in ((noisy, 4), (held, 8)):
        plain = stage_a(flat, rule, hold_steps).states
        again = stage_a(flat, dataclasses.replace(rule, multistep=True), hold_steps).states
        assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_below_the_floor_the_prompt_is_followed_alone(flat: Any) -> None:
    rule = rule_of(flat)
    guide = Guide(flat.embed(["Edema"]), flat.embed([""]), 3.0, floor=rule.schedule.timesteps[5])
    free_stage(flat, guide, rule, noise_of(flat, 1))
    assert flat.batches == [2] * 6 + [1] * 2


def test_detail_is_added_to_what_is_held(tiny: Any) -> None:
    """The state let go has the texture's variance more, of its frequencies and nothing else."""
    label_map = torch.zeros(2, tiny.image_size, tiny.image_size, dtype=torch.uint8)
    guide, rule = Guide(tiny.embed(["No Finding"] * 2)), rule_of(tiny)
    amplitude = torch.zeros(tiny.latent_shape)
    amplitude[:, 0, 1] = amplitude[:, 0, -1] = 2.0
    tiny._detail = {"amplitude": amplitude, "where": torch.ones(tiny.latent_shape)}
    try:
        plain, more = (
            anatomy_stage(tiny, label_map, guide, rule, noise_of(tiny, 2), hold_steps=4, soft=1.0, detail=detail).z_hat
            for detail in (0.0, 0.5)
        )
    finally:
        tiny._detail = None
    spectrum = torch.fft.fft2(more - plain).abs()
    assert (spectrum[..., 0, 1] > 0.1).all()
    spectrum[..., 0, 1] = spectrum[..., 0, -1] = 0
    assert spectrum.max() < 1e-3


def test_detail_is_refused_where_it_was_not_measured(tiny: Any) -> None:
    with pytest.raises(BundleError, match=r"detail\.safetensors"):
        tiny.detail(torch.zeros(1, *tiny.latent_shape))
