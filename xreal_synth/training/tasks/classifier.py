"""The classifier: image -> which of the findings it shows, several at once.

Shapes: B batch, N images, L findings, H and W image sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from xreal_synth.models.networks.finding_classifier import FindingClassifier
from xreal_synth.training.images import ImageBatch, TrainingImages, degraded
from xreal_synth.training.settings.classifier import ClassifierSettings
from xreal_synth.training.tasks.base import TrainingTask, image_grid

_UNKNOWN = -1


def build_classifier(settings: ClassifierSettings, findings: Sequence[str]) -> FindingClassifier:
    """A fresh network for these findings."""
    network: FindingClassifier = FindingClassifier(
        kind=settings.kind,
        inner_size=settings.inner_size,
        blocks=settings.blocks,
        width=settings.width,
        growth=settings.growth,
        dropout=settings.dropout,
        findings=findings,
    )
    return network


def positive_weights(labels_NL: Tensor, known_NL: Tensor, largest: float) -> Tensor:
    """Known negatives over known positives of each finding [L], within 1 / largest and largest."""
    positive = (labels_NL & known_NL).sum(dim=0)
    negative = (~labels_NL & known_NL).sum(dim=0)
    return (negative / positive.clamp_min(1)).clamp(1 / largest, largest)


class ClassifierTask(TrainingTask):
    """Trains on images also blurred and made noisy; labels that are not known cost nothing."""

    def __init__(
        self, settings: ClassifierSettings, network: FindingClassifier, images: TrainingImages
    ) -> None:
        self.settings = settings
        self.network = network
        self.module = network
        self.findings = len(network.findings)
        self.weights = positive_weights(
            images.labels[:, : self.findings], images.known[:, : self.findings], settings.max_weight
        )
        self.seen: list[tuple[Tensor, Tensor]] = []

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean binary cross-entropy of all images and findings, positives weighted; 0 where a label is unknown."""
        training = self.network.training
        image = degraded(batch, generator) if training else batch.image
        logits = self.network(image).float()
        labels, known = batch.labels[:, : self.findings], batch.known[:, : self.findings]
        wanted = labels.float() * (1 - self.settings.smoothing) + self.settings.smoothing / 2
        each = functional.binary_cross_entropy_with_logits(
            logits, wanted, pos_weight=self.weights.to(logits.device), reduction="none"
        )
        if not training:
            self.seen.append((logits.cpu(), torch.where(known, labels.long(), _UNKNOWN).cpu()))
        return {"loss": (each * known).mean()}

    def take_seen(self) -> list[tuple[Tensor, Tensor]]:
        """Logits [N, L] and labels [N, L] (-1 unknown) of the images that `loss` saw in evaluation."""
        seen, self.seen = self.seen, []
        return seen

    def scores(self, seen: Sequence[list[tuple[Tensor, Tensor]]]) -> dict[str, float]:
        """Area under the ROC curve of each finding over the images seen, and the mean over findings."""
        batches = [batch for part in seen for batch in part]
        logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        names = self.network.findings
        found = {f"auc_{name}": area for name, area in zip(names, areas(logits, labels), strict=True)}
        known = {name: area for name, area in found.items() if not math.isnan(area)}
        return {**known, "auc": sum(known.values()) / len(known)} if known else {}

    @torch.no_grad()
    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Images above bars, a finding a bar: white its probability, grey below it where its label is positive."""
        chances = self.network(batch.image).float().sigmoid()
        labels = batch.labels[:, : self.findings]
        return image_grid([batch.image, bars(chances, labels, batch.image.shape[-1])])

    def save(self, folder: Path) -> None:
        """`classifier/`."""
        self.network.save_pretrained(folder / "classifier")


def areas(logits_NL: Tensor, labels_NL: Tensor) -> list[float]:
    """Area under the ROC curve per finding; labels 1, 0, or -1 for unknown. NaN without both kinds."""
    from torchmetrics.functional.classification import binary_auroc

    found = []
    for logits, labels in zip(logits_NL.unbind(1), labels_NL.unbind(1), strict=True):
        kept = labels != _UNKNOWN
        both = bool((labels == 1).any()) and bool((labels == 0).any())
        found.append(float(binary_auroc(logits[kept], labels[kept])) if both else float("nan"))
    return found


def bars(chances_BL: Tensor, labels_BL: Tensor, side: int) -> Tensor:
    """[B, 1, side, side]: a row of bars an image, as long as the chance; a grey mark where the label is positive."""
    picture = torch.zeros(len(chances_BL), 1, side, side, device=chances_BL.device)
    height = side // chances_BL.shape[1]
    for image, (chances, labels) in enumerate(zip(chances_BL, labels_BL, strict=True)):
        for row, (chance, positive) in enumerate(zip(chances.tolist(), labels.tolist(), strict=True)):
            top, middle = row * height, row * height + height // 2
            picture[image, 0, top:middle, : round(chance * side)] = 1.0
            picture[image, 0, middle : top + height - 1, :] = 0.5 if positive else 0.0
    return picture
