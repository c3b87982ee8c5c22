"""A picture of real films beside the films made from their masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from xreal_synth.anatomy.regions import region_mask
from xreal_synth.evaluation.anatomy import VARIANT, Pair
from xreal_synth.sampling.jobs import GroupFilms
from xreal_synth.types import Film, Mask

_GAP = 4
_COLOURS = ((0, 0, 0), (70, 130, 220), (60, 180, 120), (220, 80, 70), (230, 180, 50))


def side_by_side(pairs: Sequence[Pair], made: Sequence[GroupFilms], out: Path, *, columns: int = 8) -> None:
    """Blocks of four rows: the real film, its mask, the healthy twin, the variant with its region outlined."""
    blocks = []
    for start in range(0, len(pairs), columns):
        chosen = list(zip(pairs, made, strict=True))[start : start + columns]
        blocks.append(np.concatenate([_column(pair, group) for pair, group in chosen], axis=1))
    width = max(block.shape[1] for block in blocks)
    padded = [np.pad(block, ((0, 3 * _GAP), (0, width - block.shape[1]), (0, 0))) for block in blocks]
    picture = Image.fromarray(np.concatenate(padded))
    ImageDraw.Draw(picture).text(
        (6, 4), "rows: real, mask, made from the mask, with the finding", fill="white"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)


def _column(pair: Pair, group: GroupFilms) -> np.ndarray:
    variant = group.films.get(VARIANT)
    shown = np.zeros((*pair.film.shape, 3), np.uint8) if variant is None else _rgb(variant)
    if pair.finding is not None and variant is not None:
        picture = Image.fromarray(shown)
        draw = ImageDraw.Draw(picture)
        for box in pair.finding.boxes:
            draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=(255, 210, 60))
        draw.text((4, pair.film.shape[0] - 14), pair.finding.name, fill=(255, 210, 60))
        shown = np.asarray(picture)
        assert region_mask(pair.finding, pair.mask).any(), "a placed finding has a region"
    cells = (_rgb(pair.film), _mask_rgb(pair.mask), _rgb(group.films["h"]), shown)
    return np.concatenate([np.pad(cell, ((0, _GAP), (0, _GAP), (0, 0))) for cell in cells])


def _rgb(film: Film) -> np.ndarray:
    return np.repeat(film[:, :, None], 3, axis=2)


def _mask_rgb(mask: Mask) -> np.ndarray:
    return np.asarray(_COLOURS, np.uint8)[mask]
