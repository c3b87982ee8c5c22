"""The organ segmenter's config."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from xreal_synth.training.settings.common import STRICT, Count, DataSettings, LoopSettings


@dataclass(frozen=True, slots=True, config=STRICT)
class SegmenterSettings:
    """OrganSegmenter: a U-Net at `inner_size` pixels."""

    inner_size: Count = 128
    channels: tuple[Count, ...] = (24, 48, 96, 128)


@dataclass(frozen=True, slots=True, config=STRICT)
class SegmenterConfig:
    network: Literal["segmenter"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: SegmenterSettings = SegmenterSettings()
