"""Can images that were edited to no effect be told from images that were not?

A sham is its twin with the first variant's regions painted by the healthy prompt. If a probe tells shams from
twins, so may a classifier, and "was edited" stands for the label wherever images with findings are edited and
healthy ones are not. Two probes are told where to look, and judge groups that they never saw: a logistic regression on
simple figures of noise, texture and border, and a small network on the pixels, which may find traces that no figure was
written for. Shapes: N images, B images of a batch, S the crop's side, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage, special
from torch import Tensor, nn
from torch.nn import functional

from xreal_synth.anatomy.regions import FEATHER_SHARE, region_mask
from xreal_synth.dataset.names import parse_key
from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.findings import area_of
from xreal_synth.evaluation.intervals import Array, Bootstrap, Estimate
from xreal_synth.masks import bounding_box
from xreal_synth.types import GreyImage, Role, Sample

FEWEST_GROUPS: Final = 10
FOLDS: Final = 10
RIDGE: Final = 1.0
"""Of the regression's weights, on features of unit variance."""
_NEWTON_STEPS: Final = 30
_TINY: Final = 1e-9

CROP: Final = 160
"""Side of what the network sees of an image, in pixels."""
NETWORK_FOLDS: Final = 5
STEPS: Final = 240
"""Of training a fold's network."""
_PAIRS: Final = 8
_RATE: Final = 2e-3
_DETAIL: Final = 8.0
"""What a 3 x 3 mean leaves of an image is made stronger by this."""

SCALES: Final = ((0.0, 1.0), (1.0, 2.0), (2.0, 4.0))
"""Bands of texture: differences of Gaussians of these widths in pixels (0: the image itself)."""
PARTS: Final = ("inside", "border", "around")
FEATURES: Final = (
    *(f"texture {low:g}-{high:g} px {part}" for low, high in SCALES for part in PARTS),
    *(f"edges {part}" for part in PARTS),
    *(f"tails of the noise {part}" for part in PARTS),
    *(f"neighbours alike {part}" for part in PARTS),
    "grey step at the border",
)

Region = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LeakFigures:
    """`auc` is of the regression, `network` of the network, over `groups` twins and as many shams; `alone` of each
    feature by itself, turned so that it is at least one half."""

    auc: Estimate
    network: Estimate
    groups: int
    alone: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class EditPair:
    """What the probes see of a group's twin and sham: FEATURES float64 [2, F], what lies around the region uint8
    [2, S, S], and the region bool [S, S]."""

    group: int
    features: Array
    images: npt.NDArray[np.uint8]
    region: Region


def leak(samples: Iterable[Sample], most: int | None = None, seed: int = 0, steps: int = STEPS) -> LeakFigures:
    """Tells shams from twins over the first `most` groups that have both (all, if None), image by image.

    The areas under the ROC curve are of scores given to each group by probes fitted to others (the network for `steps`
    steps), with a bootstrap over groups; the probes are not fitted again for it. Raises DatasetError where fewer than
    FEWEST_GROUPS have both.
    """
    pairs = list(islice(pairs_of(samples), most))
    if len(pairs) < FEWEST_GROUPS:
        raise DatasetError(
            found=f"{len(pairs)} groups with a sham (s0) and its twin (h)",
            wanted=f"at least {FEWEST_GROUPS}",
            hint="make a dataset with pairs: {twin: true, sham: 1.0}, as recipes/counterfactual-pairs.yaml does",
        )
    labels = np.tile([0, 1], len(pairs))
    bootstrap = Bootstrap([str(pair.group) for pair in pairs for _ in range(2)], seed=seed)
    x, one = np.concatenate([pair.features for pair in pairs]), np.ones((1, len(labels)))
    alone = [float(area_of(x[:, i], labels)(one)[0]) for i in range(len(FEATURES))]

    def network(known: list[EditPair], held: list[EditPair], fold: int) -> Array:
        trained = _trained(known, seed * NETWORK_FOLDS + fold, steps)
        with torch.inference_mode():
            return np.stack([trained(_seen([pair])).double().numpy() for pair in held])

    auc, by_network = (
        bootstrap.interval(area_of(_judged(pairs, folds, seed, probe), labels), len(labels))
        for folds, probe in ((FOLDS, _regression), (NETWORK_FOLDS, network))
    )
    more = {name: max(value, 1 - value) for name, value in zip(FEATURES, alone, strict=True)}
    return LeakFigures(auc, by_network, len(pairs), more)


def _judged(
    pairs: list[EditPair], folds: int, seed: int, probe: Callable[[list[EditPair], list[EditPair], int], Array]
) -> Array:
    """Scores [2 N] of each group's twin and sham, by probes fitted to the groups of other folds.

    A probe takes the groups known, those held back and the fold's number, and gives the scores of the latter [B, 2].
    """
    fold_of = np.random.default_rng(seed).permutation(len(pairs)) % min(folds, len(pairs))
    scores = np.zeros((len(pairs), 2))
    for fold in range(fold_of.max() + 1):
        known, held = ([pairs[at] for at in np.flatnonzero(part)] for part in (fold_of != fold, fold_of == fold))
        scores[fold_of == fold] = probe(known, held, fold)
    return scores.reshape(-1)


def pairs_of(samples: Iterable[Sample]) -> Iterator[EditPair]:
    """The groups that have both twin and sham; a group's images follow one another."""
    for group, images in groupby(samples, key=lambda sample: sample.meta.group):
        by_name = {parse_key(image.meta.key).member: image for image in images}
        sham, twin = by_name.get(Role.sham.member()), by_name.get(Role.healthy)
        if sham is not None and twin is not None:
            region = np.any([region_mask(place, sham.anatomy) for place in sham.meta.sham], axis=0)
            both, crop = (twin.image, sham.image), _crop(region)
            seen = np.stack([features(image, region) for image in both])
            yield EditPair(group, seen, np.stack([image[crop] for image in both]), region[crop])


def features(image: GreyImage, region: Region) -> Array:
    """FEATURES of an image uint8 [H, W] and a region of it, float64 [features]."""
    parts = _parts(region)
    grey = image.astype(np.float64) / 255
    blurred = {0.0: grey, **{width: ndimage.gaussian_filter(grey, width) for width in (1.0, 2.0, 4.0)}}
    bands = [blurred[low] - blurred[high] for low, high in SCALES]
    noise = bands[0]
    edges = np.hypot(*np.gradient(blurred[1.0]))
    return np.array([
        *(_log((band[part] ** 2).mean()) for band in bands for part in parts),
        *(_log(edges[part].mean()) for part in parts),
        *(_log((noise[part] ** 4).mean() / ((noise[part] ** 2).mean() ** 2 + _TINY**2)) for part in parts),
        *(_alike(noise, part) for part in parts),
        abs(grey[parts[1]].mean() - grey[parts[2]].mean()),
    ])  # fmt: skip


def _parts(region: Region) -> tuple[Region, Region, Region]:
    """The region without its border, the border as wide as the paste fades, and as wide a ring around it."""
    width = FEATHER_SHARE * region.shape[0]
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    inside = depth > min(width, 0.7 * float(depth.max()))
    around = ~region & (ndimage.distance_transform_edt(~region) <= width)
    if not around.any():
        around = ~region if not region.all() else region
    return inside, region & ~inside, around


def _alike(noise: Array, part: Region) -> float:
    """Correlation of neighbours, down and to the right, whose first pixel lies in the part."""
    power = (noise[part] ** 2).mean() + _TINY
    rows, columns = part[:-1], part[:, :-1]
    down = (noise[:-1] * noise[1:])[rows].mean() if rows.any() else 0.0
    right = (noise[:, :-1] * noise[:, 1:])[columns].mean() if columns.any() else 0.0
    return float((down + right) / (2 * power))


def _log(value: float) -> float:
    return float(np.log(value + _TINY))


def _regression(known: list[EditPair], held: list[EditPair], fold: int) -> Array:
    """Logistic regression with a ridge, by Newton's method, on features of unit variance."""
    x, others = (np.concatenate([pair.features for pair in pairs]) for pairs in (known, held))
    y, mean, scale = np.tile([0.0, 1.0], len(known)), x.mean(axis=0), x.std(axis=0) + _TINY

    def design(rows: Array) -> Array:
        return np.concatenate([np.ones((len(rows), 1)), (rows - mean) / scale], axis=1)

    seen, ridge = design(x), np.diag([_TINY, *np.full(x.shape[1], RIDGE)])
    weights = np.zeros(seen.shape[1])
    for _ in range(_NEWTON_STEPS):
        p = special.expit(seen @ weights)
        slope = seen.T @ (y - p) - ridge @ weights
        step = np.linalg.solve((seen * (p * (1 - p))[:, None]).T @ seen + ridge, slope)
        weights = weights + step
        if float(np.abs(step).max()) < _TINY:
            break
    return np.asarray(design(others) @ weights).reshape(-1, 2)


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


def _crop(region: Region) -> tuple[slice, slice]:
    """What the network sees around a region bool [H, W], which must not be empty."""
    box = bounding_box(region)
    assert box is not None, "an edit has a region"
    at = []
    for low, high, side in ((box[1], box[3], region.shape[0]), (box[0], box[2], region.shape[1])):
        start = min(max((low + high - CROP) // 2, 0), max(side - CROP, 0))
        at.append(slice(start, start + CROP))
    return at[0], at[1]


def _trained(groups: Sequence[EditPair], seed: int, steps: int) -> TraceNetwork:
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


def _seen(groups: Sequence[EditPair]) -> Tensor:
    """[2 B, 3, S, S]: grey, detail, and region, of each group's twin and sham."""
    grey = torch.from_numpy(np.concatenate([group.images for group in groups]))[:, None].float() / 255
    detail = grey - functional.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
    region = torch.from_numpy(np.stack([group.region for group in groups])).float()
    return torch.cat([grey - 0.5, _DETAIL * detail, region.repeat_interleave(2, dim=0)[:, None]], dim=1)


def _mean(maps_BFss: Tensor, weights_B1ss: Tensor) -> Tensor:
    return (maps_BFss * weights_B1ss).sum(dim=(2, 3)) / weights_B1ss.sum(dim=(2, 3)).clamp_min(1e-6)
