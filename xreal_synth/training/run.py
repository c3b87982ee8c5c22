"""Train one network from a config and a data folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from xreal_synth.training import settings
from xreal_synth.training.config import config_tree, load_config
from xreal_synth.training.distill import GuidanceTask
from xreal_synth.training.first_stage import FirstStage, TrainedDenoiser, load_first_stage, patches_of, read_denoiser
from xreal_synth.training.images import TrainingImages, check_findings, load_images
from xreal_synth.training.loop import check_split, run_loop
from xreal_synth.training.pace import OnStep, Result
from xreal_synth.training.session import TrainingRun, WorkerGroup
from xreal_synth.training.settings import TrainConfig
from xreal_synth.training.tasks import autoencoder, controls, denoiser, evaluators
from xreal_synth.training.tasks.base import TrainingTask

NAMED = (
    settings.DenoiserSettings | settings.ControlNetSettings | settings.GuidanceSettings | settings.ClassifierSettings
)
"""Networks that learn every finding by its name."""


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
    if isinstance(config.model, NAMED):
        check_findings(images["train"])
    torch.manual_seed(config.seed)
    task = build_task(config, images["train"])
    task.to(device)
    return TrainingRun(task, images, config.loop, config_tree(config), config.seed, out, device, world)


def build_task(
    config: TrainConfig,
    images: TrainingImages,
    first_stage: Callable[[str], FirstStage] = load_first_stage,
    trained: Callable[[str], TrainedDenoiser] = read_denoiser,
) -> TrainingTask:
    """The network of a config, freshly initialised from the current random state, or from `model.init`.

    `first_stage` and `trained` open the first stage and the denoiser that the config names by their folders.
    """
    data = config.data
    match config.model:
        case settings.AutoencoderSettings(init="") as model:
            return autoencoder.AutoencoderTask(model, autoencoder.fitted_autoencoder(model, images))
        case settings.AutoencoderSettings() as model:
            former = patches_of(load_first_stage(model.init), model.init)
            return autoencoder.AutoencoderTask(model, autoencoder.continued_autoencoder(model, former))
        case settings.KlControllerSettings() as model:
            return autoencoder.KlControllerTask(model, autoencoder.started_kl(model, data.image_size))
        case settings.KlSettings() as model:
            return autoencoder.KlAutoencoderTask(model, autoencoder.started_kl(model, data.image_size))
        case settings.ControllerSettings() as model:
            patches = patches_of(first_stage(model.autoencoder), model.autoencoder)
            return controls.ControllerTask(model, controls.build_controller(model, patches))
        case settings.DenoiserSettings() as model:
            return denoiser.DenoiserTask(model, first_stage(model.autoencoder), data)
        case settings.ControlNetSettings() as model:
            return controls.ControlNetTask(model, first_stage(model.autoencoder), trained(model.denoiser), data)
        case settings.GuidanceSettings() as model:
            return GuidanceTask(model, data)
        case settings.ClassifierSettings() as model:
            return evaluators.ClassifierTask(model, evaluators.build_classifier(model, data.findings), images)
        case settings.SegmenterSettings() as model:
            return evaluators.SegmenterTask(model, evaluators.build_segmenter(model))
    raise AssertionError(f"no task of {type(config.model)}")
