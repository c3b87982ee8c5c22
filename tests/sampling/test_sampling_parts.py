"""Schedule, guidance, blend and noise, each against a closed form or an independent implementation."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from tests.doubles.recorded_noise import RecordedNoise
from xreal_synth.sampling.blend import (
    PASTES,
    blend,
    cubic_resize,
    feathered_paste,
    kept_variance_blend,
    kept_variance_paste,
    latent_region,
    soft_mask,
    to_grey,
)
from xreal_synth.sampling.denoise import guided, split_prediction
from xreal_synth.sampling.noise import BatchNoise, NoiseAhead, NoiseKey, philox
from xreal_synth.sampling.schedule import (
    crowded_timesteps,
    ddim_step,
    make_schedule,
    q_sample,
    reference_timesteps,
    respaced_timesteps,
    step_back,
)


def scheduler(kind: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(
        1000, 0.0015, 0.0295, "scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
        timestep_spacing="leading", prediction_type=kind,
    )  # fmt: skip


@pytest.mark.parametrize("steps", [n for n in range(1, 501) if 1000 % n == 0])
def test_timesteps_are_diffusers_leading_ones_where_steps_divide_1000(steps: int) -> None:
    theirs = scheduler()
    theirs.set_timesteps(steps)
    assert reference_timesteps(steps) == respaced_timesteps(steps) == tuple(theirs.timesteps.tolist())


def test_a_thousand_steps_repeat_the_last_timestep_without_effect() -> None:
    alphas = scheduler().alphas_cumprod.double()
    assert respaced_timesteps(1000) == reference_timesteps(1000)
    schedule = make_schedule(alphas, 1000, "branch")
    assert schedule.timesteps[:3] == (999, 999, 998)
    z = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    z0, eps = split_prediction("epsilon", torch.tanh(z), z, schedule.abar[0])
    torch.testing.assert_close(ddim_step(z0, eps, schedule.abar[0], schedule.abar_next[0], torch.ones_like(z)), z)


@given(st.integers(1, 999))
def test_respaced_timesteps_are_even_and_within_range(steps: int) -> None:
    timesteps = respaced_timesteps(steps)
    gaps = -np.diff([*timesteps, 1 - 1000 / steps])
    assert len(timesteps) == steps
    assert timesteps[-1] == 1
    assert timesteps[0] <= 999
    assert np.all(np.abs(gaps - 1000 / steps) < 1)


@given(st.integers(1, 999), st.floats(0.5, 4))
def test_crowded_timesteps_fall_from_the_same_top_and_never_repeat(steps: int, power: float) -> None:
    timesteps = crowded_timesteps(steps, power)
    assert len(timesteps) == steps
    assert timesteps[-1] == 1
    assert timesteps[0] <= 999
    assert np.all(np.diff(timesteps) < 0)
    if steps > 1:
        assert timesteps[0] >= respaced_timesteps(steps)[0]


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 1.0])
def test_a_soft_blend_can_keep_the_noise_variance(weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1, 1, 300, 300, generator=generator) for _ in range(2))
    abar, z_hat, z0 = 0.3, torch.full_like(a, 2.0), torch.full_like(a, -1.0)
    z, keep = q_sample(z0, abar, a), torch.full((1, 1, 300, 300), weight)
    kept = kept_variance_blend(z_hat, z, keep, abar, b)
    mixed = blend(q_sample(z_hat, abar, b), z, keep)
    assert float(kept.var()) == pytest.approx(1 - abar, rel=0.02)
    assert float(kept.mean()) == pytest.approx(0.3**0.5 * (3 * weight - 1), abs=0.02)
    assert float(mixed.var()) == pytest.approx((1 - abar) * (weight**2 + (1 - weight) ** 2), rel=0.02)
    if weight in (0.0, 1.0):
        torch.testing.assert_close(kept, mixed)


def test_crowding_moves_steps_to_where_detail_is_decided() -> None:
    below = [sum(t < 300 for t in crowded_timesteps(25, power)) for power in (1, 1.7, 3)]
    assert below == [8, 13, 17]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_whole_ddim_run_equals_diffusers(kind: str) -> None:
    theirs, steps = scheduler(kind), 20
    theirs.set_timesteps(steps)
    schedule = make_schedule(theirs.alphas_cumprod.double(), steps, "reference")
    generator = torch.Generator().manual_seed(0)
    ours = other = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    for i, t in enumerate(schedule.timesteps):
        noise = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
        z0, eps = split_prediction(kind, torch.tanh(ours), ours, schedule.abar[i])
        ours = ddim_step(z0, eps, schedule.abar[i], schedule.abar_next[i], noise)
        other = theirs.step(torch.tanh(other), t, other, eta=1.0, variance_noise=noise).prev_sample
    assert (ours - other).abs().max() < 1e-4 * other.abs().max()


def test_eps_and_v_are_the_same_prediction() -> None:
    z, eps, abar = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), 0.37
    z0 = (z - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    v = math.sqrt(abar) * eps - math.sqrt(1 - abar) * z0
    for got, wanted in zip(split_prediction("v_prediction", v, z, abar), (z0, eps), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_q_sample_and_step_back_agree_in_distribution() -> None:
    """Noising to abar_next and stepping back to abar has the mean and variance of noising to abar at once."""
    abar, abar_next, z0 = 0.2, 0.5, torch.full((200_000,), 2.0)
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(z0.shape, generator=generator) for _ in range(2))
    twice = step_back(q_sample(z0, abar_next, first), abar_next, abar, second)
    assert twice.mean().item() == pytest.approx(2 * math.sqrt(abar), abs=0.01)
    assert twice.var().item() == pytest.approx(1 - abar, abs=0.01)


def test_guidance_is_one_forward_of_both_halves() -> None:
    sizes = []

    def denoise(z: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        sizes.append((len(z), len(t), len(cond), int(t[0])))
        return z + cond.mean(dim=(1, 2))[:, None, None, None]

    z = torch.randn(3, 2, 4, 4)
    cond, null = torch.full((3, 1, 1), 2.0), torch.full((3, 1, 1), 0.5)
    torch.testing.assert_close(guided(denoise, z, 41, torch.cat([null, cond]), 4.0), z + 0.5 + 4.0 * 1.5)
    assert sizes == [(6, 6, 6, 41)]


def cubic_by_hand(row: np.ndarray, size: int) -> np.ndarray:
    """Keys' kernel with a = -0.75 at half-pixel centres, border replicated."""
    out = np.zeros(size)
    for i in range(size):
        at = (i + 0.5) * len(row) / size - 0.5
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            d = abs(at - tap)
            near = 1.25 * d**3 - 2.25 * d**2 + 1
            far = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            out[i] += row[min(max(tap, 0), len(row) - 1)] * (near if d <= 1 else far if d < 2 else 0)
    return out


@limits(deadline=None, max_examples=30)
@given(st.integers(5, 40), st.integers(2, 40), st.integers(0, 2**31))
def test_cubic_resize_is_keys_kernel(side: int, size: int, seed: int) -> None:
    image = np.random.default_rng(seed).random((side, side))
    rows = np.stack([cubic_by_hand(row, size) for row in image])
    wanted = np.stack([cubic_by_hand(column, size) for column in rows.T]).T
    got = cubic_resize(torch.from_numpy(image)[None, None], (size, size))[0, 0].numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-9)


def test_soft_mask_is_one_in_organs_and_soft_elsewhere() -> None:
    label_map = torch.zeros(2, 32, 32, dtype=torch.uint8)
    label_map[0, 8:24, 8:24] = 4
    mask = soft_mask(label_map, (8, 8), 0.2)
    assert mask.shape == (2, 1, 8, 8)
    assert torch.equal(mask[0, 0, 3:5, 3:5], torch.ones(2, 2))
    assert torch.equal(mask[1], torch.full((1, 8, 8), 0.2))
    assert mask[0, 0, 0, 0] == torch.tensor(0.2)


def test_latent_region_covers_every_pixel_of_the_region() -> None:
    region = torch.zeros(1, 32, 32, dtype=torch.bool)
    region[0, 7, 12] = True
    cells = latent_region(region, (8, 8))
    assert cells.sum() == 1
    assert cells[0, 0, 1, 3] == 1


def test_blend_with_a_binary_mask_is_exact() -> None:
    known, z = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    keep = torch.zeros(1, 1, 4, 4)
    keep[..., :2] = 1
    mixed = blend(known, z, keep)
    assert torch.equal(mixed[..., :2], known[..., :2])
    assert torch.equal(mixed[..., 2:], z[..., 2:])


def test_paste_leaves_what_alpha_does_not_touch_even_beside_broken_numbers() -> None:
    image, edited = torch.rand(1, 4, 4), torch.full((1, 4, 4), float("nan"))
    edited[0, 0, 0] = 1.0
    alpha = torch.zeros(4, 4)
    alpha[0, 0] = 0.25
    for rule in PASTES.values():
        assert torch.equal(rule(image, edited, alpha).flatten()[1:], image.flatten()[1:])
    assert feathered_paste(image, edited, alpha)[0, 0, 0] == pytest.approx(0.75 * image[0, 0, 0].item() + 0.25)


def test_a_paste_of_kept_variance_leaves_texture_as_strong_as_on_both_sides() -> None:
    generator = torch.Generator().manual_seed(5)
    image, edited = (torch.randn(1, 64, 64, generator=generator) for _ in range(2))
    alpha = torch.full((64, 64), 0.5)
    assert feathered_paste(image, edited, alpha).std() < 0.75
    assert 0.9 < kept_variance_paste(image, edited, alpha).std() < 1.05
    flat = torch.ones_like(image), 2 * torch.ones_like(image)
    assert torch.allclose(kept_variance_paste(*flat, alpha), torch.full_like(image, 1.5))
    for share in (0.0, 1.0):
        same = torch.full((64, 64), share)
        assert torch.equal(kept_variance_paste(image, edited, same), feathered_paste(image, edited, same))


def test_grey_rounds_and_averages_channels() -> None:
    image = torch.tensor([[[-1.0, 0.0, 1.0]], [[-1.0, 1.0, 1.0]]])
    assert to_grey(image, (-1.0, 1.0)).tolist() == [[0, 191, 255]]


def test_noise_depends_on_every_part_of_its_key_and_on_nothing_else() -> None:
    key = NoiseKey(1, 2, 3, "v0", 0)
    base = philox((2, 3), key, "b.step", 4, 0)
    others = [
        philox((2, 3), other, purpose, step, repeat)
        for other, purpose, step, repeat in [
            (NoiseKey(9, 2, 3, "v0", 0), "b.step", 4, 0), (NoiseKey(1, 9, 3, "v0", 0), "b.step", 4, 0),
            (NoiseKey(1, 2, 9, "v0", 0), "b.step", 4, 0), (NoiseKey(1, 2, 3, "v1", 0), "b.step", 4, 0),
            (NoiseKey(1, 2, 3, "v0", 1), "b.step", 4, 0), (key, "b.hold", 4, 0), (key, "b.step", 5, 0),
            (key, "b.step", 4, 1),
        ]
    ]  # fmt: skip
    assert all(not np.array_equal(base, other) for other in others)
    rows = BatchNoise(philox, (NoiseKey(0, 0, 0), key), (2, 3), torch.device("cpu"))("b.step", 4)
    assert np.array_equal(rows[1].numpy(), base)
    assert rows.dtype == torch.float32


def test_noise_drawn_ahead_is_the_same_and_what_the_last_micro_batch_asked_for() -> None:
    threads: list[tuple[str, bool]] = []

    def source(shape: Any, key: NoiseKey, purpose: Any, step: int, repeat: int) -> Any:
        ahead = threading.current_thread() is not threading.main_thread()
        threads.append((f"{key.index} {purpose} {step}", ahead))
        return philox(shape, key, purpose, step, repeat)

    ahead = NoiseAhead(source, torch.device("cpu"))
    for index in (5, 6):
        drawn = ahead.batch("edits", (NoiseKey(0, index, 0),), (2, 3))
        plain = BatchNoise(philox, (NoiseKey(0, index, 0),), (2, 3), torch.device("cpu"))
        for purpose, step in (("b.hold", 1), ("b.step", 1), *((("b.step", 2),) if index == 6 else ())):
            assert torch.equal(drawn(purpose, step), plain(purpose, step))
    assert threads == [
        ("5 b.hold 1", False), ("5 b.step 1", False), ("6 b.hold 1", True), ("6 b.step 1", True), ("6 b.step 2", False)
    ]  # fmt: skip


def test_recorded_noise_insists_on_the_recorded_order() -> None:
    draws = [np.full((2,), i, dtype=np.float32) for i in range(2)]
    recorded = RecordedNoise(draws, ["x_T", "step"])
    key = NoiseKey(0, 0, 0)
    assert recorded((2,), key, "a.x_T", 0, 0)[0] == 0
    with pytest.raises(ValueError, match="recorded step"):
        recorded((2,), key, "a.hold", 0, 0)
    assert recorded((2,), key, "b.step", 0, 0)[0] == 1
    assert recorded.left == 0
    with pytest.raises(ValueError, match="no recorded noise left"):
        recorded((2,), key, "b.step", 1, 0)
