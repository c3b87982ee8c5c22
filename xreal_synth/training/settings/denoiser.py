"""The denoiser's config."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from xreal_synth.training.settings.common import STRICT, Count, DataSettings, LoopSettings, Positive, Share


@dataclass(frozen=True, slots=True, config=STRICT)
class DenoiserSettings:
    """UNet2DConditionModel on latents; `autoencoder` is the folder of a fitted first stage.

    Noise levels: the logarithm of the signal-to-noise ratio is drawn from a normal with `log_snr_mean` and
    `log_snr_std`; a share of `uniform_share` is drawn uniformly from all steps. A share of `null_share` of
    the images loses all labels, for guidance. `prediction` is what the network returns; `min_snr_gamma` weighs
    the loss by min(SNR, gamma), for eps over SNR, for v over SNR + 1 (Hang et al. 2023); without it every step
    counts alike. `init` is the folder of a denoiser to go on from. `pooled_labels`
    adds the labels, pooled over their tokens, to the time embedding too, so that every block sees them.

    Where `data.region_maps` names findings, their maps and one for "some finding, place unknown" are further input
    channels. A share of `null_share` of the images then loses maps and labels, a share of `token_drop` of the rest
    its labels alone; inside a finding's region the loss counts `region_weight` times.
    """

    autoencoder: str = ""
    init: str = ""
    pooled_labels: bool = False
    channels: tuple[Count, ...] = (64, 160, 224)
    attention: tuple[bool, ...] = (False, True, True)
    layers: Count = 1
    heads: Count = 4
    token_width: Count = 96
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    min_snr_gamma: Positive | None = None
    null_share: Share = 0.12
    token_drop: Share = 0.0
    region_weight: Positive = 1.0
    log_snr_mean: float = -0.6
    log_snr_std: Positive = 2.0
    uniform_share: Share = 0.15


@dataclass(frozen=True, slots=True, config=STRICT)
class DenoiserConfig:
    """Every setting of a run: the denoiser."""

    network: Literal["denoiser"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: DenoiserSettings = DenoiserSettings()
