"""The finding classifier's config."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from xreal_synth.training.settings.common import STRICT, Count, DataSettings, LoopSettings, NotNegative, Share


@dataclass(frozen=True, slots=True, config=STRICT)
class ClassifierSettings:
    """FindingClassifier and its loss.

    A finding's positive images weigh as much as its negative ones, up to `max_weight` times each. Labels are
    softened by `smoothing` (1 becomes 1 - smoothing / 2, 0 becomes smoothing / 2): they are noisy. With a
    `place_weight` over 0 the network has `places`, and learns those of `data.region_maps` with this weight beside
    the image's labels.
    """

    kind: Literal["densenet", "resnet"] = "resnet"
    inner_size: Count = 128
    blocks: Annotated[tuple[Count, ...], Field(min_length=1, max_length=4)] = (1, 1, 1)
    width: Count = 64
    growth: Count = 12
    dropout: Share = 0.2
    smoothing: Share = 0.1
    max_weight: Annotated[float, Field(ge=1)] = 8.0
    place_weight: NotNegative = 0.0


@dataclass(frozen=True, slots=True, config=STRICT)
class ClassifierConfig:
    """Every setting of a run: the finding classifier."""

    network: Literal["classifier"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: ClassifierSettings = ClassifierSettings()

    def __post_init__(self) -> None:
        maps = self.data.region_maps
        if bool(maps) != (self.model.place_weight > 0):
            raise ValueError("data.region_maps and model.place_weight over 0 go together")
        if not set(maps) <= set(self.data.findings):
            raise ValueError("data.region_maps names findings that data.findings does not")
