"""A patch critic, and the two losses between it and a decoder.

Shapes: B batch, H and W image sides, h and w sides of the critic's patch map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

DETAIL_GAIN = 20.0
RAMP_STEPS = 200


class PatchCritic(nn.Module):
    """Images [B, 1, H, W] in [0, 1] -> scores [B, 1, h, w], higher for real; each sees a patch of 46 pixels.

    A stack of strided 4x4 convolutions (pix2pix), spectrally normalised, so that it needs no other norm. Texture
    is a few grey levels of 255, and a spectrally normalised network cannot amplify it: it is given the image's
    detail (the image less its local mean) as a channel of its own, DETAIL_GAIN times as strong.
    """

    def __init__(self, width: int = 32, levels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        layers: list[nn.Module] = []
        for ins, outs in zip([2, *widths[:-1]], widths, strict=True):
            layers += [spectral_norm(nn.Conv2d(ins, outs, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        last = widths[-1]
        layers += [spectral_norm(nn.Conv2d(last, last, 3, padding=1)), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(last, 1, 3, padding=1)]
        self.body = nn.Sequential(*layers)

    def forward(self, image_B1HW: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] -> scores [B, 1, h, w], higher where a patch looks real."""
        detail = image_B1HW - functional.avg_pool2d(
            image_B1HW, 5, stride=1, padding=2, count_include_pad=False
        )
        scores: Tensor = self.body(torch.cat([image_B1HW * 2 - 1, detail * DETAIL_GAIN], dim=1))
        return scores


def critic_loss(critic: PatchCritic, found_B1HW: Tensor, wanted_B1HW: Tensor) -> Tensor:
    """The hinge loss of the critic alone: no gradient reaches the network that made `found`."""
    real, made = critic(wanted_B1HW), critic(found_B1HW.detach())
    return (functional.relu(1 - real).mean() + functional.relu(1 + made).mean()) / 2


def fooling_loss(critic: PatchCritic, found_B1HW: Tensor) -> Tensor:
    """The decoder's side: minus the critic's score; no gradient reaches the critic's weights."""
    critic.requires_grad_(False)
    try:
        score: Tensor = -critic(found_B1HW).mean()
    finally:
        critic.requires_grad_(True)
    return score


def balance(reconstruction: Tensor, fooling: Tensor, last_layer: nn.Parameter) -> Tensor:
    """The factor that makes both losses pull equally hard on the decoder's last layer (VQGAN eq. 7).

    0 where nothing is differentiated, as in validation.
    """
    if not (torch.is_grad_enabled() and fooling.requires_grad):
        return fooling.new_zeros(())
    (by_truth,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (by_critic,) = torch.autograd.grad(fooling, last_layer, retain_graph=True)
    factor: Tensor = (by_truth.norm() / (by_critic.norm() + 1e-6)).clamp(0, 1e4).detach()
    return factor


def adversarial_terms(
    critic: PatchCritic,
    truth: Tensor,
    found_B1HW: Tensor,
    wanted_B1HW: Tensor,
    last_layer: nn.Parameter,
    *,
    late: int,
    weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What critic and decoder add to the loss, and figures of it.

    The critic learns from the start. The decoder hears it from `late` = 0 on (steps after the warm-up), over
    RAMP_STEPS up to `weight` times as strongly as `truth`, the loss without the critic.
    """
    learned = critic_loss(critic, found_B1HW, wanted_B1HW)
    figures = {"critic": learned.detach()}
    if late < 0:
        return learned, figures
    fooling = fooling_loss(critic, found_B1HW)
    factor = min(1.0, (late + 1) / RAMP_STEPS) * weight * balance(truth, fooling, last_layer)
    return learned + factor * fooling, {**figures, "fooling": fooling.detach(), "fooling_weight": factor}
