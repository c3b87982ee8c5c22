"""Measures the texture that real images have over the rough images of their masks, for `sampling.detail`.

Shapes: N images, C latent channels, h and w latent sides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from xreal_synth.models.describe import DETAIL, BundleInfo
from xreal_synth.models.load import load_bundle
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.sampling.controlled import encode_scaled
from xreal_synth.training.images import ImageBatch, load_images
from xreal_synth.training.settings import DataSettings

MOST_IMAGES: Final = 800
LOWEST: Final = 2.0
"""Periods a side below which nothing is added: there lie the exposure, the size and the posture of a patient."""
BATCH: Final = 16


@torch.inference_mode()
def fit_detail(info: BundleInfo, data: str | Path) -> None:
    """Writes DETAIL into a bundle's folder from the training images of a data folder, MOST_IMAGES at most.

    `amplitude` [C, h, w] is the root of the residual's mean power at each spatial frequency, in FFT order, `where`
    [C, h, w] its deviation at each place over that of the whole; no patient's image can be told from either.
    Raises TrainingError for the data, BundleError for a bundle without a controller.
    """
    model, target = load_bundle(info), info.root / DETAIL
    images = load_images(data, DataSettings(image_size=info.image_size))["train"]
    chosen = torch.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES)).long()
    residuals = torch.cat([_residual(model, images.take(part)) for part in torch.split(chosen, BATCH)])
    spectrum = torch.fft.fft2(residuals, norm="ortho")
    periods = torch.fft.fftfreq(residuals.shape[-1]) * residuals.shape[-1]
    amplitude = spectrum.abs().square().mean(dim=0).sqrt()
    amplitude *= (periods[:, None].square() + periods.square()).sqrt() >= LOWEST
    white = torch.fft.ifft2(spectrum * (amplitude > 0) / amplitude.clamp(min=1e-6), norm="ortho").real
    power = functional.avg_pool2d(white.square().mean(dim=0), 3, 1, 1, count_include_pad=False)
    where = (power / power.mean(dim=(1, 2), keepdim=True)).sqrt()
    parts = {"amplitude": amplitude, "where": where}
    save_file({key: part.half().contiguous() for key, part in parts.items()}, target)


def _residual(model: LoadedBundle, batch: ImageBatch) -> Tensor:
    """The latents of real images less those of their rough images [B, C, h, w]."""
    low, high = model.value_range
    real = (low + (high - low) * batch.image).expand(-1, model.channels, -1, -1)
    rough = model.control(batch.label_map.to(torch.uint8))
    return encode_scaled(model, real, None) - encode_scaled(model, rough, None)
