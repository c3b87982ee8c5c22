"""One classifier or detector trained in memory, for comparing training sets: no files, no validation, no choice.

Every batch is balanced: half of it shows findings, each finding in its turn, half none of them; and each of the sets
that are trained on together has the same part of it, however many images it has.

Shapes: N images, S their side, B batch, L findings, m the side of a detector's maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xreal_synth.training.draws import generator_for, image_order
from xreal_synth.training.images import SIDE, TrainingImages, box_map
from xreal_synth.training.loop import check_finite
from xreal_synth.training.session import TrainingRun
from xreal_synth.training.settings import ClassifierSettings, DataSettings, LoopSettings, WarpSettings
from xreal_synth.training.tasks.evaluators import ClassifierTask, build_classifier
from xreal_synth.types import NormBox

Arch = Literal["small", "densenet121"]

WARP: Final = WarpSettings(
    rotate_deg=8, scale=0.12, shift=0.06, elastic=0.015, gamma=0.3, brightness=0.1, contrast=0.25
)


@dataclass(frozen=True, slots=True)
class StudySettings:
    """Training of each network of a study; all of them alike.

    To `localise`, the classifier has places and learns from boxes (a detector; three dense blocks for densenet121).
    `small` is mini-classifier's network (three residual stages); `densenet121` torchvision's DenseNet-121 for one
    grey channel. Both begin with random weights. `size` is the side that images have and the network works at.
    """

    findings: tuple[str, ...]
    localise: bool = False
    arch: Arch = "small"
    size: int = 80
    steps: int = 600
    batch: int = 16
    lr: float = 1.5e-3
    precision: Literal["fp32", "bf16"] = "bf16"

    def model(self) -> ClassifierSettings:
        """The network's settings; positives are drawn as often as negatives, so neither weighs more."""
        common = ClassifierSettings(inner_size=self.size, max_weight=1.0, place_weight=float(self.localise))
        if self.arch == "small":
            return replace(common, dropout=0.3)
        blocks = (6, 12, 24, 16)[: 3 if self.localise else 4]
        return replace(common, kind="densenet", blocks=blocks, width=64, growth=32)

    def loop(self, steps: int) -> LoopSettings:
        """A phase's settings: warm-up in its first tenth, the rate falling to zero over its last six tenths."""
        return LoopSettings(
            steps=steps, batch=self.batch, lr=self.lr, warmup_steps=steps // 10, decay_share=0.6,
            weight_decay=0.1, ema_decay=0.99, precision=self.precision,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Phase:
    """Sets that are trained on together for `steps` steps of the optimiser."""

    sets: tuple[TrainingImages, ...]
    steps: int


def image_set(
    images_NSS: npt.NDArray[np.uint8],
    labels_NL: npt.NDArray[np.int64],
    settings: StudySettings,
    boxes: Sequence[Sequence[Sequence[NormBox]]] = (),
) -> TrainingImages:
    """uint8 images, labels (1, 0, -1 unknown) and each image's boxes of each finding -> a set to train on; no masks."""
    labels = torch.from_numpy(np.pad(labels_NL, ((0, 0), (0, 1))))
    places = settings.findings if settings.localise else ()
    return TrainingImages(
        images=torch.from_numpy(images_NSS),
        label_map=torch.zeros(images_NSS.shape, dtype=torch.uint8),
        labels=labels == 1,
        known=labels >= 0,
        settings=DataSettings(image_size=settings.size, warp=WARP, findings=settings.findings, region_maps=places),
        regions=torch.from_numpy(_regions(boxes, len(places))) if places else None,
    )


def _regions(boxes: Sequence[Sequence[Sequence[NormBox]]], findings: int) -> npt.NDArray[np.uint8]:
    """uint8 [N, L + 1, SIDE, SIDE], 255 in the boxes; the last map is empty."""
    maps = np.zeros((len(boxes), findings + 1, SIDE, SIDE), np.uint8)
    for of_image, found in zip(boxes, maps, strict=True):
        for own, target in zip(of_image, found, strict=False):
            for box in own:
                np.maximum(target, box_map(box), out=target)
    return maps


def scores_after(
    phases: Sequence[Phase],
    test: TrainingImages,
    settings: StudySettings,
    seed: int,
    device: torch.device,
    on_step: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.float64]:
    """A fresh network trained in these phases -> its logits [N, L] on the test images, unwarped; a detector's maps
    of logits [N, L, m, m].

    The averaged weights at the end of each phase are what the next one begins with, and what is tested. Raises
    TrainingError for a loss that is not finite.
    """
    torch.manual_seed(generator_for(seed, "weights", 0).initial_seed())
    network = build_classifier(settings.model(), settings.findings).to(memory_format=torch.channels_last)
    for number, phase in enumerate(phases):
        images, places = _joined(phase.sets), _places(phase.sets)
        task = ClassifierTask(settings.model(), network, images)
        task.to(device)
        run = TrainingRun(task, {}, settings.loop(phase.steps), {}, seed, Path(), device)
        network.train()
        for step in range(phase.steps):
            index = balanced_batch(places, settings.batch, seed, f"phase {number}", step)
            draw = generator_for(seed, f"train {number}", step)
            torch.manual_seed(draw.initial_seed())
            with run.autocast():
                loss = task.loss(images.draw(index, draw, device=device), draw)["loss"]
            check_finite(float(loss.detach()), step, "lower --lr")
            loss.backward()  # type: ignore[no-untyped-call]
            run.descend(step)
            on_step()
        run.learner.ema.copy_to(list(run.learner.trained().values()))
    network.to(device).eval()
    look = network.maps if network.places else network
    rows = torch.split(torch.arange(len(test)), max(settings.batch, 32))
    with torch.inference_mode():
        found = [look(test.take(index).image.to(device)).double().cpu().numpy() for index in rows]
    return np.concatenate(found)


def balanced_batch(places: Sequence[Sequence[Tensor]], batch: int, seed: int, purpose: str, step: int) -> Tensor:
    """Which images a step sees [B]: as many of each of the `places`, whose parts take turns.

    Each part is gone through once before any of it comes again.
    """
    share, more = divmod(batch, len(places))
    assert not more, (batch, len(places))
    drawn = []
    for number, parts in enumerate(places):
        own = [generator_for(seed, f"{purpose}/{number}/{part}", 0).initial_seed() for part in range(len(parts))]
        for slot in range(step * share, (step + 1) * share):
            turn, part = divmod(slot, len(parts))
            drawn.append(parts[part][image_order(len(parts[part]), 1, own[part], turn)])
    return torch.cat(drawn)


def _joined(sets: Sequence[TrainingImages]) -> TrainingImages:
    regions = [one.regions for one in sets if one.regions is not None]
    joined: dict[str, Any] = {
        part: torch.cat([getattr(one, part) for one in sets]) for part in ("images", "label_map", "labels", "known")
    }
    return replace(sets[0], **joined, regions=torch.cat(regions) if regions else None)


def _places(sets: Sequence[TrainingImages]) -> list[list[Tensor]]:
    """Where in the joined set each set's images with each finding, and with none, stand."""
    found, first = list[list[Tensor]](), 0
    for one in sets:
        labels, known = one.labels[:, :-1], one.known[:, :-1]
        found.append([first + shown.nonzero()[:, 0] for shown in labels.unbind(1)])
        found.append([first + (~labels.any(dim=1) & known.any(dim=1)).nonzero()[:, 0]])
        first += len(one)
    assert all(len(part) for parts in found for part in parts), "a set has images with each finding and with none"
    return found
