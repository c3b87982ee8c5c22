"""The chest that a group's findings are placed on, and how they are placed on it."""

from __future__ import annotations

from dataclasses import dataclass

from xreal_synth.anatomy.measure import cardiothoracic_ratio
from xreal_synth.anatomy.regions import snap_outward
from xreal_synth.images.folder import RealImage
from xreal_synth.planning.prior import Lung, Prior
from xreal_synth.planning.sites import Site, site_of
from xreal_synth.types import Mask, NormBox, PixelBox


@dataclass(frozen=True, slots=True, eq=False)
class Chest:
    """An organ mask, and the real image that it belongs to, if it does: `anatomy` uint8 [H, W], of zeros where a real
    image has no organ mask (`masked` is False); `id` says where it came from, `number` is the image's in its folder."""

    anatomy: Mask
    id: str
    masked: bool = True
    image: RealImage | None = None
    number: int = -1

    @property
    def ctr(self) -> float | None:
        """The mask's cardiothoracic ratio."""
        return cardiothoracic_ratio(self.anatomy) if self.masked else None


@dataclass(frozen=True, slots=True)
class Ground:
    """A chest, and how findings are placed on it: by the prior, on the latent grid of steps of `factor` pixels, with
    the recipe's `min_overlap`."""

    chest: Chest
    prior: Prior
    factor: int
    min_overlap: float

    @property
    def anatomy(self) -> Mask:
        """The chest's mask, uint8 [H, H]."""
        return self.chest.anatomy

    @property
    def size(self) -> int:
        """The image's side in pixels, as it is sampled."""
        return int(self.anatomy.shape[0])

    def site(self, lung: Lung) -> Site:
        """One of the chest's lungs."""
        return site_of(self.anatomy, lung, self.factor)

    def snapped(self, box: NormBox) -> PixelBox:
        """Shares of the image -> pixels, grown outward to the latent grid."""
        x0, y0, x1, y1 = (share * self.size for share in box)
        return snap_outward((x0, y0, x1, y1), self.factor, self.size)
