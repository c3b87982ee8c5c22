"""Train one network from a config and a data folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.training.config import TrainConfig, config_tree, load_config
from xreal_synth.training.films import FilmSet, check_findings, load_films
from xreal_synth.training.first_stage import load_autoencoder, load_first_stage
from xreal_synth.training.loop import Result, check_split, run_loop
from xreal_synth.training.session import OnStep, Run
from xreal_synth.training.settings.autoencoder import AutoencoderConfig
from xreal_synth.training.settings.classifier import ClassifierConfig
from xreal_synth.training.settings.controller import ControllerConfig
from xreal_synth.training.settings.controlnet import ControlNetConfig
from xreal_synth.training.settings.denoiser import DenoiserConfig
from xreal_synth.training.settings.kl import KlAutoencoderConfig, KlControllerConfig
from xreal_synth.training.settings.segmenter import SegmenterConfig
from xreal_synth.training.tasks.autoencoder import AutoencoderTask, continued_autoencoder, fitted_autoencoder
from xreal_synth.training.tasks.base import Task
from xreal_synth.training.tasks.classifier import ClassifierTask, build_classifier
from xreal_synth.training.tasks.controller import ControllerTask, build_controller
from xreal_synth.training.tasks.controlnet import ControlNetTask, read_denoiser
from xreal_synth.training.tasks.denoiser import DenoiserTask
from xreal_synth.training.tasks.kl_autoencoder import KlAutoencoderTask, started_kl
from xreal_synth.training.tasks.kl_controller import KlControllerTask
from xreal_synth.training.tasks.segmenter import SegmenterTask, build_segmenter
from xreal_synth.training.world import World


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
    config: TrainConfig, data: str | Path, out: Path, device: torch.device, world: World | None = None
) -> Run:
    """Films and network of a config, ready for the loop; the first process of the world writes refused.json.

    Raises TrainingError for films or trained parts that cannot be used.
    """
    world = world or World()
    check_split(config.loop, world.size)
    out.mkdir(parents=True, exist_ok=True)
    films = load_films(data, config.data, out / "refused.json" if world.first else None)
    if isinstance(config, DenoiserConfig | ControlNetConfig | ClassifierConfig):
        check_findings(films["train"])
    torch.manual_seed(config.seed)
    task = build_task(config, films)
    task.to(device)
    return Run(task, films, config.loop, config_tree(config), config.seed, out, device, world)


def build_task(config: TrainConfig, films: dict[str, FilmSet]) -> Task:
    """The network of a config, freshly initialised from the current random state, or from `model.init`."""
    size, findings = config.data.image_size, config.data.findings
    match config:
        case AutoencoderConfig():
            return AutoencoderTask(config.model, _patch_autoencoder(config, films))
        case KlAutoencoderConfig():
            return KlAutoencoderTask(config.model, started_kl(config.model, size))
        case ControllerConfig():
            patches = load_autoencoder(config.model.autoencoder)
            return ControllerTask(config.model, build_controller(config.model, patches))
        case KlControllerConfig():
            return KlControllerTask(config.model, started_kl(config.model, size))
        case DenoiserConfig():
            first_stage = load_first_stage(config.model.autoencoder)
            return DenoiserTask(config.model, first_stage, size, findings, config.data.region_maps)
        case ControlNetConfig():
            first_stage = load_first_stage(config.model.autoencoder)
            denoiser = read_denoiser(config.model.denoiser)
            return ControlNetTask(config.model, first_stage, denoiser, size, findings)
        case ClassifierConfig():
            return ClassifierTask(config.model, build_classifier(config.model, findings), films["train"])
        case SegmenterConfig():
            return SegmenterTask(config.model, build_segmenter(config.model))


def _patch_autoencoder(config: AutoencoderConfig, films: dict[str, FilmSet]) -> PatchAutoencoder:
    if config.model.init:
        return continued_autoencoder(config.model, load_autoencoder(config.model.init))
    return fitted_autoencoder(config.model, films["train"])
