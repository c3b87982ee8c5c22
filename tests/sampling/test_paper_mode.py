"""`mode: paper` against Algorithm 1 written out line by line, and RePaint's U in every mode."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xreal_synth.engine.estimate import estimate
from xreal_synth.errors import RecipeError
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.recipe.load import recipe_from_text
from xreal_synth.recipe.sampling import resolve_sampling
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.noise import NoiseKey, philox
from xreal_synth.types import SamplingDefaults, SamplingSettings

pytestmark = pytest.mark.numeric

DEFAULTS = SamplingDefaults(mode="branch", steps=8, hold=0.9, branch=0.5, guidance=3.0, soft=0.7, eta=0.1)
RECIPE = """\
version: 1
name: printed
anatomies: 1
bundle: xreal-tiny
findings: [{weight: 1, labels: []}]
output: {uri: out}
"""


def resolved(sampling: str) -> SamplingSettings:
    given = recipe_from_text(RECIPE, "r.yaml", [f"sampling={sampling}"])
    return resolve_sampling(given.sampling, DEFAULTS)


class Recorded:
    """The model, and the latents that it was asked to decode."""

    def __init__(self, model: LoadedBundle) -> None:
        self.model = model
        self.decoded: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def decode(self, z: Tensor, decoder_noise: Tensor | None = None) -> Tensor:
        self.decoded.append(z * self.model.scale_factor)
        return self.model.decode(z, decoder_noise)


@dataclass
class Counted:
    """The usual noise, and how often each purpose was drawn."""

    purposes: Counter[str] = field(default_factory=Counter)

    def __call__(
        self, shape: tuple[int, ...], key: NoiseKey, purpose: Any, step: int, repeat: int
    ) -> np.ndarray[Any, Any]:
        self.purposes[purpose] += 1
        return philox(shape, key, purpose, step, repeat)


def algorithm_1(
    model: LoadedBundle, x_v: Tensor, m: Tensor, T: int, s: int, prompt: str, draw: Callable[[str, int], Tensor]
) -> Tensor:
    """The printed loop in float64: t = T..1, held while t > T - s, alpha-bar under the first root.

    The chain is respaced: the model's timestep for t is 1000 (t - 1) / T + 1 and alpha_t the ratio of
    neighbouring alpha-bars, so that their product is alpha-bar_t.
    """
    timestep = {t: min(1000 * (t - 1) // T + 1, 999) for t in range(1, T + 1)}
    alpha_bar = {t: float(model.alphas_cumprod[timestep[t]]) for t in range(1, T + 1)} | {0: 1.0}
    x = draw("x_T", 0)
    for t in range(T, 0, -1):
        step = T - t
        if t > T - s:
            eps = draw("hold", step)
            x_t = math.sqrt(alpha_bar[t]) * x_v + math.sqrt(1 - alpha_bar[t]) * eps
            x = m * x_t + (1 - m) * x
        out = model.denoise(x.float(), torch.full((1,), timestep[t]), model.embed([prompt])).double()
        assert model.prediction_type == "v_prediction"
        eps_theta = math.sqrt(alpha_bar[t]) * out + math.sqrt(1 - alpha_bar[t]) * x
        z = draw("step", step) if t > 1 else torch.zeros_like(x)
        alpha_t = alpha_bar[t] / alpha_bar[t - 1]
        sigma_t = math.sqrt((1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * (1 - alpha_t))
        x = (x - (1 - alpha_t) / math.sqrt(1 - alpha_bar[t]) * eps_theta) / math.sqrt(alpha_t) + sigma_t * z
    return x


@pytest.mark.parametrize("sampling", ["{mode: paper, steps: 10}", "{mode: paper, steps: 7, hold: 0.3}"])
def test_paper_mode_is_the_printed_algorithm(tiny: LoadedBundle, make: Any, sampling: str) -> None:
    settings = resolved(sampling)
    box, prompt = (8, 16, 24, 40), "Pneumonia"
    job = make.group(3, 64, (make.edit(64, box, prompt),))
    model = Recorded(tiny)
    list(sample_groups(model, settings, [job], micro_batch=1))
    z_a, z_p = (z.double() for z in model.decoded)

    def draws(stage: str, member: str) -> Callable[[str, int], Tensor]:
        key = NoiseKey(job.seed, job.index, job.attempt, member)
        return lambda kind, step: torch.from_numpy(
            philox(tiny.latent_shape, key, f"{stage}.{kind}", step, 0)  # type: ignore[arg-type]
        )[None].double()

    def encoded(x: Tensor) -> Tensor:
        return (tiny.scale_factor * tiny.encode(x)[0]).double()

    label_map = torch.from_numpy(job.anatomy)[None]
    m_a = torch.nn.functional.interpolate(label_map[:, None] / 4, size=(16, 16), mode="bicubic") > 0
    s = int(settings.hold * settings.steps + 0.5)
    ours_a = algorithm_1(
        tiny, encoded(tiny.control(label_map)), m_a.double(), settings.steps, s, "No Finding", draws("a", "")
    )
    x_a = tiny.decode(z_a.float() / tiny.scale_factor).clamp(0, 1)
    m_p = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    m_p[..., 4:10, 2:6] = 1
    ours_p = algorithm_1(tiny, encoded(x_a), 1 - m_p, settings.steps, settings.steps, prompt, draws("b", "v0"))
    for ours, theirs in ((z_a, ours_a), (z_p, ours_p)):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_it_takes_a_hundred_steps_fifty_held_and_nothing_from_the_bundle(flat: Any, make: Any) -> None:
    drawn = Counted()
    job = make.group(0, 32, (make.edit(32, (8, 8, 16, 16)),))
    list(sample_groups(flat, resolved("{mode: paper}"), [job], micro_batch=1, noise=drawn))
    assert drawn.purposes == {"a.x_T": 1, "a.hold": 50, "a.step": 100, "b.x_T": 1, "b.hold": 100, "b.step": 100}
    assert flat.batches == [1] * 200


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("soft: 0.2", "soft: 0.2 with mode: paper"),
        ("guidance: 4.0", "guidance: 4 with mode: paper"),
        ("guidance: 1.0", "guidance: 1 with mode: paper"),
        ("eta: 0.5", "eta: 0.5 with mode: paper"),
        ("branch: 0.5", "branch: 0.5 with mode: paper"),
        ("soft: 0.2, guidance: 4.0", "soft: 0.2, guidance: 4 with mode: paper"),
    ],
)
def test_what_the_print_does_not_have_is_an_error(given: str, named: str) -> None:
    with pytest.raises(RecipeError, match=rf"sampling\.{given.split(':')[0]}.*{named}"):
        resolved(f"{{mode: paper, {given}}}")


@pytest.mark.parametrize("mode", ["branch", "reference", "paper"])
@pytest.mark.parametrize("hold", [0.0, 0.4, 1.0])
def test_resample_repeats_every_held_step_but_the_last_in_every_mode(
    flat: Any, make: Any, mode: str, hold: float
) -> None:
    guided = {} if mode == "paper" else {"guidance": 2.0, "soft": 0.2, "eta": 1.0, "branch": 0.4}
    chosen = {"mode": mode, "steps": 5, "hold": hold, "resample": 3, **guided}
    settings = resolved(str(chosen).replace("'", ""))
    job = make.group(0, 32, (make.edit(32, (8, 8, 16, 16)),))
    drawn = Counted()
    list(sample_groups(flat, settings, [job], micro_batch=1, noise=drawn))
    again_a, start = 2 * min(int(hold * 5 + 0.5), 4), 2 if mode == "branch" else 0
    again_b = 2 * (4 - start)
    rows = 1 if mode == "paper" else 2
    assert flat.batches == [1] * (5 + again_a) + [rows] * (5 - start + again_b)
    assert (drawn.purposes["a.resample"], drawn.purposes["b.resample"]) == (again_a, again_b)
    cost = estimate(_run(settings), images=1)  # type: ignore[arg-type]
    assert (cost.evaluations_per_twin, cost.evaluations_per_edit) == (5 + again_a, rows * (5 - start + again_b))


def _run(settings: SamplingSettings) -> SimpleNamespace:
    """The few facts that a cost estimate reads of a run."""
    recipe = recipe_from_text(RECIPE)
    bundle = SimpleNamespace(image_size=32, seconds_per_evaluation={})
    plan = SimpleNamespace(on_images=False)
    return SimpleNamespace(sampling=settings, recipe=recipe, bundle=bundle, plan=plan, delivered_size=32)
