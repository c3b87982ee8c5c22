"""What the judges and the other instruments see of each film, kept as rows: films are read once, in a stream.

Shapes: N films, F features, L findings, K pixels of a thumbnail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from xreal_synth.evaluation.copies import thumbnail
from xreal_synth.evaluation.fidelity import organ_dice
from xreal_synth.evaluation.judging import Judges
from xreal_synth.evaluation.spectrum import ring_powers
from xreal_synth.types import Film, Mask
from xreal_synth.vocab import ORGANS

_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """Rows of N films: features [N, F] and logits [N, L] of the judging classifier, power in rings [N, 8],
    thumbnails [N, K], and Dice of the judging segmenter's organs [N, 4] (NaN where no mask was given)."""

    features: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float64]
    rings: npt.NDArray[np.float64]
    thumbs: npt.NDArray[np.float32]
    dice: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Looks:
        """Some of the films."""
        return Looks(*(getattr(self, part.name)[chosen] for part in fields(self)))


def look(
    judges: Judges,
    films: Iterable[tuple[Film, Mask | None]],
    on_film: Callable[[int], None] = lambda films: None,
    *,
    thumbs: bool = True,
) -> Looks:
    """Looks at each film, with the mask that it was made from or is outlined by; films are of one size.

    Without `thumbs` no thumbnails are kept (K is 0).
    """
    found: list[tuple[npt.NDArray[np.float64], ...]] = []
    for batch in _batches(films):
        found.extend(_look_at(judges, batch, thumbs))
        on_film(len(batch))
    if not found:
        return Looks(*(np.empty((0, 0), kind) for kind in (np.float32, float, float, np.float32, float)))
    parts = [np.stack(part) for part in zip(*found, strict=True)]
    return Looks(parts[0].astype(np.float32), parts[1], parts[2], parts[3].astype(np.float32), parts[4])


@torch.inference_mode()
def _look_at(
    judges: Judges, batch: list[tuple[Film, Mask | None]], thumbs: bool
) -> Iterator[tuple[npt.NDArray[np.float64], ...]]:
    """Features, logits, rings, thumbnail and Dice of each film."""
    x = judges.batch([film for film, _ in batch])
    features = judges.classifier.features(x)
    logits = judges.classifier.logits_of(features).double().cpu().numpy()
    shown = None
    if any(mask is not None for _, mask in batch):
        shown = judges.segmenter.segment(x).cpu().numpy()
    for row, (film, mask) in enumerate(batch):
        dice = [float("nan")] * len(ORGANS)
        if mask is not None and shown is not None:
            dice = list(organ_dice(mask, shown[row]).values())
        yield (
            features[row].double().cpu().numpy(),
            logits[row],
            ring_powers(film),
            thumbnail(film).astype(np.float64) if thumbs else np.empty(0),
            np.asarray(dice),
        )


def _batches(films: Iterable[tuple[Film, Mask | None]]) -> Iterator[list[tuple[Film, Mask | None]]]:
    stream = iter(films)
    while batch := list(islice(stream, _BATCH)):
        yield batch
