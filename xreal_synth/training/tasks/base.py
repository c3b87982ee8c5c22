"""The network as the training loop needs to know it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xreal_synth.models.networks.controls import CODE_SCALE
from xreal_synth.training.images import ImageBatch


class TrainingTask(nn.Module, ABC):
    """One network in training: its module, its loss, a picture of its work, and how its parts are saved.

    `network` is the network itself, `part` its name among a bundle's parts. `module` holds all that is trained;
    parameters without gradient are left alone. `step` is the step at work, set by the loop. As a module it is its
    loss, so that processes can share its gradients, and holds every network, trained or not.
    """

    part: str
    settings: Any
    network: Any
    module: nn.Module
    step: int = 0

    def __init__(self, settings: Any, network: Any = None) -> None:
        super().__init__()
        self.settings = settings
        self.network = self.module = network

    def forward(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The task's `loss`."""
        return self.loss(batch, generator)

    @abstractmethod
    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by name; "loss" is the one to minimise.

        Random numbers are drawn through the batch (`batch.draws.normal`, `uniform`, `integers`), from `generator`
        (on the CPU) and whatever the images are: then an image's numbers do not depend on how a batch is
        split into parts and among workers, and losses that are means over images give the same curve.
        """

    def take_seen(self) -> Any:
        """What `loss` kept of the images it saw in evaluation, given away for `scores`."""
        return None

    def scores(self, seen: Sequence[Any]) -> dict[str, float]:
        """Figures over all the images of a validation; `seen` is what `take_seen` gave in each process."""
        return {}

    @abstractmethod
    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """A picture [H, W] in [0, 1] of what the network can do on a few images, asked for without gradients."""

    def save(self, folder: Path) -> None:
        """Write the network's parts in diffusers' folder layout under `folder`."""
        self.network.save_pretrained(folder / self.part)


def image_grid(rows: list[Tensor]) -> Tensor:
    """Rows of images [B, 1, H, W] -> one picture [rows * H, B * W]."""
    return torch.cat([torch.cat(list(row[:, 0].float().clamp(0, 1)), dim=1) for row in rows], dim=0)


def mask_of(label_map_BHW: Tensor) -> Tensor:
    """Organ codes [B, H, W] -> the controllers' input [B, 1, H, W], codes divided by 4."""
    return label_map_BHW[:, None].float() / CODE_SCALE
