"""Splits by patient: a hash of the patient decides, so that adding images moves nobody."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from xreal_synth.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the patients in train, val and test; they sum to 1."""

    train: float = 0.8
    val: float = 0.2
    test: float = 0.0

    def __str__(self) -> str:
        parts = (self.train, self.val, self.test) if self.test else (self.train, self.val)
        return "/".join(f"{share:g}" for share in parts)


def parse_shares(text: str) -> Shares:
    """`0.8/0.2` or `0.7/0.1/0.2` (train/val/test); raises TrainingError."""
    try:
        train, val, *test = map(float, text.split("/"))
        shares = Shares(train, val, *(test or [0.0]))
    except (ValueError, TypeError):
        shares = Shares(-1, -1, -1)
    parts = (shares.train, shares.val, shares.test)
    if min(parts) < 0 or min(shares.train, shares.val) == 0 or abs(sum(parts) - 1) > 1e-6:
        raise TrainingError(
            found=f"--splits {text}",
            wanted="shares of train and val, or of train, val and test, that sum to 1, or `official`",
            hint="e.g. --splits 0.8/0.2",
        )
    return shares


def split_of(patient: str, shares: Shares) -> str:
    """The split of this patient: the same in every run, whatever other images there are."""
    digest = hashlib.sha256(f"xreal-synth/patient-split/1\x1f{patient}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < shares.train:
        return "train"
    return "val" if place < shares.train + shares.val else "test"
