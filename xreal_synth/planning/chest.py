"""The chest that a group's findings are placed on: an organ mask, and the real image that it belongs to, if it does."""

from __future__ import annotations

from dataclasses import dataclass

from xreal_synth.anatomy.measure import cardiothoracic_ratio
from xreal_synth.images.folder import RealImage
from xreal_synth.types import Mask


@dataclass(frozen=True, slots=True, eq=False)
class Chest:
    """`anatomy` uint8 [H, W], of zeros where a real image has no organ mask (`masked` is False); `id` says where
    it came from, `number` is the image's in its folder."""

    anatomy: Mask
    id: str
    masked: bool = True
    image: RealImage | None = None
    number: int = -1

    @property
    def ctr(self) -> float | None:
        """The mask's cardiothoracic ratio."""
        return cardiothoracic_ratio(self.anatomy) if self.masked else None
