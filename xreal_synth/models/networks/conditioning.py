"""What a denoiser is told beside its latents: labels, one learned token each of a finite set, and maps of regions.

Shapes: B batch, L labels (the findings and then "No Finding"), D token width, R maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations
from typing import Any, Final

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

NO_FINDING = "No Finding"
FINDINGS = ("Pneumonia", "Infiltration", "Atelectasis", "Effusion", "Edema")

ALL_TOGETHER = 9
AT_ONCE = 3


def prompt_of(positive: Sequence[str], order: Sequence[str] = FINDINGS) -> str:
    """Findings in any order -> their prompt: the names joined by one space in the network's own order."""
    return " ".join(name for name in order if name in positive)


class LabelTokens(ModelMixin, ConfigMixin):
    """Labels [B, L] of 0 and 1 -> tokens [B, L, D]: the label's own token where 1, its null token where 0."""

    @register_to_config
    def __init__(self, findings: Sequence[str] = FINDINGS, width: int = 96) -> None:
        super().__init__()
        self.findings = tuple(findings)
        labels = len(self.findings) + 1
        self.present = nn.Parameter(torch.randn(labels, width))
        self.absent = nn.Parameter(torch.randn(labels, width))

    def forward(self, labels_BL: Tensor) -> Tensor:
        """Labels [B, L] of 0 and 1 -> tokens [B, L, D]."""
        chosen = labels_BL[:, :, None].bool()
        return torch.where(chosen, self.present[None], self.absent[None])

    @torch.no_grad()
    def table(self) -> dict[str, Tensor]:
        """Every prompt of the label set -> tokens [L, D]: null "", "No Finding", the findings' combinations.

        Of more than ALL_TOGETHER findings, only combinations of up to AT_ONCE are named: the rest would be
        thousands.
        """
        count = len(self.findings)
        most = count if count <= ALL_TOGETHER else AT_ONCE
        rows: dict[str, list[bool]] = {}
        for chosen in chain.from_iterable(combinations(range(count), size) for size in range(most + 1)):
            positive = [self.findings[at] for at in chosen]
            rows[prompt_of(positive, self.findings)] = [at in chosen for at in range(count)] + [False]
        rows[NO_FINDING] = [False] * len(self.findings) + [True]
        tokens = self(torch.tensor(list(rows.values()), device=self.present.device))
        return dict(zip(rows, tokens.float().cpu(), strict=True))


MAPS_KEY: Final = "_region_maps"
"""Stands in the denoiser's config.json: the findings of its maps, in order; one for an unknown place comes after."""


def with_maps(z_BChw: Tensor, maps_BRhw: Tensor | None) -> Tensor:
    """Latents [B, C, h, w] and maps [B, R, h, w] in 0..1 -> [B, C + R, h, w]; without maps the latents alone."""
    return z_BChw if maps_BRhw is None else torch.cat([z_BChw, maps_BRhw.to(z_BChw.dtype)], dim=1)


def no_maps(z_BChw: Tensor, unet: Any) -> Tensor:
    """Latents as a denoiser takes them where no finding is asked for: every map zero. It has as many inputs more than
    outputs."""
    count = unet.config.in_channels - unet.config.out_channels
    return with_maps(z_BChw, z_BChw.new_zeros(len(z_BChw), count, *z_BChw.shape[2:]) if count else None)
