"""The Anatomy Controller's config."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from xreal_synth.training.settings.common import STRICT, Count, DataSettings, LoopSettings, NotNegative


@dataclass(frozen=True, slots=True, config=STRICT)
class ControllerSettings:
    """MaskController and its losses; `autoencoder` is the folder of a trained first stage."""

    kind: Literal["patch"] = "patch"
    autoencoder: str = ""
    width: Count = 64
    blocks: Count = 2
    pixel_weight: NotNegative = 4.0


@dataclass(frozen=True, slots=True, config=STRICT)
class ControllerConfig:
    """Every setting of a run: the Anatomy Controller of a patch autoencoder."""

    network: Literal["anatomy-controller"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: ControllerSettings = ControllerSettings()
