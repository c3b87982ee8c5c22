"""Films and organ masks in memory, and warped batches of them.

Shapes: N films of a split, B batch, S stored side, H = W the side asked for, L labels.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xreal_synth.errors import TrainingError
from xreal_synth.models.networks.label_tokens import FINDINGS, NO_FINDING
from xreal_synth.training.manifest import FilmRow, Manifest, Refusal, read_manifest
from xreal_synth.training.settings.common import DataSettings
from xreal_synth.training.warps import plain_view, warped_view

ORGAN_CODES = 5


@dataclass(frozen=True, slots=True)
class FilmBatch:
    """Films [B, 1, H, W] in [0, 1], organ codes [B, H, W] int64, labels [B, L] bool: findings, no finding."""

    film: Tensor
    codes: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> FilmBatch:
        return FilmBatch(self.film.to(device), self.codes.to(device), self.labels.to(device))


@dataclass(frozen=True, slots=True)
class FilmSet:
    """A split in memory: films and codes uint8 [N, S, S], labels bool [N, L]."""

    films: Tensor
    codes: Tensor
    labels: Tensor
    settings: DataSettings

    def __len__(self) -> int:
        return len(self.films)

    def draw(self, index: Tensor, generator: torch.Generator) -> FilmBatch:
        """The named films, each warped at random together with its mask; all draws come from `generator`."""
        film, codes = warped_view(
            self.films[index], self.codes[index], self.settings.image_size, self.settings.warp, generator
        )
        return FilmBatch(film, codes, self.labels[index])

    def take(self, index: Tensor) -> FilmBatch:
        """The named films unwarped, resized to the size asked for."""
        film, codes = plain_view(self.films[index], self.codes[index], self.settings.image_size)
        return FilmBatch(film, codes, self.labels[index])


def load_films(folder: Path, settings: DataSettings, report: Path | None = None) -> dict[str, FilmSet]:
    """Read the train and val splits; faulty films are left out, counted, and written to `report` (JSON)."""
    manifest = read_manifest(folder)
    if settings.limit is not None:
        rows = [
            r for s in ("train", "val") for r in [q for q in manifest.rows if q.split == s][: settings.limit]
        ]
        manifest = Manifest(tuple(rows), manifest.refused)
    kept: dict[str, list[tuple[FilmRow, NDArray[np.uint8], NDArray[np.uint8]]]] = {"train": [], "val": []}
    refused = list(manifest.refused)
    for row in manifest.rows:
        try:
            film, codes = _read_pair(row, settings.image_size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            refused.append(Refusal(row.image.name, str(error)))
            continue
        kept[row.split].append((row, film, codes))
    _report(refused, report)
    _check_refused(refused, sum(map(len, kept.values())), settings.max_refused)
    for split, found in kept.items():
        if not found:
            raise TrainingError(
                found=f"{folder}: no usable film in split {split!r}",
                wanted="at least one",
                mend="see the manifest",
            )
    return {split: _film_set(found, settings) for split, found in kept.items()}


def label_row(labels: frozenset[str]) -> list[bool]:
    """Positive labels -> [L]: the five findings, then no finding."""
    return [name in labels for name in (*FINDINGS, NO_FINDING)]


def _film_set(
    found: list[tuple[FilmRow, NDArray[np.uint8], NDArray[np.uint8]]], settings: DataSettings
) -> FilmSet:
    sides = {film.shape for _, film, _ in found}
    if len(sides) > 1:
        raise TrainingError(
            found=f"films of sizes {sorted(sides)}", wanted="one size for all films", mend="resize them first"
        )
    return FilmSet(
        films=torch.from_numpy(np.stack([film for _, film, _ in found])),
        codes=torch.from_numpy(np.stack([codes for _, _, codes in found])),
        labels=torch.tensor([label_row(row.labels) for row, _, _ in found]),
        settings=settings,
    )


def _read_pair(row: FilmRow, image_size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    film = np.asarray(Image.open(row.image).convert("L"))
    codes = np.asarray(Image.open(row.mask))
    if film.shape[0] != film.shape[1] or film.shape[0] < image_size:
        raise ValueError(f"film is {film.shape}, wanted a square of at least {image_size}")
    if codes.shape != film.shape:
        raise ValueError(f"mask {row.mask.name} is {codes.shape}, film is {film.shape}")
    if codes.max() >= ORGAN_CODES:
        raise ValueError(f"mask {row.mask.name} holds code {codes.max()}, wanted 0 to {ORGAN_CODES - 1}")
    if film.max() - film.min() < 8:
        raise ValueError("film has only one colour")
    return film, codes


def _report(refused: list[Refusal], report: Path | None) -> None:
    if report is not None:
        report.write_text(json.dumps([asdict(r) for r in refused], indent=1), encoding="utf-8")


def _check_refused(refused: list[Refusal], used: int, limit: float) -> None:
    share = len(refused) / max(1, len(refused) + used)
    if share > limit:
        named = "; ".join(f"{r.file}: {r.reason}" for r in refused[:20])
        raise TrainingError(
            found=f"{len(refused)} films refused, {used} used: {named}",
            wanted=f"at most {limit:.0%} refused",
            mend="correct these films or raise data.max_refused",
        )
