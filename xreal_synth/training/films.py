"""Films and organ masks in memory, and warped batches of them.

Shapes: N films of a split, B batch, S stored side, H = W the side asked for, L labels.
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

from xreal_synth.anatomy.film_files import FilmFiles, FilmPair, checked_pair
from xreal_synth.anatomy.manifest import BadFilm, Fault, FilmRow, Refusal, fault_counts, read_manifest
from xreal_synth.errors import TrainingError
from xreal_synth.storage import Store, open_store
from xreal_synth.training.draws import Part, whole
from xreal_synth.training.region_maps import draw_weights, region_maps
from xreal_synth.training.settings.common import DataSettings
from xreal_synth.training.warps import plain_view, warped_view
from xreal_synth.vocab import NO_FINDING

SPLITS = ("train", "val")
NAMED_IN_ERRORS = 20
_READ_AHEAD = 64


@dataclass(frozen=True, slots=True)
class FilmBatch:
    """Films [B, 1, H, W] in [0, 1], organ codes [B, H, W] int64, labels and known [B, L] bool.

    L is the findings in the config's order, then no finding. A label that is not known is False in `labels`:
    a denoiser sees it as not named, a classifier must leave it out of its loss. `regions` [B, R + 1, m, m] are the
    region maps of the config's `data.region_maps` in [0, 1] and "some finding, place unknown".

    `part` says which films of the step's batch these are. Losses draw random numbers with the methods below,
    whose first dimension is B, so that a film's numbers do not depend on how its batch is split.
    """

    film: Tensor
    codes: Tensor
    labels: Tensor
    known: Tensor
    part: Part | None = None
    regions: Tensor | None = None

    def to(self, device: torch.device) -> FilmBatch:
        return FilmBatch(
            film=self.film.to(device),
            codes=self.codes.to(device),
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

    def _part(self) -> Part:
        return self.part or whole(len(self.film))


@dataclass(frozen=True, slots=True)
class FilmSet:
    """A split in memory: films and codes uint8 [N, S, S], labels and known bool [N, L].

    `regions` uint8 [N, R + 1, m, m] are there where the config names region maps, `weights` [N] where it says how
    often images are drawn.
    """

    films: Tensor
    codes: Tensor
    labels: Tensor
    known: Tensor
    settings: DataSettings
    regions: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.films)

    def draw(self, index: Tensor, generator: torch.Generator, part: Part | None = None) -> FilmBatch:
        """The named films, or a part of them, each warped at random together with its mask.

        All draws come from `generator`.
        """
        part = part or whole(len(index))
        index = index[part.rows]
        size, warp = self.settings.image_size, self.settings.warp
        regions = None if self.regions is None else self.regions[index]
        film, codes, regions = warped_view(
            self.films[index], self.codes[index], size, warp, generator, part, regions
        )
        return FilmBatch(film, codes, self.labels[index], self.known[index], part, regions)

    def take(self, index: Tensor, part: Part | None = None) -> FilmBatch:
        """The named films, or a part of them, unwarped, resized to the size asked for."""
        part = part or whole(len(index))
        index = index[part.rows]
        film, codes = plain_view(self.films[index], self.codes[index], self.settings.image_size)
        regions = None if self.regions is None else self.regions[index].float() / 255
        return FilmBatch(film, codes, self.labels[index], self.known[index], part, regions)


def degraded(batch: FilmBatch, generator: torch.Generator) -> Tensor:
    """A third of the films as they are, a third blurred, a third noisy: made films differ from real ones so."""
    film_B1HW = batch.film
    kind = batch.integers(3, 1, 1, 1, generator=generator).to(film_B1HW.device)
    noise = batch.normal(*film_B1HW.shape[1:], generator=generator).to(film_B1HW.device)
    blurred = functional.avg_pool2d(film_B1HW, 5, stride=1, padding=2, count_include_pad=False)
    return torch.where(kind == 0, film_B1HW, torch.where(kind == 1, blurred, film_B1HW + 0.04 * noise))


def load_films(data: str | Path, settings: DataSettings, report: Path | None = None) -> dict[str, FilmSet]:
    """Read the train and val splits of a data folder (a path or any fsspec URI) into memory.

    Faulty films are left out, counted, and written to `report` (JSON). Raises TrainingError if a split has no
    usable film or more than `settings.max_refused` of the films are faulty.
    """
    store = open_store(str(data))
    manifest = read_manifest(store, splits=SPLITS)
    rows = {split: [row for row in manifest.rows if row.split == split][: settings.limit] for split in SPLITS}
    refused, stacks = list(manifest.refused), {split: _Stack() for split in SPLITS}
    side = 0
    for row, found in _read_pairs(store, [row for split in SPLITS for row in rows[split]]):
        try:
            pair = found.result()
            side = side or len(pair.film)
            _check_size(pair, side, settings.image_size)
            stacks[row.split].add(row, pair, len(rows[row.split]))
        except BadFilm as bad:
            refused.append(bad.refusal(row.image))
    used = sum(len(stack.rows) for stack in stacks.values())
    if report is not None:
        report.write_text(json.dumps([asdict(r) for r in refused], indent=1), encoding="utf-8")
    _check_refused(refused, used, settings.max_refused)
    for split, stack in stacks.items():
        if not stack.rows:
            raise TrainingError(
                found=f"{store.uri}: no usable film in split {split!r}",
                wanted="at least one",
                mend="see the manifest",
            )
    return {split: stack.film_set(settings) for split, stack in stacks.items()}


def check_findings(films: FilmSet) -> None:
    """Raises TrainingError for findings that no film of the split shows: a network cannot learn them."""
    shown = (films.labels & films.known).any(dim=0).tolist()
    findings = films.settings.findings
    absent = [name for name, seen in zip(findings, shown, strict=False) if not seen]
    if absent:
        here = [name for name in findings if name not in absent]
        raise TrainingError(
            found=f"no training film with {', '.join(absent)}",
            wanted="at least one film of every finding in data.findings",
            mend=f"leave them out: --set 'data.findings=[{', '.join(here)}]'" if here else "name others",
        )


def label_rows(row: FilmRow, findings: Sequence[str]) -> tuple[list[bool], list[bool]]:
    """A film's labels and which are known, each [L]: the findings, then no finding."""
    names = (*findings, NO_FINDING)
    return [name in row.labels for name in names], [name not in row.unknown for name in names]


@dataclass(slots=True)
class _Stack:
    """The films of a split, filled one by one."""

    rows: list[FilmRow] = field(default_factory=list)
    films: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    codes: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))

    def add(self, row: FilmRow, pair: FilmPair, room: int) -> None:
        if not self.rows:
            shape = (room, *pair.film.shape)
            self.films, self.codes = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
        self.films[len(self.rows)], self.codes[len(self.rows)] = pair.film, pair.mask
        self.rows.append(row)

    def film_set(self, settings: DataSettings) -> FilmSet:
        labels, known = zip(*(label_rows(row, settings.findings) for row in self.rows), strict=True)
        count = len(self.rows)
        codes = self.codes[:count]
        regions = region_maps(self.rows, codes, settings.region_maps) if settings.region_maps else None
        return FilmSet(
            films=torch.from_numpy(self.films[:count]),
            codes=torch.from_numpy(codes),
            labels=torch.tensor(labels),
            known=torch.tensor(known),
            settings=settings,
            regions=None if regions is None else torch.from_numpy(regions),
            weights=None
            if settings.draw is None
            else torch.from_numpy(draw_weights(self.rows, settings.draw, regions)),
        )


def _read_pairs(store: Store, rows: Sequence[FilmRow]) -> Iterator[tuple[FilmRow, Future[FilmPair]]]:
    """Every row with its pair, in order; reading and decoding run ahead in threads."""
    files = FilmFiles(store)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        ahead: deque[tuple[FilmRow, Future[FilmPair]]] = deque()
        for row in rows:
            ahead.append((row, pool.submit(_read_pair, files, row)))
            if len(ahead) == _READ_AHEAD:
                yield ahead.popleft()
        yield from ahead
    files.close()


def _read_pair(files: FilmFiles, row: FilmRow) -> FilmPair:
    return checked_pair(*files.pair(row), f"mask {row.mask}")


def _check_size(pair: FilmPair, side: int, image_size: int) -> None:
    shape = pair.film.shape
    if shape[0] < image_size:
        raise BadFilm(Fault.SHAPE, f"film is {shape}, wanted a square of at least {image_size}")
    if shape[0] != side:
        raise BadFilm(Fault.SHAPE, f"film is {shape}, the first film is {side} a side")


def _check_refused(refused: list[Refusal], used: int, limit: float) -> None:
    share = len(refused) / max(1, len(refused) + used)
    if share > limit:
        named = "; ".join(f"{r.file}: {r.reason}" for r in refused[:NAMED_IN_ERRORS])
        more = len(refused) - NAMED_IN_ERRORS
        raise TrainingError(
            found=f"{len(refused)} films refused ({fault_counts(refused)}), {used} used: {named}"
            + (f"; and {more} more" if more > 0 else ""),
            wanted=f"at most {limit:.0%} refused",
            mend="correct these films or raise data.max_refused",
        )
