"""Images and organ masks in memory, and warped batches of them.

Shapes: N images of a split, B batch, S stored side, H = W the side asked for, L labels.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from xreal_synth.errors import TrainingError
from xreal_synth.findings import NO_FINDING
from xreal_synth.images.files import ImageFiles, ImagePair, checked_pair
from xreal_synth.images.manifest import BadImage, ImageRow, Refusal, RowFault, fault_counts, read_manifest
from xreal_synth.storage import Store, open_store
from xreal_synth.training.draws import BatchPart, plain_view, warped_view, whole
from xreal_synth.training.region_maps import draw_weights, region_maps
from xreal_synth.training.settings import DataSettings

SPLITS = ("train", "val")
NAMED_IN_ERRORS = 20
_READ_AHEAD = 64


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images [B, 1, H, W] in [0, 1], organ codes [B, H, W] int64, labels and known [B, L] bool.

    L is the findings in the config's order, then no finding. A label that is not known is False in `labels`:
    a denoiser sees it as not named, a classifier must leave it out of its loss. `regions` [B, R + 1, m, m] are the
    region maps of the config's `data.region_maps` in [0, 1] and "some finding, place unknown".

    `part` says which images of the step's batch these are. Losses draw random numbers with the methods below,
    whose first dimension is B, so that an image's numbers do not depend on how its batch is split.
    """

    image: Tensor
    label_map: Tensor
    labels: Tensor
    known: Tensor
    part: BatchPart | None = None
    regions: Tensor | None = None

    def to(self, device: torch.device) -> ImageBatch:
        """The batch on a device, its part of the whole as it was."""
        return ImageBatch(
            image=self.image.to(device),
            label_map=self.label_map.to(device),
            labels=self.labels.to(device),
            known=self.known.to(device),
            part=self.part,
            regions=None if self.regions is None else self.regions.to(device),
        )

    def uniform(self, *shape: int, generator: torch.Generator) -> Tensor:
        """[B, *shape] in [0, 1), on the CPU."""
        return self._part().uniform(*shape, generator=generator)

    def normal(self, *shape: int, generator: torch.Generator) -> Tensor:
        """[B, *shape], standard normal, on the CPU."""
        return self._part().normal(*shape, generator=generator)

    def integers(self, below: int, *shape: int, generator: torch.Generator) -> Tensor:
        """[B, *shape] int64 in 0..below-1, on the CPU."""
        return self._part().integers(below, *shape, generator=generator)

    def _part(self) -> BatchPart:
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

    def draw(self, index: Tensor, generator: torch.Generator, part: BatchPart | None = None) -> ImageBatch:
        """The named images, or a part of them, each warped at random together with its mask.

        All draws come from `generator`.
        """
        part = part or whole(len(index))
        index = index[part.rows]
        size, warp = self.settings.image_size, self.settings.warp
        regions = None if self.regions is None else self.regions[index]
        image, label_map, regions = warped_view(
            self.images[index], self.label_map[index], size, warp, generator, part, regions
        )
        return ImageBatch(image, label_map, self.labels[index], self.known[index], part, regions)

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
    kind = batch.integers(3, 1, 1, 1, generator=generator).to(image_B1HW.device)
    noise = batch.normal(*image_B1HW.shape[1:], generator=generator).to(image_B1HW.device)
    blurred = functional.avg_pool2d(image_B1HW, 5, stride=1, padding=2, count_include_pad=False)
    return torch.where(kind == 0, image_B1HW, torch.where(kind == 1, blurred, image_B1HW + 0.04 * noise))


def load_images(
    data: str | Path, settings: DataSettings, report: Path | None = None
) -> dict[str, TrainingImages]:
    """Read the train and val splits of a data folder (a path or any fsspec URI) into memory.

    Faulty images are left out, counted, and written to `report` (JSON). Raises TrainingError if a split has no
    usable image or more than `settings.max_refused` of the images are faulty.
    """
    store = open_store(str(data))
    manifest = read_manifest(store, splits=SPLITS)
    rows = {split: [row for row in manifest.rows if row.split == split][: settings.limit] for split in SPLITS}
    refused, stacks = list(manifest.refused), {split: _Stack() for split in SPLITS}
    side = 0
    for row, found in _read_pairs(store, [row for split in SPLITS for row in rows[split]]):
        try:
            pair = found.result()
            side = side or len(pair.image)
            _check_size(pair, side, settings.image_size)
            stacks[row.split].add(row, pair, len(rows[row.split]))
        except BadImage as bad:
            refused.append(bad.refusal(row.image))
    used = sum(len(stack.rows) for stack in stacks.values())
    if report is not None:
        report.write_text(json.dumps([asdict(r) for r in refused], indent=1), encoding="utf-8")
    _check_refused(refused, used, settings.max_refused)
    for split, stack in stacks.items():
        if not stack.rows:
            raise TrainingError(
                found=f"{store.uri}: no usable image in split {split!r}",
                wanted="at least one",
                hint="see the manifest",
            )
    return {split: stack.image_set(settings) for split, stack in stacks.items()}


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


def label_rows(row: ImageRow, findings: Sequence[str]) -> tuple[list[bool], list[bool]]:
    """An image's labels and which are known, each [L]: the findings, then no finding."""
    names = (*findings, NO_FINDING)
    return [name in row.labels for name in names], [name not in row.unknown for name in names]


@dataclass(slots=True)
class _Stack:
    """The images of a split, filled one by one."""

    rows: list[ImageRow] = field(default_factory=list)
    images: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    label_map: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))

    def add(self, row: ImageRow, pair: ImagePair, room: int) -> None:
        if not self.rows:
            shape = (room, *pair.image.shape)
            self.images, self.label_map = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
        self.images[len(self.rows)], self.label_map[len(self.rows)] = pair.image, pair.mask
        self.rows.append(row)

    def image_set(self, settings: DataSettings) -> TrainingImages:
        labels, known = zip(*(label_rows(row, settings.findings) for row in self.rows), strict=True)
        count = len(self.rows)
        label_map = self.label_map[:count]
        regions = region_maps(self.rows, label_map, settings.region_maps) if settings.region_maps else None
        return TrainingImages(
            images=torch.from_numpy(self.images[:count]),
            label_map=torch.from_numpy(label_map),
            labels=torch.tensor(labels),
            known=torch.tensor(known),
            settings=settings,
            regions=None if regions is None else torch.from_numpy(regions),
            weights=None
            if settings.draw is None
            else torch.from_numpy(draw_weights(self.rows, settings.draw, regions)),
        )


def _read_pairs(store: Store, rows: Sequence[ImageRow]) -> Iterator[tuple[ImageRow, Future[ImagePair]]]:
    """Every row with its pair, in order; reading and decoding run ahead in threads."""
    files = ImageFiles(store)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        ahead: deque[tuple[ImageRow, Future[ImagePair]]] = deque()
        for row in rows:
            ahead.append((row, pool.submit(_read_pair, files, row)))
            if len(ahead) == _READ_AHEAD:
                yield ahead.popleft()
        yield from ahead
    files.close()


def _read_pair(files: ImageFiles, row: ImageRow) -> ImagePair:
    return checked_pair(*files.pair(row), f"mask {row.mask}")


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
