"""Train one network from a config and a data folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.training.config import config_tree, load_config
from xreal_synth.training.distill import GuidanceTask, read_teacher
from xreal_synth.training.first_stage import load_autoencoder, load_first_stage, read_denoiser
from xreal_synth.training.images import TrainingImages, check_findings, load_images
from xreal_synth.training.loop import Result, check_split, run_loop
from xreal_synth.training.session import OnStep, TrainingRun, WorkerGroup
from xreal_synth.training.settings import (
    AutoencoderSettings,
    ClassifierSettings,
    ControllerSettings,
    ControlNetSettings,
    DenoiserSettings,
    GuidanceSettings,
    KlControllerSettings,
    KlSettings,
    SegmenterSettings,
    TrainConfig,
)
from xreal_synth.training.tasks.autoencoder import (
    AutoencoderTask,
    KlAutoencoderTask,
    KlControllerTask,
    continued_autoencoder,
    fitted_autoencoder,
    started_kl,
)
from xreal_synth.training.tasks.base import TrainingTask
from xreal_synth.training.tasks.controls import ControllerTask, ControlNetTask, build_controller
from xreal_synth.training.tasks.denoiser import DenoiserTask
from xreal_synth.training.tasks.evaluators import (
    ClassifierTask,
    SegmenterTask,
    build_classifier,
    build_segmenter,
)


def train(
    network: str,
    config_path: Path,
    data: str | Path,
    out: Path,
    overrides: Sequence[str] = (),
    device: str | None = None,
    threads: int | None = None,
    on_step: OnStep = lambda pace: None,
) -> Result:
    """Train `network` on `data/manifest.csv` into `out` in this process, or go on with what `out` holds.

    `on_step` hears of every step done.
    """
    config = load_config(network, config_path, overrides)
    if threads is not None:
        torch.set_num_threads(threads)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    run = open_run(config, data, out, place)
    run.on_step = on_step
    return run_loop(run)


def open_run(
    config: TrainConfig, data: str | Path, out: Path, device: torch.device, world: WorkerGroup | None = None
) -> TrainingRun:
    """Images and network of a config, ready for the loop; the first process of the world writes refused.json.

    Raises TrainingError for images or trained parts that cannot be used.
    """
    world = world or WorkerGroup()
    check_split(config.loop, world.size)
    out.mkdir(parents=True, exist_ok=True)
    images = load_images(data, config.data, out / "refused.json" if world.first else None)
    if isinstance(
        config.model, DenoiserSettings | ControlNetSettings | ClassifierSettings | GuidanceSettings
    ):
        check_findings(images["train"])
    torch.manual_seed(config.seed)
    task = build_task(config, images)
    task.to(device)
    return TrainingRun(task, images, config.loop, config_tree(config), config.seed, out, device, world)


def build_task(config: TrainConfig, images: dict[str, TrainingImages]) -> TrainingTask:
    """The network of a config, freshly initialised from the current random state, or from `model.init`."""
    size, findings = config.data.image_size, config.data.findings
    match config.model:
        case AutoencoderSettings() as model:
            return AutoencoderTask(model, _patch_autoencoder(model, images))
        case KlControllerSettings() as model:
            return KlControllerTask(model, started_kl(model, size))
        case KlSettings() as model:
            return KlAutoencoderTask(model, started_kl(model, size))
        case ControllerSettings() as model:
            return ControllerTask(model, build_controller(model, load_autoencoder(model.autoencoder)))
        case DenoiserSettings() as model:
            first_stage = load_first_stage(model.autoencoder)
            return DenoiserTask(model, first_stage, size, findings, config.data.region_maps)
        case ControlNetSettings() as model:
            first_stage = load_first_stage(model.autoencoder)
            return ControlNetTask(model, first_stage, read_denoiser(model.denoiser), size, findings)
        case GuidanceSettings() as model:
            return GuidanceTask(read_teacher(model), config.data)
        case ClassifierSettings() as model:
            return ClassifierTask(model, build_classifier(model, findings), images["train"])
        case SegmenterSettings() as model:
            return SegmenterTask(model, build_segmenter(model))
    raise AssertionError(f"no task of {type(config.model)}")


def _patch_autoencoder(settings: AutoencoderSettings, images: dict[str, TrainingImages]) -> PatchAutoencoder:
    if settings.init:
        return continued_autoencoder(settings, load_autoencoder(settings.init))
    return fitted_autoencoder(settings, images["train"])
