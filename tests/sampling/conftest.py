"""A model whose images can be worked out by hand, and the tiny bundle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from xreal_synth.models.describe import describe
from xreal_synth.models.load import alphas_from, load_bundle
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.sampling.jobs import Edit, GroupJob, MemberJob
from xreal_synth.types import SamplingSettings

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0295, "beta_schedule": "scaled_linear"}


@dataclass
class Flat:
    """Knows of each prompt one grey: it always predicts the z0 that is this grey everywhere.

    Images 32x32 in [0, 1], latents 2x8x8: the first stage takes cell means, twice.
    """

    prediction_type: str = "epsilon"
    greys: dict[str, float] = field(default_factory=lambda: {"": 0.5, "No Finding": 0.3, "Edema": 0.6, "Mass": 0.8})
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    latent_shape: tuple[int, int, int] = (2, 8, 8)
    channels: int = 1
    value_range: tuple[float, float] = (0.0, 1.0)
    scale_factor: float = 4.0
    alphas_cumprod: Tensor = field(default_factory=lambda: alphas_from(SCHEDULE).double())
    null_prompt: str = ""
    region_maps: tuple[str, ...] = ()
    decoder_noise_shape: tuple[int, ...] | None = None
    batches: list[int] = field(default_factory=list)

    def denoise(self, z_BChw: Tensor, t_B: Tensor, cond_BLD: Tensor) -> Tensor:
        self.batches.append(len(z_BChw))
        abar = float(self.alphas_cumprod[int(t_B[0])])
        z0 = self.scale_factor * cond_BLD.mean(dim=(1, 2))[:, None, None, None].expand_as(z_BChw)
        eps = (z_BChw - math.sqrt(abar) * z0) / math.sqrt(1 - abar)
        if self.prediction_type == "epsilon":
            return eps
        return math.sqrt(abar) * eps - math.sqrt(1 - abar) * z0

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.nn.functional.avg_pool2d(x_BCHW, 4).expand(-1, 2, -1, -1)
        return mean, torch.full_like(mean, 0.01)

    def decode(self, z_BChw: Tensor, decoder_noise: Tensor | None = None) -> Tensor:
        image = z_BChw.mean(dim=1, keepdim=True).repeat_interleave(4, 2).repeat_interleave(4, 3)
        return image if decoder_noise is None else image + 0.05 * decoder_noise

    def control(self, label_map_BHW: Tensor) -> Tensor:
        return label_map_BHW[:, None].float() / 4

    def embed(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([self.greys[prompt] for prompt in prompts])[:, None, None].expand(-1, 3, 5)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def flat() -> Flat:
    return Flat()


@pytest.fixture(scope="session")
def tiny() -> LoadedBundle:
    return load_bundle(describe("xreal-tiny"))


def settings(**changes: object) -> SamplingSettings:
    given = {
        "mode": "branch", "control": "xreal", "steps": 8, "hold": 0.5, "branch": 0.25, "guidance": 2.0,
        "soft": 0.2, "resample": 1, "paste": "feather",
    }  # fmt: skip
    return SamplingSettings(**{**given, **changes})  # type: ignore[arg-type]


def edit(size: int, box: tuple[int, int, int, int], prompt: str = "Edema", alpha: float = 1.0) -> Edit:
    x0, y0, x1, y1 = box
    region = np.zeros((size, size), dtype=bool)
    region[y0:y1, x0:x1] = True
    return Edit(region, prompt, region.astype(np.float32) * np.float32(alpha))


def group(index: int, size: int, *members: tuple[Edit, ...], attempt: int = 0) -> GroupJob:
    anatomy = np.zeros((size, size), dtype=np.uint8)
    anatomy[size // 4 : -size // 4, size // 8 : size // 2] = 1 + index % 2
    jobs = tuple(MemberJob(f"v{i}", edits) for i, edits in enumerate(members))
    return GroupJob(7, index, attempt, anatomy, "No Finding", jobs)


@pytest.fixture
def make() -> type:
    """The helpers above, as a fixture: tests are collected without packages."""

    class Make:
        settings = staticmethod(settings)
        edit = staticmethod(edit)
        group = staticmethod(group)
        model = Flat

    return Make
