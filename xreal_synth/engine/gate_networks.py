"""The networks behind the gate: a bundle's own segmenter and classifier, or TorchXRayVision's PSPNet from a file.

Images go through in batches of one fixed size, the last padded with copies, so that what a network says of an image
does not depend on the images beside it. Arithmetic is float32 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


class BundleSegmenter:
    """The bundle's `segmenter/`."""

    def __init__(self, info: BundleInfo, device: torch.device | str) -> None:
        self._network = load_network(info, "segmenter").eval().to(device)
        self._device = device

    def label_map(self, images: Sequence[GreyImage]) -> list[Mask]:
        """Images uint8 [H, W] -> organ codes uint8 [H, W] of each."""
        return [np.asarray(one) for one in _batched(images, self._label_map, self._device)]

    def _label_map(self, images_B1HW: Tensor) -> Tensor:
        label_map: Tensor = self._network(images_B1HW).argmax(dim=1).to(torch.uint8)
        return label_map


class PspnetSegmenter:
    """TorchXRayVision's PSPNet; heart over lungs, aorta over heart. Raises BundleError for a file that is not it."""

    def __init__(self, file: Path, device: torch.device | str) -> None:
        self._network = Pspnet(file, device)
        self._device = device

    def label_map(self, images: Sequence[GreyImage]) -> list[Mask]:
        """Images uint8 [H, W] -> organ codes uint8 [H, W] of each."""
        return [np.asarray(one) for one in _batched(images, self._network.label_map, self._device)]


class BundleClassifier:
    """The bundle's `classifier/`."""

    def __init__(self, info: BundleInfo, device: torch.device | str) -> None:
        network: Any = load_network(info, "classifier").eval().to(device)
        self._network = network
        self._findings = tuple(network.config["findings"])
        self._device = device

    def logits(self, images: Sequence[GreyImage]) -> list[Mapping[str, float]]:
        """Images uint8 [H, W] -> logits by finding of each."""
        rows = _batched(images, self._network, self._device)
        return [dict(zip(self._findings, map(float, row), strict=True)) for row in rows]


def open_networks(settings: QualitySettings, info: BundleInfo, device: torch.device | str = "cpu") -> GateNetworks:
    """The networks that the recipe's checks need, and no others; raises BundleError."""
    needed = {CHECKS[check.name].needs: check for check in settings.checks}
    segmenter: Segmenter | None = None
    if (check := needed.get("segmenter")) is not None:
        segmenter = BundleSegmenter(info, device) if check.file is None else PspnetSegmenter(Path(check.file), device)
    classifier: Classifier | None = None
    if "classifier" in needed or settings.negative_below is not None:
        classifier = BundleClassifier(info, device)
    return GateNetworks(segmenter, classifier)


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
