"""Train one network from a config and a data folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from xreal_synth.errors import TrainingError
from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.training.config import TrainConfig, config_tree, load_config
from xreal_synth.training.films import FilmSet, check_findings, load_films
from xreal_synth.training.loop import Result, run_loop
from xreal_synth.training.session import OnStep, Run
from xreal_synth.training.settings.autoencoder import AutoencoderConfig
from xreal_synth.training.settings.classifier import ClassifierConfig
from xreal_synth.training.settings.controller import ControllerConfig
from xreal_synth.training.settings.controlnet import ControlNetConfig
from xreal_synth.training.settings.denoiser import DenoiserConfig
from xreal_synth.training.tasks.autoencoder import AutoencoderTask, continued_autoencoder, fitted_autoencoder
from xreal_synth.training.tasks.base import Task
from xreal_synth.training.tasks.classifier import ClassifierTask, build_classifier
from xreal_synth.training.tasks.controller import ControllerTask, build_controller
from xreal_synth.training.tasks.controlnet import ControlNetTask
from xreal_synth.training.tasks.denoiser import DenoiserTask
from xreal_synth.training.tasks.segmenter import SegmenterTask, build_segmenter


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
    """Train `network` on `data/manifest.csv` into `out`, or go on with what `out` holds.

    `on_step` hears of every step done.
    """
    config = load_config(network, config_path, overrides)
    if threads is not None:
        torch.set_num_threads(threads)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    out.mkdir(parents=True, exist_ok=True)
    films = load_films(data, config.data, out / "refused.json")
    if isinstance(config, DenoiserConfig | ControlNetConfig | ClassifierConfig):
        check_findings(films["train"])
    torch.manual_seed(config.seed)
    task = build_task(config, films)
    task.to(place)
    run = Run(task, films, config.loop, config_tree(config), config.seed, out, place, on_step=on_step)
    return run_loop(run)


def build_task(config: TrainConfig, films: dict[str, FilmSet]) -> Task:
    """The network of a config, freshly initialised from the current random state."""
    size = config.data.image_size
    if isinstance(config, AutoencoderConfig):
        settings = config.model
        if settings.init:
            network = continued_autoencoder(settings, load_autoencoder(settings.init))
        else:
            network = fitted_autoencoder(settings, films["train"])
        return AutoencoderTask(config.model, network)
    if isinstance(config, DenoiserConfig):
        return DenoiserTask(
            config.model, load_autoencoder(config.model.autoencoder), size, config.data.findings
        )
    if isinstance(config, ControlNetConfig):
        return ControlNetTask(
            config.model, load_autoencoder(config.model.autoencoder), size, config.data.findings
        )
    if isinstance(config, ControllerConfig):
        return ControllerTask(
            config.model, build_controller(config.model, load_autoencoder(config.model.autoencoder))
        )
    if isinstance(config, ClassifierConfig):
        classifier = build_classifier(config.model, config.data.findings)
        return ClassifierTask(config.model, classifier, films["train"])
    return SegmenterTask(config.model, build_segmenter(config.model))


def load_autoencoder(folder: str) -> PatchAutoencoder:
    """A trained first stage from its diffusers folder."""
    try:
        network: PatchAutoencoder = PatchAutoencoder.from_pretrained(folder, low_cpu_mem_usage=False)
    except (OSError, ValueError) as error:
        raise TrainingError(
            found=f"model.autoencoder: {folder!r}: {error}",
            wanted="the folder of a trained autoencoder (its vae/)",
            mend="train it first and give its path: --set model.autoencoder=OUT/network/vae",
        ) from error
    return network
