"""Segmenters that draw organ masks for images: a bundle's own, or TorchXRayVision's PSPNet.

Shapes: B batch, S image side, K organ codes (background first), H and W image sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from xreal_synth.errors import BundleError, TrainingError
from xreal_synth.findings import ORGANS
from xreal_synth.models.describe import describe, verify_files
from xreal_synth.models.load import WEIGHTS, load_network
from xreal_synth.models.pspnet import PSPNET_FILE, PSPNET_TARGETS, Pspnet
from xreal_synth.storage import sha256_file
from xreal_synth.types import GreyImage, Mask

PSPNET: Final = "pspnet"
CRUMBS: Final = (0.03, 0.001)
"""Pieces apart from an organ's largest are crumbs up to this share of the organ, or of the image."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """An organ mask uint8 [S, S] and the segmenter's certainty of it, 0 to 1."""

    mask: Mask
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Masker:
    """Draws organ masks; `name` says which network with which weights, as the manifest's `mask_source` has it.

    `chances` of images [B, 1, S, S] in 0..1 are [B, K or the targets, S, S], `painted` the mask of an image's.
    """

    name: str
    device: str
    chances: Callable[[Tensor], Tensor]
    painted: Callable[[NDArray[np.float32]], Drawn]

    @torch.inference_mode()
    def draw(self, images: list[GreyImage]) -> list[Drawn]:
        """Images uint8 [S, S] of one size -> label maps uint8 [S, S] with their certainty."""
        x_B1SS = torch.from_numpy(np.stack(images))[:, None].to(self.device).float() / 255
        return [self.painted(each) for each in self.chances(x_B1SS).float().cpu().numpy()]


def open_segmenter(name: str, weights: Path | None = None, device: str = "cpu") -> Masker:
    """TorchXRayVision's PSPNet (`pspnet`), or the `segmenter/` of the bundle of this name or folder.

    PSPNet's weights are a file on this machine, never fetched; raises TrainingError without it. Raises BundleError
    if the bundle has none or its files are not as described.
    """
    if name == PSPNET:
        return _pspnet(weights, device)
    info = describe(name)
    if "segmenter" not in info.parts:
        raise BundleError(where=str(info.root), found="no segmenter/", wanted="a bundle with one, to draw organ masks")
    verify_files(info)
    network = load_network(info, "segmenter").eval().to(device)
    return Masker(
        f"{info.name} segmenter {info.stamp(f'segmenter/{WEIGHTS}').sha256[:12]}",
        device,
        lambda x_B1SS: network(x_B1SS).float().softmax(dim=1),
        lambda chances: drawn(chances, chances.argmax(axis=0).astype(np.uint8)),
    )


def _pspnet(folder: Path | None, device: str) -> Masker:
    import torchxrayvision as xrv

    file = (folder or Path(xrv.utils.get_cache_dir())).expanduser() / PSPNET_FILE
    try:
        network = Pspnet(file, device)
    except BundleError as error:
        hint = f"put {PSPNET_FILE} there, name its folder with --weights, or use --segmenter xreal-mini"
        raise TrainingError(
            found=error.found, wanted=error.wanted, hint=error.hint if file.is_file() else hint
        ) from error
    return Masker(f"torchxrayvision PSPNet {sha256_file(file)[:12]}", device, network.chances, painted_targets)


def painted_targets(chances: NDArray[np.float32]) -> Drawn:
    """The mask of PSPNet's targets [targets, S, S]; later organs cover earlier ones."""
    label_map = np.zeros(chances.shape[1:], np.uint8)
    whole = np.zeros((len(ORGANS) + 1, *label_map.shape), np.float32)
    for chance, code in zip(chances, PSPNET_TARGETS.values(), strict=True):
        label_map[chance > 0.5] = code
        whole[:code] *= 1 - (chance > 0.5)
        whole[code] = chance
    return drawn(whole, label_map)


def drawn(chances_KSS: NDArray[np.float32], label_map: Mask) -> Drawn:
    """The mask without crumbs, and the mean over the organs drawn of 2 sum(p m) / (sum p + sum m)."""
    scores = []
    for code in ORGANS.values():
        here = label_map == code
        if here.any():
            chance = chances_KSS[code]
            scores.append(2 * float(chance[here].sum()) / (float(chance.sum()) + float(here.sum())))
    return Drawn(without_crumbs(label_map), float(np.mean(scores)) if scores else 0.0)


def without_crumbs(label_map: Mask) -> Mask:
    """Loose pieces of an organ that are CRUMBS together take the code of what lies nearest."""
    loose = np.zeros(label_map.shape, bool)
    for code in ORGANS.values():
        labels, pieces = ndimage.label(label_map == code)
        if pieces > 1:
            sizes = np.bincount(labels.ravel())
            sizes[0] = 0
            apart = (labels > 0) & (labels != sizes.argmax())
            if apart.sum() <= max(CRUMBS[0] * sizes.sum(), CRUMBS[1] * label_map.size):
                loose |= apart
    if not loose.any():
        return label_map
    nearest = ndimage.distance_transform_edt(loose, return_distances=False, return_indices=True)
    return np.ascontiguousarray(label_map[tuple(nearest)])
