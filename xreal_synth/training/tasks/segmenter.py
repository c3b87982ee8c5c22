"""The segmenter: film -> organ codes.

Shapes: B batch, N organ codes (background first), H and W film sides.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from xreal_synth.models.networks.mask_controller import CODE_SCALE
from xreal_synth.models.networks.organ_segmenter import OrganSegmenter
from xreal_synth.models.networks.pyramid_segmenter import PyramidSegmenter
from xreal_synth.training.films import FilmBatch, degraded
from xreal_synth.training.losses import soft_dice_loss
from xreal_synth.training.settings.segmenter import SegmenterSettings
from xreal_synth.training.tasks.base import Task, film_grid

ORGANS = ("left_lung", "right_lung", "heart", "aorta")


def build_segmenter(settings: SegmenterSettings) -> OrganSegmenter | PyramidSegmenter:
    """A fresh network of the build asked for."""
    network: OrganSegmenter | PyramidSegmenter
    if settings.kind == "pyramid":
        network = PyramidSegmenter(settings.inner_size, settings.blocks, settings.width)
    else:
        network = OrganSegmenter(settings.inner_size, settings.channels)
    return network


class SegmenterTask(Task):
    """Trains on films also blurred and made noisy, since generated films differ from real ones so."""

    def __init__(self, settings: SegmenterSettings, network: OrganSegmenter | PyramidSegmenter) -> None:
        self.settings = settings
        self.network = network
        self.module = network

    def loss(self, batch: FilmBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy plus soft Dice; in evaluation also each organ's Dice."""
        film = degraded(batch, generator) if self.network.training else batch.film
        logits = self.network(film).float()
        loss = functional.cross_entropy(logits, batch.codes) + soft_dice_loss(logits, batch.codes)
        if self.network.training:
            return {"loss": loss}
        return {"loss": loss, **dice_per_organ(logits.argmax(dim=1), batch.codes)}

    @torch.no_grad()
    def preview(self, batch: FilmBatch, generator: torch.Generator) -> Tensor:
        """Three rows: films, the outlines found drawn on them, and the given masks."""
        found = self.network(batch.film).argmax(dim=1)
        drawn = torch.where(outline(found)[:, None], torch.ones_like(batch.film), batch.film)
        return film_grid([batch.film, drawn, batch.codes[:, None].float() / CODE_SCALE])

    def save(self, folder: Path) -> None:
        """`segmenter/`."""
        self.network.save_pretrained(folder / "segmenter")


def dice_per_organ(found_BHW: Tensor, wanted_BHW: Tensor) -> dict[str, Tensor]:
    """Codes found and wanted [B, H, W] -> each organ's Dice, averaged over the films that have it wanted."""
    scores = {}
    for code, organ in enumerate(ORGANS, start=1):
        found, wanted = found_BHW == code, wanted_BHW == code
        size = found.sum(dim=(1, 2)) + wanted.sum(dim=(1, 2))
        dice = 2 * (found & wanted).sum(dim=(1, 2)) / size.clamp_min(1)
        here = wanted.any(dim=2).any(dim=1)
        scores[f"dice_{organ}"] = dice[here].float().mean() if bool(here.any()) else dice.new_ones(())
    return scores


def outline(codes_BHW: Tensor) -> Tensor:
    """[B, H, W] bool: pixels where the code differs from the one to the right or below."""
    edge = torch.zeros_like(codes_BHW, dtype=torch.bool)
    edge[:, :-1] |= codes_BHW.diff(dim=1) != 0
    edge[:, :, :-1] |= codes_BHW.diff(dim=2) != 0
    return edge
