"""One classifier of one finding trained in memory, for comparing training sets: no files, no validation, no choice.

Every batch is balanced: half of it shows the finding, and each of the sets that are trained on together has the
same part of it, however many images it has. Shapes: N images, S their side, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xreal_synth.errors import TrainingError
from xreal_synth.training.draws import generator_for, image_order
from xreal_synth.training.images import TrainingImages
from xreal_synth.training.rates import learning_rate
from xreal_synth.training.session import TrainingRun
from xreal_synth.training.settings.classifier import ClassifierSettings
from xreal_synth.training.settings.common import DataSettings, LoopSettings, WarpSettings
from xreal_synth.training.tasks.classifier import ClassifierTask, build_classifier

Arch = Literal["small", "densenet121"]

WARP: Final = WarpSettings(
    rotate_deg=8, scale=0.12, shift=0.06, elastic=0.015, gamma=0.3, brightness=0.1, contrast=0.25
)


@dataclass(frozen=True, slots=True)
class StudySettings:
    """Training of each classifier of a study; all of them alike.

    `small` is mini-classifier's network (three residual stages); `densenet121` torchvision's DenseNet-121 for one
    grey channel. Both begin with random weights. `size` is the side that images have and the network works at.
    """

    finding: str
    arch: Arch = "small"
    size: int = 80
    steps: int = 600
    batch: int = 16
    lr: float = 1.5e-3
    precision: Literal["fp32", "bf16"] = "bf16"

    def model(self) -> ClassifierSettings:
        """The network's settings; positives are drawn as often as negatives, so neither weighs more."""
        if self.arch == "densenet121":
            return ClassifierSettings(
                kind="densenet", inner_size=self.size, blocks=(6, 12, 24, 16), width=64, growth=32,
                dropout=0.2, smoothing=0.1, max_weight=1.0,
            )  # fmt: skip
        return ClassifierSettings(inner_size=self.size, dropout=0.3, smoothing=0.1, max_weight=1.0)

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
    images_NSS: npt.NDArray[np.uint8], positive_N: npt.NDArray[np.bool_], settings: StudySettings
) -> TrainingImages:
    """uint8 images with the finding or without -> a set to train on; no organ masks."""
    labels = torch.from_numpy(np.stack([positive_N, np.zeros_like(positive_N)], axis=1))
    return TrainingImages(
        images=torch.from_numpy(images_NSS),
        label_map=torch.zeros(images_NSS.shape, dtype=torch.uint8),
        labels=labels,
        known=torch.ones_like(labels),
        settings=DataSettings(image_size=settings.size, warp=WARP, findings=(settings.finding,)),
    )


def scores_after(
    phases: Sequence[Phase],
    test: TrainingImages,
    settings: StudySettings,
    seed: int,
    device: torch.device,
    on_step: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.float64]:
    """A fresh classifier trained in these phases -> its logits [N] on the test images, unwarped.

    The averaged weights at the end of each phase are what the next one begins with, and what is tested. Raises
    TrainingError for a loss that is not finite.
    """
    torch.manual_seed(generator_for(seed, "weights", 0).initial_seed())
    network = build_classifier(settings.model(), (settings.finding,)).to(memory_format=torch.channels_last)
    for number, phase in enumerate(phases):
        _train(network, phase, number, settings, seed, device, on_step)
    return _logits(network, test, settings.batch, device)


def _train(
    network: nn.Module,
    phase: Phase,
    number: int,
    settings: StudySettings,
    seed: int,
    device: torch.device,
    on_step: Callable[[], None],
) -> None:
    images, places = _joined(phase.sets), _places(phase.sets)
    task = ClassifierTask(settings.model(), network, images)  # type: ignore[arg-type]
    task.to(device)
    run = TrainingRun(task, {}, settings.loop(phase.steps), {}, seed, Path(), device)
    network.train()
    for step in range(phase.steps):
        index = balanced_batch(places, settings.batch, seed, f"phase {number}", step)
        draw = generator_for(seed, f"train {number}", step)
        torch.manual_seed(draw.initial_seed())
        with run.autocast():
            loss = task.loss(images.draw(index, draw).to(device), draw)["loss"]
        _step(run, loss, step)
        on_step()
    run.learner.ema.copy_to([p for _, p in run.learner.trained()])


def _step(run: TrainingRun, loss: Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise TrainingError(
            found=f"the loss of step {step} is {float(loss.detach())}",
            wanted="a finite loss",
            hint="lower --lr",
        )
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [p for _, p in run.learner.trained()]
    nn.utils.clip_grad_norm_(trained, run.settings.clip_norm)
    for group in run.learner.optimizer.param_groups:
        group["lr"] = learning_rate(run.settings, step)
    run.learner.optimizer.step()
    run.learner.optimizer.zero_grad(set_to_none=True)
    run.learner.ema.step(trained)


def balanced_batch(places: Sequence[Tensor], batch: int, seed: int, purpose: str, step: int) -> Tensor:
    """Which images a step sees [B]: as many of each of the `places`, each gone through once before any comes again."""
    share, more = divmod(batch, len(places))
    assert not more, (batch, len(places))
    drawn = []
    for number, place in enumerate(places):
        own = generator_for(seed, f"{purpose}/{number}", 0).initial_seed()
        drawn.append(place[image_order(len(place), share, own, step)])
    return torch.cat(drawn)


def _joined(sets: Sequence[TrainingImages]) -> TrainingImages:
    return TrainingImages(
        images=torch.cat([one.images for one in sets]),
        label_map=torch.cat([one.label_map for one in sets]),
        labels=torch.cat([one.labels for one in sets]),
        known=torch.cat([one.known for one in sets]),
        settings=sets[0].settings,
    )


def _places(sets: Sequence[TrainingImages]) -> list[Tensor]:
    """Where in the joined set each set's images with the finding, and without, stand."""
    found, first = [], 0
    for one in sets:
        shown = one.labels[:, 0]
        found += [first + shown.nonzero()[:, 0], first + (~shown).nonzero()[:, 0]]
        first += len(one)
    assert all(len(place) for place in found), "a set to train on has images with the finding and without"
    return found


@torch.inference_mode()
def _logits(
    network: nn.Module, test: TrainingImages, batch: int, device: torch.device
) -> npt.NDArray[np.float64]:
    network.to(device).eval()
    rows = torch.split(torch.arange(len(test)), max(batch, 32))
    found = [network(test.take(index).image.to(device))[:, 0].double().cpu().numpy() for index in rows]
    return np.concatenate(found)
