"""A small network in the place of the leak probe's regression: it may find traces that no figure was written for.

It sees both images of a group around the edited region at full resolution, and which pixels the region has. A fold's
groups are judged by a network trained on the other folds. Shapes: B images, S the crop's side, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from xreal_synth.masks import bounding_box
from xreal_synth.types import GreyImage

CROP: Final = 160
"""Side of what the network sees of an image, in pixels."""
FOLDS: Final = 5
STEPS: Final = 240
"""Of training a fold's network."""
_PAIRS: Final = 8
_RATE: Final = 2e-3
_DETAIL: Final = 8.0
"""What a 3 x 3 mean leaves of an image is made stronger by this."""


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """A group's twin and sham around the region, uint8 [2, S, S], and the region bool [S, S]."""

    images: npt.NDArray[np.uint8]
    region: npt.NDArray[np.bool_]


class TraceNetwork(nn.Module):
    """Images and their region as `seen` gives them [B, 3, S, S] -> logits [B] of having been edited."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 32, 48, 48)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths)):
            size, stride = (5, 2) if number == 0 else (3, 1 if number == 3 else 2)
            layers += [nn.Conv2d(before, after, size, stride, size // 2, bias=False), nn.BatchNorm2d(after)]
            layers.append(nn.ReLU(inplace=True))
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(3 * widths[-1], 1))

    def forward(self, seen_B3SS: Tensor) -> Tensor:
        maps = self.trunk(seen_B3SS)
        inside = functional.adaptive_avg_pool2d(seen_B3SS[:, 2:], maps.shape[2:])
        pooled = [_mean(maps, inside), _mean(maps, 1 - inside), maps.amax(dim=(2, 3))]
        logits: Tensor = self.head(torch.cat(pooled, dim=1))[:, 0]
        return logits


def crops_of(twin: GreyImage, sham: GreyImage, region: npt.NDArray[np.bool_]) -> Crops:
    """What the network sees of both images uint8 [H, W] and the region bool [H, W], which must not be empty."""
    box = bounding_box(region)
    assert box is not None, "an edit has a region"
    at = []
    for low, high, side in ((box[1], box[3], region.shape[0]), (box[0], box[2], region.shape[1])):
        start = min(max((low + high - CROP) // 2, 0), max(side - CROP, 0))
        at.append(slice(start, start + CROP))
    rows, columns = at
    return Crops(np.stack([twin[rows, columns], sham[rows, columns]]), region[rows, columns])


def network_scores(groups: Sequence[Crops], seed: int = 0, steps: int = STEPS) -> npt.NDArray[np.float64]:
    """Logits float64 [2 N] of having been edited, of each group's twin and sham; crops of one size."""
    folds = np.random.default_rng(seed).permutation(len(groups)) % min(FOLDS, len(groups))
    scores = np.zeros((len(groups), 2))
    for fold in range(folds.max() + 1):
        known = [group for group, of in zip(groups, folds, strict=True) if of != fold]
        network = _trained(known, seed * FOLDS + fold, steps)
        for number in np.flatnonzero(folds == fold):
            with torch.inference_mode():
                scores[number] = network(_seen([groups[int(number)]])).double().numpy()
    return scores.reshape(-1)


def _trained(groups: Sequence[Crops], seed: int, steps: int) -> TraceNetwork:
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TraceNetwork()
        adam = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.05)
        rates = torch.optim.lr_scheduler.OneCycleLR(adam, _RATE, total_steps=steps)
        for _ in range(steps):
            chosen = [groups[int(i)] for i in rng.integers(len(groups), size=_PAIRS)]
            seen = _seen(chosen)
            if rng.random() < 0.5:
                seen = seen.flip(3)
            edited = torch.tensor([0.0, 1.0]).repeat(len(chosen))
            loss = functional.binary_cross_entropy_with_logits(network(seen), edited)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            rates.step()
    return network.eval()


def _seen(groups: Sequence[Crops]) -> Tensor:
    """[2 B, 3, S, S]: grey, detail, and region, of each group's twin and sham."""
    grey = torch.from_numpy(np.concatenate([group.images for group in groups]))[:, None].float() / 255
    detail = grey - functional.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
    region = torch.from_numpy(np.stack([group.region for group in groups])).float()
    return torch.cat([grey - 0.5, _DETAIL * detail, region.repeat_interleave(2, dim=0)[:, None]], dim=1)


def _mean(maps_BFss: Tensor, weights_B1ss: Tensor) -> Tensor:
    return (maps_BFss * weights_B1ss).sum(dim=(2, 3)) / weights_B1ss.sum(dim=(2, 3)).clamp_min(1e-6)
