"""The organ segmenter's config."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from xreal_synth.training.settings.common import STRICT, Count, DataSettings, LoopSettings


@dataclass(frozen=True, slots=True, config=STRICT)
class SegmenterSettings:
    """OrganSegmenter, a U-Net of `channels`, or PyramidSegmenter, `blocks` and `width`; at `inner_size` pixels."""

    kind: Literal["unet", "pyramid"] = "unet"
    inner_size: Count = 128
    channels: tuple[Count, ...] = (24, 48, 96, 128)
    blocks: Annotated[tuple[Count, ...], Field(min_length=1, max_length=4)] = (1, 1, 1)
    width: Count = 48


@dataclass(frozen=True, slots=True, config=STRICT)
class SegmenterConfig:
    """Every setting of a run: the organ segmenter."""

    network: Literal["segmenter"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: SegmenterSettings = SegmenterSettings()
