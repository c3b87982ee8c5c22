"""The segmenter: image -> organ codes.

Shapes: B batch, N organ codes (background first), H and W image sides.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from xreal_synth.findings import ORGANS
from xreal_synth.models.networks.mask_controller import CODE_SCALE
from xreal_synth.models.networks.segmenters import OrganSegmenter, PyramidSegmenter
from xreal_synth.training.images import ImageBatch, degraded
from xreal_synth.training.losses import soft_dice_loss
from xreal_synth.training.settings import SegmenterSettings
from xreal_synth.training.tasks.base import TrainingTask, image_grid


def build_segmenter(settings: SegmenterSettings) -> OrganSegmenter | PyramidSegmenter:
    """A fresh network of the build asked for."""
    network: OrganSegmenter | PyramidSegmenter
    if settings.kind == "pyramid":
        network = PyramidSegmenter(settings.inner_size, settings.blocks, settings.width)
    else:
        network = OrganSegmenter(settings.inner_size, settings.channels)
    return network


class SegmenterTask(TrainingTask):
    """Trains on images also blurred and made noisy, since generated images differ from real ones so."""

    part = "segmenter"

    def __init__(self, settings: SegmenterSettings, network: OrganSegmenter | PyramidSegmenter) -> None:
        self.settings = settings
        self.network = network
        self.module = network

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy plus soft Dice; in evaluation also each organ's Dice."""
        image = degraded(batch, generator) if self.network.training else batch.image
        logits = self.network(image).float()
        loss = functional.cross_entropy(logits, batch.label_map) + soft_dice_loss(logits, batch.label_map)
        if self.network.training:
            return {"loss": loss}
        return {"loss": loss, **dice_per_organ(logits.argmax(dim=1), batch.label_map)}

    @torch.no_grad()
    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Three rows: images, the outlines found drawn on them, and the given masks."""
        found = self.network(batch.image).argmax(dim=1)
        drawn = torch.where(outline(found)[:, None], torch.ones_like(batch.image), batch.image)
        return image_grid([batch.image, drawn, batch.label_map[:, None].float() / CODE_SCALE])


def dice_per_organ(found_BHW: Tensor, wanted_BHW: Tensor) -> dict[str, Tensor]:
    """Codes found and wanted [B, H, W] -> each organ's Dice, averaged over the images that have it wanted."""
    scores = {}
    for organ, code in ORGANS.items():
        found, wanted = found_BHW == code, wanted_BHW == code
        size = found.sum(dim=(1, 2)) + wanted.sum(dim=(1, 2))
        dice = 2 * (found & wanted).sum(dim=(1, 2)) / size.clamp_min(1)
        here = wanted.any(dim=2).any(dim=1)
        scores[f"dice_{organ}"] = dice[here].float().mean() if bool(here.any()) else dice.new_ones(())
    return scores


def outline(label_map_BHW: Tensor) -> Tensor:
    """[B, H, W] bool: pixels where the code differs from the one to the right or below."""
    edge = torch.zeros_like(label_map_BHW, dtype=torch.bool)
    edge[:, :-1] |= label_map_BHW.diff(dim=1) != 0
    edge[:, :, :-1] |= label_map_BHW.diff(dim=2) != 0
    return edge
