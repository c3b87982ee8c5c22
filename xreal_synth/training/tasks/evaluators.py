"""The networks that judge images. Segmenter: image -> organ codes; classifier: image -> which of the findings it shows,
several at once, and where, if it has places.

Shapes: B batch, N images or organ codes (background first), L findings, H and W image sides, m the side of the
classifier's maps, n that of the given regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from xreal_synth.findings import ORGANS
from xreal_synth.models.networks.finding_classifier import FindingClassifier, peaks, pooled_logits
from xreal_synth.models.networks.segmenters import OrganSegmenter, PyramidSegmenter
from xreal_synth.training.images import ImageBatch, TrainingImages, degraded
from xreal_synth.training.losses import soft_dice_loss
from xreal_synth.training.settings import ClassifierSettings, SegmenterSettings
from xreal_synth.training.tasks.base import TrainingTask, image_grid, mask_of


def build_segmenter(settings: SegmenterSettings) -> OrganSegmenter | PyramidSegmenter:
    """A fresh network of the build asked for."""
    network: OrganSegmenter | PyramidSegmenter
    if settings.kind == "pyramid":
        network = PyramidSegmenter(settings.inner_size, settings.blocks, settings.width)
    else:
        network = OrganSegmenter(settings.inner_size, settings.channels)
    return network


class SegmenterTask(TrainingTask):
    """Trains on images also blurred and made noisy, since generated images differ from real ones so."""

    part = "segmenter"
    settings: SegmenterSettings
    network: OrganSegmenter | PyramidSegmenter

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy plus soft Dice; in evaluation also each organ's Dice."""
        image = degraded(batch, generator) if self.network.training else batch.image
        logits = self.network(image).float()
        loss = functional.cross_entropy(logits, batch.label_map) + soft_dice_loss(logits, batch.label_map)
        if self.network.training:
            return {"loss": loss}
        return {"loss": loss, **dice_per_organ(logits.argmax(dim=1), batch.label_map)}

    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Three rows: images, the outlines found drawn on them, and the given masks."""
        found = self.network(batch.image).argmax(dim=1)
        drawn = torch.where(outline(found)[:, None], torch.ones_like(batch.image), batch.image)
        return image_grid([batch.image, drawn, mask_of(batch.label_map)])


def dice_per_organ(found_BHW: Tensor, wanted_BHW: Tensor) -> dict[str, Tensor]:
    """Codes found and wanted [B, H, W] -> each organ's Dice, averaged over the images that have it wanted."""
    scores = {}
    for organ, code in ORGANS.items():
        found, wanted = found_BHW == code, wanted_BHW == code
        size = found.sum(dim=(1, 2)) + wanted.sum(dim=(1, 2))
        dice = 2 * (found & wanted).sum(dim=(1, 2)) / size.clamp_min(1)
        here = wanted.any(dim=2).any(dim=1)
        scores[f"dice_{organ}"] = dice[here].float().mean() if bool(here.any()) else dice.new_ones(())
    return scores


def outline(label_map_BHW: Tensor) -> Tensor:
    """[B, H, W] bool: pixels where the code differs from the one to the right or below."""
    edge = torch.zeros_like(label_map_BHW, dtype=torch.bool)
    edge[:, :-1] |= label_map_BHW.diff(dim=1) != 0
    edge[:, :, :-1] |= label_map_BHW.diff(dim=2) != 0
    return edge


_UNKNOWN = -1


def build_classifier(settings: ClassifierSettings, findings: Sequence[str]) -> FindingClassifier:
    """A fresh network for these findings."""
    shape = {key: getattr(settings, key) for key in ("kind", "inner_size", "blocks", "width", "growth", "dropout")}
    network: FindingClassifier = FindingClassifier(**shape, findings=findings, places=settings.place_weight > 0)
    return network


def positive_weights(labels_NL: Tensor, known_NL: Tensor, largest: float, draws_N: Tensor | None = None) -> Tensor:
    """Known negatives over known positives of each finding [L], within 1 / largest and largest.

    `draws` says how often each image is seen; without it all are seen alike.
    """
    seen = torch.ones(len(labels_NL)) if draws_N is None else draws_N.float()
    positive, negative = (seen @ (kind & known_NL).float() for kind in (labels_NL, ~labels_NL))
    ratio = torch.where(positive > 0, negative / positive, negative)
    return ratio.clamp(1 / largest, largest)


class ClassifierTask(TrainingTask):
    """Trains on images also blurred and made noisy; labels that are not known cost nothing.

    A network with places also learns its maps: from the region where it is known, from zeros where the finding is
    known to be absent, from nothing elsewhere.
    """

    part = "classifier"
    settings: ClassifierSettings
    network: FindingClassifier

    def __init__(self, settings: ClassifierSettings, network: FindingClassifier, images: TrainingImages) -> None:
        super().__init__(settings, network)
        self.findings = len(network.findings)
        labels, known = images.labels[:, : self.findings], images.known[:, : self.findings]
        self.weights = positive_weights(labels, known, settings.max_weight, images.weights)
        mapped = images.settings.region_maps if network.places and images.regions is not None else ()
        self.mapped = [(network.findings.index(name), at) for at, name in enumerate(mapped)]
        if self.mapped and images.regions is not None:
            placed = self._of_findings(images.regions).any(dim=(2, 3))
            self.place_weights = positive_weights(
                placed, placed | (known & ~labels), settings.max_weight, images.weights
            )
        self.seen: list[tuple[Tensor, ...]] = []

    def loss(self, batch: ImageBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean binary cross-entropy of all images and findings, positives weighted; 0 where a label is unknown.

        With places, `place_weight` times `place_loss` is added.
        """
        training = self.network.training
        image = degraded(batch, generator) if training else batch.image
        maps = self.network.maps(image).float() if self.network.places else None
        logits = self.network(image).float() if maps is None else pooled_logits(maps)
        labels, known = batch.labels[:, : self.findings], batch.known[:, : self.findings]
        wanted = labels.float() * (1 - self.settings.smoothing) + self.settings.smoothing / 2
        each = functional.binary_cross_entropy_with_logits(
            logits, wanted, pos_weight=self.weights.to(logits.device), reduction="none"
        )
        losses = {"loss": (each * known).mean()}
        regions = None
        if maps is not None and self.mapped and batch.regions is not None:
            regions = self._of_findings(batch.regions)
            placed = place_loss(maps, regions, known & ~labels, self.place_weights.to(maps.device))
            losses = {
                "loss": losses["loss"] + self.settings.place_weight * placed,
                "image_loss": losses["loss"],
                "place_loss": placed,
            }
        if not training:
            kept = [logits, torch.where(known, labels.long(), _UNKNOWN)]
            if maps is not None and regions is not None:
                kept.append(pointed(maps, regions))
            self.seen.append(tuple(part.detach().cpu() for part in kept))
        return losses

    def take_seen(self) -> list[tuple[Tensor, ...]]:
        """Of the images that `loss` saw in evaluation: logits [N, L], labels [N, L] (-1 unknown), and with places
        whether the map's peak lies inside the region [N, L] (-1 where none is known)."""
        seen, self.seen = self.seen, []
        return seen

    def scores(self, seen: Sequence[list[tuple[Tensor, ...]]]) -> dict[str, float]:
        """Area under the ROC curve of each finding over the images seen, and the mean over findings.

        With places also the pointing game: the share of known regions in which the map has its peak.
        """
        batches = [batch for part in seen for batch in part]
        logits, labels, *games = (torch.cat(parts) for parts in zip(*batches, strict=True))
        found = self._named("auc", areas(logits, labels))
        if games:
            shares = [float(one[one >= 0].float().mean()) for one in games[0].unbind(1)]
            found |= self._named("pointing", shares)
        return found

    def _named(self, figure: str, values: Sequence[float]) -> dict[str, float]:
        """A figure of each finding and their mean; those that are NaN are left out."""
        names = self.network.findings
        known = {f"{figure}_{name}": value for name, value in zip(names, values, strict=True) if not math.isnan(value)}
        return {**known, figure: sum(known.values()) / len(known)} if known else {}

    def _of_findings(self, regions_BRnn: Tensor) -> Tensor:
        """Maps of `data.region_maps` and the last, "place unknown" -> those of the network's findings [B, L, n, n]."""
        found = regions_BRnn.new_zeros(len(regions_BRnn), self.findings, *regions_BRnn.shape[2:])
        for finding, at in self.mapped:
            found[:, finding] = regions_BRnn[:, at]
        return found

    def preview(self, batch: ImageBatch, generator: torch.Generator) -> Tensor:
        """Images above bars, a finding a bar: white its probability, grey below it where its label is positive.

        With places, a row of the largest probability of any finding in each cell stands between them.
        """
        chances = self.network(batch.image).float().sigmoid()
        labels, side = batch.labels[:, : self.findings], batch.image.shape[-1]
        rows = [batch.image, bars(chances, labels, side)]
        if self.network.places:
            largest = self.network.maps(batch.image).float().sigmoid().amax(dim=1, keepdim=True)
            rows.insert(1, functional.interpolate(largest, size=(side, side)))
        return image_grid(rows)


def place_loss(maps_BLmm: Tensor, regions_BLnn: Tensor, absent_BL: Tensor, weights_L: Tensor) -> Tensor:
    """Mean cross-entropy of the maps' cells, each in the region and beyond it by the shares of it that lie there.

    An image whose region is known costs the mean of three: its cells inside, its cells outside, so that both weigh
    the same however few are inside, and the soft maximum of those outside, so that no peak stands elsewhere. It
    weighs `weights` times one where the finding is absent, whose cells are all outside. Others cost nothing.
    """
    inside = functional.interpolate(regions_BLnn.float(), size=maps_BLmm.shape[-2:], mode="area")
    within, beyond = (
        (functional.softplus(sign * maps_BLmm) * share).sum(dim=(2, 3)) / share.sum(dim=(2, 3)).clamp_min(1e-6)
        for sign, share in ((-1, inside), (1, 1 - inside))
    )
    elsewhere = functional.softplus(pooled_logits(maps_BLmm + (1 - inside).clamp_min(1e-6).log()))
    placed = inside.sum(dim=(2, 3)) > 0
    return torch.where(placed, weights_L * (within + beyond + elsewhere) / 3, beyond * absent_BL).mean()


def pointed(maps_BLmm: Tensor, regions_BLnn: Tensor) -> Tensor:
    """The pointing game, int64 [B, L]: 1 where the map's peak is in a cell that the region touches, 0 elsewhere.

    -1 where there is no region. A cell of 64 x 64 is the game's usual tolerance, 15 pixels in 1024.
    """
    regions = regions_BLnn.flatten(2)
    hits = regions.gather(2, peaks(maps_BLmm, regions_BLnn.shape[-1])[..., None])[..., 0] > 0
    return torch.where(regions.any(dim=2), hits.long(), _UNKNOWN)


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
