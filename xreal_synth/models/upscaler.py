"""A bundle's `upscaler/` behind the protocol of sampling/upscale.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xreal_synth.models.describe import UPSCALER, BundleInfo
from xreal_synth.models.layers import Precision
from xreal_synth.models.load import alphas_from, load_network, placed, read_json


class Upscaler:
    """The network in `precision`, float32 in and out. `side` is that of the large images."""

    def __init__(
        self,
        network: nn.Module,
        alphas_cumprod: Tensor,
        side: int,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        self.device = torch.device(device)
        self.side = side
        self.alphas_cumprod = alphas_cumprod.to(torch.float64)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._network = placed(network, self.device, self._dtype)

    @torch.inference_mode()
    def denoise(self, noisy_B1SS: Tensor, small_B1SS: Tensor, t_B: Tensor) -> Tensor:
        """Noisy large image and the small one resized to its side, in -1..1 -> eps [B, 1, S, S]."""
        out: Tensor = self._network(noisy_B1SS.to(self._dtype), small_B1SS.to(self._dtype), t_B)
        return out.float()


def load_upscaler(info: BundleInfo, device: torch.device | str = "cpu", precision: Precision = "fp32") -> Upscaler:
    """The bundle's upscaler, whose hashes `load_bundle` has checked; raises BundleError."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    network = load_network(info, UPSCALER, dtype)
    scheduler = read_json(info, f"{UPSCALER}/scheduler_config.json")
    assert info.upscaled_size is not None, "a bundle with an upscaler tells its size"
    return Upscaler(network, alphas_from(scheduler), info.upscaled_size, device, precision)
