"""A perceptual distance in the features of a trained organ segmenter.

The usual networks' weights have to be fetched; a segmenter of this project is at hand wherever images are
trained on, and its features know what a chest is.

Shapes: B batch, H and W image sides.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from xreal_synth.errors import TrainingError
from xreal_synth.models.networks.organ_segmenter import OrganSegmenter


class PerceptualDistance(nn.Module):
    """Mean squared distance of unit-length features, averaged over the segmenter's levels (LPIPS, unweighted).

    Holds no trained parameters; the segmenter works at its own inner size.
    """

    def __init__(self, segmenter: OrganSegmenter) -> None:
        super().__init__()
        self.segmenter = segmenter.requires_grad_(False).eval()

    def forward(self, found_B1HW: Tensor, wanted_B1HW: Tensor) -> Tensor:
        """Two batches of images [B, 1, H, W] -> their mean distance in normed features, a scalar."""
        with torch.no_grad():
            wanted = self.segmenter.features(wanted_B1HW)
        found = self.segmenter.features(found_B1HW)
        apart = [
            (functional.normalize(a.float(), dim=1) - functional.normalize(b.float(), dim=1))
            .pow(2)
            .sum(dim=1)
            .mean()
            for a, b in zip(found, wanted, strict=True)
        ]
        return torch.stack(apart).mean()


def load_perceptual(folder: str) -> PerceptualDistance:
    """The distance by a trained segmenter's folder; raises TrainingError."""
    try:
        segmenter: OrganSegmenter = OrganSegmenter.from_pretrained(Path(folder), low_cpu_mem_usage=False)
    except (OSError, ValueError) as error:
        raise TrainingError(
            found=f"model.perceptual: {folder!r}: {error}",
            wanted="the folder of a trained segmenter",
            hint="train it first and give its path: --set model.perceptual=OUT/network/segmenter, or leave it out",
        ) from error
    return PerceptualDistance(segmenter)
