"""TorchXRayVision's PSPNet (ChestX-Det organs), from a weights file on this machine; never fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from xreal_synth.errors import BundleError
from xreal_synth.findings import AORTA, HEART, LEFT_LUNG, RIGHT_LUNG

PSPNET_FILE: Final = "pspnet_chestxray_best_model_4.pth"
PSPNET_SIDE: Final = 512
PSPNET_TARGETS: Final = {"Left Lung": LEFT_LUNG, "Right Lung": RIGHT_LUNG, "Heart": HEART, "Aorta": AORTA}


class Pspnet:
    """The network at its own size; raises BundleError if the file is missing or not its weights.

    Shapes: B batch, O the targets, S image side. Its targets overlap: heart is painted over lungs, aorta over
    heart, as in the project's masks.
    """

    def __init__(self, file: Path, device: torch.device | str = "cpu") -> None:
        if not file.is_file() or file.name != PSPNET_FILE:
            raise BundleError(
                found=f"no {file}" if not file.is_file() else f"a file named {file.name}",
                wanted=f"the weights of torchxrayvision's PSPNet, {PSPNET_FILE}, on this machine; they are never "
                "fetched",
                hint=f"put {PSPNET_FILE} there, or use a bundle's own segmenter",
            )
        import torchxrayvision as xrv

        try:
            network = xrv.baseline_models.chestx_det.PSPNet(cache_dir=str(file.parent))
        except Exception as error:  # torch and torchxrayvision raise many kinds for a file that is not theirs
            raise BundleError(
                found=f"{file}: {error}", wanted="torchxrayvision's PSPNet weights", hint="fetch the file again"
            ) from error
        self._network: nn.Module = network.eval().to(device)
        self._targets = [network.targets.index(name) for name in PSPNET_TARGETS]

    def chances(self, images_B1SS: Tensor) -> Tensor:
        """Images in [0, 1] -> the chance of each of PSPNET_TARGETS at each pixel [B, O, S, S]."""
        side = images_B1SS.shape[-1]
        larger = functional.interpolate(images_B1SS, size=(PSPNET_SIDE, PSPNET_SIDE), mode="bilinear", antialias=True)
        logits: Tensor = self._network(larger.clamp(0, 1) * 2048 - 1024)[:, self._targets].float()
        return functional.interpolate(logits.sigmoid(), size=(side, side), mode="bilinear")

    def label_map(self, images_B1SS: Tensor) -> Tensor:
        """Images in [0, 1] -> organ codes uint8 [B, S, S]."""
        chances = self.chances(images_B1SS)
        label_map = torch.zeros(chances[:, 0].shape, dtype=torch.uint8, device=chances.device)
        for at, code in enumerate(PSPNET_TARGETS.values()):
            label_map[chances[:, at] > 0.5] = code
        return label_map
