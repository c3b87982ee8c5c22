"""The networks behind the gate: a bundle's own segmenter and classifier, or TorchXRayVision's PSPNet from a file.

Images go through in batches of one fixed size, the last padded with copies, so that what a network says of an image
does not depend on the images beside it. Arithmetic is float32 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from xreal_synth.models.describe import BundleInfo
from xreal_synth.models.load import load_network
from xreal_synth.models.pspnet import Pspnet
from xreal_synth.quality.gate import CHECKS, Classifier, GateNetworks, Segmenter
from xreal_synth.types import GreyImage, Mask, QualitySettings

BATCH: Final = {"cpu": 4, "cuda": 32}
"""Images that a network sees at once, by kind of device: it is fixed, for it may change a score's last digits."""


@dataclass(frozen=True, slots=True, eq=False)
class _Segmenter:
    """`organs` takes images [B, 1, H, W] in [0, 1] to organ codes uint8 [B, H, W]."""

    organs: Callable[[Tensor], Tensor]
    device: torch.device | str

    def label_map(self, images: Sequence[GreyImage]) -> list[Mask]:
        """Images uint8 [H, W] -> organ codes uint8 [H, W] of each."""
        return _batched(images, self.organs, self.device)


@dataclass(frozen=True, slots=True, eq=False)
class _Classifier:
    """`network` takes images [B, 1, H, W] in [0, 1] to a logit for each of its findings."""

    network: Any
    device: torch.device | str

    def logits(self, images: Sequence[GreyImage]) -> list[Mapping[str, float]]:
        """Images uint8 [H, W] -> logits by finding of each."""
        rows, findings = _batched(images, self.network, self.device), self.network.config["findings"]
        return [dict(zip(findings, map(float, row), strict=True)) for row in rows]


def open_networks(settings: QualitySettings, info: BundleInfo, device: torch.device | str = "cpu") -> GateNetworks:
    """The networks that the recipe's checks need, and no others: the bundle's `segmenter/` and `classifier/`, or the
    PSPNet in a check's file. Raises BundleError."""
    needed = {CHECKS[check.name].needs: check for check in settings.checks}
    segmenter: Segmenter | None = None
    if (check := needed.get("segmenter")) is not None:
        organs = _bundle_organs(info, device) if check.file is None else Pspnet(Path(check.file), device).label_map
        segmenter = _Segmenter(organs, device)
    classifier: Classifier | None = None
    if "classifier" in needed or settings.negative_below is not None:
        classifier = _Classifier(load_network(info, "classifier").eval().to(device), device)
    return GateNetworks(segmenter, classifier)


def _bundle_organs(info: BundleInfo, device: torch.device | str) -> Callable[[Tensor], Tensor]:
    network = load_network(info, "segmenter").eval().to(device)
    return lambda images_B1HW: network(images_B1HW).argmax(dim=1).to(torch.uint8)


@torch.inference_mode()
def _batched(
    images: Sequence[GreyImage], run: Callable[[Tensor], Tensor], device: torch.device | str
) -> list[np.ndarray[Any, Any]]:
    found: list[np.ndarray[Any, Any]] = []
    size = BATCH[torch.device(device).type]
    for start in range(0, len(images), size):
        part = list(images[start : start + size])
        padded = np.stack(part + [part[-1]] * (size - len(part)))
        x_B1HW = torch.from_numpy(padded.astype(np.float32) / 255.0)[:, None].to(device)
        found += list(run(x_B1HW).cpu().numpy()[: len(part)])
    return found
