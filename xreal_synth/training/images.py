"""Images, organ masks and region maps in memory, how often images are drawn, and warped batches of them.

A denoiser learns the place of a finding from region maps of real images. Shapes: N images of a split, B batch, S stored
side, H = W the side asked for, L labels, R findings with a map, m = SIDE the maps' side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from xreal_synth.errors import TrainingError
from xreal_synth.findings import FINDINGS, NO_FINDING, REGIONS
from xreal_synth.images.files import ImageFiles, ImagePair, checked_pair
from xreal_synth.images.manifest import BadImage, ImageRow, Refusal, RowFault, fault_counts, read_manifest
from xreal_synth.storage import open_store
from xreal_synth.store import in_order, readers
from xreal_synth.training.draws import BatchPart, plain_view, warped_view, whole
from xreal_synth.training.settings import DataSettings, DrawSettings
from xreal_synth.types import Mask, NormBox

SIDE = 64
PLACELESS = frozenset({NO_FINDING, "Lung Opacity", "Support Devices"})
"""Labels that name nothing with a place of its own; "Lung Opacity" comes with the finding that it is the opacity of."""

Maps = npt.NDArray[np.uint8]


def region_maps(rows: Sequence[ImageRow], label_maps_NSS: Mask, findings: Sequence[str]) -> Maps:
    """uint8 [N, R + 1, m, m], 255 where a finding is; the last map is 255 where one is whose place is unknown.

    A finding that takes in a whole organ has that organ's region; any other its boxes.
    """
    maps = np.zeros((len(rows), len(findings) + 1, SIDE, SIDE), np.uint8)
    for row, label_map, found in zip(rows, label_maps_NSS, maps, strict=True):
        for name in set(row.labels) - PLACELESS | {box.name for box in row.boxes}:
            region = _region(row, label_map, name) if name in findings else None
            if region is None:
                found[-1] = 255
            else:
                found[findings.index(name)] = region
    return maps


def draw_weights(rows: Sequence[ImageRow], draw: DrawSettings, maps: Maps | None) -> npt.NDArray[np.float64]:
    """float64 [N]: how often each image is drawn, of mean 1."""
    boxed = np.zeros(len(rows), bool) if maps is None else maps[:, :-1].any(axis=(1, 2, 3))
    weights = np.array([max([1.0, *(draw.findings.get(name, 1.0) for name in row.labels)]) for row in rows])
    weights *= np.where(boxed, draw.boxed, 1.0)
    if draw.balance_view:
        shown = np.array([bool(set(row.labels) - PLACELESS) for row in rows])
        views = np.array([row.view for row in rows])
        for positive in (False, True):
            present = [view for view in ("PA", "AP") if ((shown == positive) & (views == view)).any()]
            total = weights[(shown == positive) & np.isin(views, present)].sum()
            for view in present:
                kind = (shown == positive) & (views == view)
                weights[kind] *= total / len(present) / weights[kind].sum()
    return np.asarray(weights / weights.mean())


def _region(row: ImageRow, label_map: Mask, name: str) -> Maps | None:
    """uint8 [m, m], or None where neither the finding's shape nor a box says where it is."""
    rule = REGIONS[FINDINGS[name].region]
    if rule.mask is not None and rule.side is not None:
        whole = Image.fromarray(rule.mask(label_map, rule.side, None).astype(np.uint8) * 255)
        return np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BOX))
    boxes = [box.box for box in row.boxes if box.name == name]
    return np.maximum.reduce([box_map(box) for box in boxes]) if boxes else None


def box_map(box: NormBox) -> Maps:
    """uint8 [m, m]: 255 times the share of each cell that lies in a normalised xyxy box."""
    x0, y0, x1, y1 = (value * SIDE for value in box)
    cells = np.arange(SIDE)
    across = (np.minimum(cells + 1, x1) - np.maximum(cells, x0)).clip(0, 1)
    down = (np.minimum(cells + 1, y1) - np.maximum(cells, y0)).clip(0, 1)
    return np.asarray((255 * down[:, None] * across[None, :]).round().astype(np.uint8))


Device = torch.device | str
SPLITS = ("train", "val")
NAMED_IN_ERRORS = 20


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images [B, 1, H, W] in [0, 1], organ codes [B, H, W] int64, labels and known [B, L] bool.

    L is the findings in the config's order, then no finding. A label that is not known is False in `labels`:
    a denoiser sees it as not named, a classifier must leave it out of its loss. `regions` [B, R + 1, m, m] are the
    region maps of the config's `data.region_maps` in [0, 1] and "some finding, place unknown".

    `part` says which images of the step's batch these are.
    """

    image: Tensor
    label_map: Tensor
    labels: Tensor
    known: Tensor
    part: BatchPart | None = None
    regions: Tensor | None = None

    def to(self, device: torch.device) -> ImageBatch:
        """The batch on a device, its part of the whole as it was."""
        parts = ((one.name, getattr(self, one.name)) for one in fields(self))
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in parts}
        return ImageBatch(**moved)

    def maps(self, h: int, w: int) -> Tensor | None:
        """`regions` on a grid of latents [B, R + 1, h, w]: the share of each cell that lies in a region."""
        return None if self.regions is None else functional.adaptive_avg_pool2d(self.regions, (h, w))

    @property
    def draws(self) -> BatchPart:
        """Draws random numbers on the CPU, B in all, of which an image's do not depend on how its batch is split."""
        return self.part or whole(len(self.image))


@dataclass(frozen=True, slots=True)
class TrainingImages:
    """A split in memory: images and codes uint8 [N, S, S], labels and known bool [N, L].

    `regions` uint8 [N, R + 1, m, m] are there where the config names region maps, `weights` [N] where it says how
    often images are drawn.
    """

    images: Tensor
    label_map: Tensor
    labels: Tensor
    known: Tensor
    settings: DataSettings
    regions: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def draw(
        self, index: Tensor, generator: torch.Generator, part: BatchPart | None = None, device: Device = "cpu"
    ) -> ImageBatch:
        """The named images, or a part of them, each warped at random together with its mask, on `device`.

        All draws come from `generator`, on the CPU.
        """
        part = part or whole(len(index))
        index = index[part.rows]
        size, warp = self.settings.image_size, self.settings.warp
        regions = None if self.regions is None else self.regions[index].to(device)
        images, label_map = self.images[index].to(device), self.label_map[index].to(device)
        image, label_map, regions = warped_view(images, label_map, size, warp, generator, part, regions)
        labels, known = self.labels[index].to(device), self.known[index].to(device)
        return ImageBatch(image, label_map, labels, known, part, regions)

    def take(self, index: Tensor, part: BatchPart | None = None) -> ImageBatch:
        """The named images, or a part of them, unwarped, resized to the size asked for."""
        part = part or whole(len(index))
        index = index[part.rows]
        image, label_map = plain_view(self.images[index], self.label_map[index], self.settings.image_size)
        regions = None if self.regions is None else self.regions[index].float() / 255
        return ImageBatch(image, label_map, self.labels[index], self.known[index], part, regions)


def degraded(batch: ImageBatch, generator: torch.Generator) -> Tensor:
    """A third of the images as they are, a third blurred, a third noisy: generated images differ from real ones so."""
    image_B1HW = batch.image
    kind = batch.draws.integers(3, 1, 1, 1, generator=generator).to(image_B1HW.device)
    noise = batch.draws.normal(*image_B1HW.shape[1:], generator=generator).to(image_B1HW.device)
    blurred = functional.avg_pool2d(image_B1HW, 5, stride=1, padding=2, count_include_pad=False)
    return torch.where(kind == 0, image_B1HW, torch.where(kind == 1, blurred, image_B1HW + 0.04 * noise))


def load_images(data: str | Path, settings: DataSettings, report: Path | None = None) -> dict[str, TrainingImages]:
    """Read the train and val splits of a data folder (a path or any fsspec URI) into memory.

    Faulty images are left out, counted, and written to `report` (JSON). Raises TrainingError if a split has no
    usable image or more than `settings.max_refused` of the images are faulty.
    """
    store = open_store(str(data))
    manifest = read_manifest(store, splits=SPLITS)
    taken = list(manifest.rows)
    if settings.healthy_only:
        taken = [row for row in taken if not row.unknown and {*row.labels} <= {NO_FINDING}]
    rows = {split: [row for row in taken if row.split == split][: settings.limit] for split in SPLITS}
    refused, used = list(manifest.refused), {split: list[ImageRow]() for split in SPLITS}
    pixels = dict[str, NDArray[np.uint8]]()
    files, side = ImageFiles(store), 0
    for row, pair in in_order(partial(_read_pair, files), chain(*rows.values()), readers(store, decoding=True)):
        try:
            if isinstance(pair, BadImage):
                raise pair
            side = side or len(pair.image)
            _check_size(pair, side, settings.image_size)
        except BadImage as bad:
            refused.append(bad.refusal(row.image))
            continue
        pixels = pixels or {split: np.empty((2, len(own), side, side), np.uint8) for split, own in rows.items()}
        pixels[row.split][:, len(used[row.split])] = pair.image, pair.mask
        used[row.split].append(row)
    files.close()
    if report is not None:
        report.write_text(json.dumps([asdict(r) for r in refused], indent=1), encoding="utf-8")
    _check_refused(refused, sum(map(len, used.values())), settings.max_refused)
    for split, own in used.items():
        if not own:
            raise TrainingError(
                found=f"{store.uri}: no usable image in split {split!r}",
                wanted="at least one without a finding" if settings.healthy_only else "at least one",
                hint="set data.healthy_only: false" if settings.healthy_only else "see the manifest",
            )
    return {split: _image_set(own, pixels[split][:, : len(own)], settings) for split, own in used.items()}


def _image_set(rows: Sequence[ImageRow], pixels_2NSS: NDArray[np.uint8], settings: DataSettings) -> TrainingImages:
    """The split of these rows; `pixels` are their images and their label maps."""
    names, (images, label_map) = (*settings.findings, NO_FINDING), pixels_2NSS
    regions = region_maps(rows, label_map, settings.region_maps) if settings.region_maps else None
    return TrainingImages(
        images=torch.from_numpy(images),
        label_map=torch.from_numpy(label_map),
        labels=torch.tensor([[name in row.labels for name in names] for row in rows]),
        known=torch.tensor([[name not in row.unknown for name in names] for row in rows]),
        settings=settings,
        regions=None if regions is None else torch.from_numpy(regions),
        weights=torch.from_numpy(draw_weights(rows, settings.draw, regions)) if settings.draw else None,
    )


def check_findings(images: TrainingImages) -> None:
    """Raises TrainingError for findings that no image of the split shows: a network cannot learn them."""
    shown = (images.labels & images.known).any(dim=0).tolist()
    findings = images.settings.findings
    absent = [name for name, seen in zip(findings, shown, strict=False) if not seen]
    if absent:
        here = [name for name in findings if name not in absent]
        raise TrainingError(
            found=f"no training image with {', '.join(absent)}",
            wanted="at least one image of every finding in data.findings",
            hint=f"leave them out: --set 'data.findings=[{', '.join(here)}]'" if here else "name others",
        )


def _read_pair(files: ImageFiles, row: ImageRow) -> tuple[ImageRow, ImagePair | BadImage]:
    """The row with its pair, or with why there is none."""
    try:
        return row, checked_pair(*files.pair(row), f"mask {row.mask}")
    except BadImage as bad:
        return row, bad


def _check_size(pair: ImagePair, side: int, image_size: int) -> None:
    shape = pair.image.shape
    if shape[0] < image_size:
        raise BadImage(RowFault.SHAPE, f"image is {shape}, wanted a square of at least {image_size}")
    if shape[0] != side:
        raise BadImage(RowFault.SHAPE, f"image is {shape}, the first image is {side} a side")


def _check_refused(refused: list[Refusal], used: int, limit: float) -> None:
    share = len(refused) / max(1, len(refused) + used)
    if share > limit:
        named = "; ".join(f"{r.file}: {r.reason}" for r in refused[:NAMED_IN_ERRORS])
        more = len(refused) - NAMED_IN_ERRORS
        raise TrainingError(
            found=f"{len(refused)} images refused ({fault_counts(refused)}), {used} used: {named}"
            + (f"; and {more} more" if more > 0 else ""),
            wanted=f"at most {limit:.0%} refused",
            hint="correct these images or raise data.max_refused",
        )
