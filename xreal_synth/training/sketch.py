"""A config's task without weights and without data: what a dry run counts.

Networks that a config names by folder are built from the folder's config.json. Where none is named, the config
of the same family is assumed: `paper-autoencoder.yaml` beside `paper-denoiser.yaml`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from xreal_synth.errors import TrainingError
from xreal_synth.models.networks.label_tokens import LabelTokens
from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.opening import parse_json
from xreal_synth.training.config import TrainConfig, load_config
from xreal_synth.training.films import FilmBatch, FilmSet
from xreal_synth.training.first_stage import FirstStage, KlFirstStage, frozen
from xreal_synth.training.settings.autoencoder import AutoencoderConfig
from xreal_synth.training.settings.classifier import ClassifierConfig
from xreal_synth.training.settings.common import DataSettings
from xreal_synth.training.settings.controller import ControllerConfig
from xreal_synth.training.settings.controlnet import ControlNetConfig
from xreal_synth.training.settings.denoiser import DenoiserConfig
from xreal_synth.training.settings.kl import KlAutoencoderConfig, KlControllerConfig
from xreal_synth.training.settings.segmenter import SegmenterConfig
from xreal_synth.training.tasks.autoencoder import AutoencoderTask, fresh_autoencoder
from xreal_synth.training.tasks.base import Task
from xreal_synth.training.tasks.classifier import ClassifierTask, build_classifier
from xreal_synth.training.tasks.controller import ControllerTask, build_controller
from xreal_synth.training.tasks.controlnet import ControlNetTask, TrainedDenoiser
from xreal_synth.training.tasks.denoiser import DenoiserTask, build_unet, paper_schedule
from xreal_synth.training.tasks.kl_autoencoder import KlAutoencoderTask, build_kl
from xreal_synth.training.tasks.kl_controller import KlControllerTask
from xreal_synth.training.tasks.segmenter import SegmenterTask, build_segmenter


def sketch_task(config: TrainConfig, path: Path) -> Task:
    """The task of the config read from `path`; call it under FakeTensorMode, where tensors hold no numbers.

    Folders of weights to start from (`model.init`) and of helpers in losses (`model.perceptual`, an autoencoder's
    `model.denoiser`) are left out.
    """
    size, findings = config.data.image_size, config.data.findings
    match config:
        case AutoencoderConfig():
            settings = replace(config.model, perceptual="", denoiser="")
            return AutoencoderTask(settings, fresh_autoencoder(settings))
        case KlAutoencoderConfig():
            return KlAutoencoderTask(replace(config.model, perceptual=""), build_kl(config.model, size))
        case ControllerConfig():
            stage = sketch_first_stage(config.model.autoencoder, path, config.network)
            if not isinstance(stage, PatchAutoencoder):
                raise TrainingError(
                    where=str(path),
                    found="an AutoencoderKL as first stage",
                    wanted="a patch autoencoder",
                    mend="set model.kind to kl",
                )
            return ControllerTask(config.model, build_controller(config.model, stage))
        case KlControllerConfig():
            return KlControllerTask(replace(config.model, perceptual=""), build_kl(config.model, size))
        case DenoiserConfig():
            stage = sketch_first_stage(config.model.autoencoder, path, config.network)
            return DenoiserTask(replace(config.model, init=""), stage, size, findings)
        case ControlNetConfig():
            stage = sketch_first_stage(config.model.autoencoder, path, config.network)
            denoiser = sketch_denoiser(config, path, stage)
            return ControlNetTask(config.model, stage, denoiser, size, findings)
        case ClassifierConfig():
            network = build_classifier(config.model, findings)
            return ClassifierTask(config.model, network, _films(config.data))
        case SegmenterConfig():
            return SegmenterTask(config.model, build_segmenter(config.model))


def sketch_denoiser(config: ControlNetConfig, path: Path, stage: FirstStage) -> TrainedDenoiser:
    """An untrained denoiser as the folder's config.json says, or as the config's own family has it."""
    findings = config.data.findings
    if config.model.denoiser:
        root = Path(config.model.denoiser)
        unet: Any = UNet2DConditionModel.from_config(read_shape(root / "unet", "model.denoiser"))
        width = int(unet.config.cross_attention_dim)
    else:
        family = load_config("denoiser", beside(path, config.network, "denoiser"))
        assert isinstance(family, DenoiserConfig)
        side = config.data.image_size // stage.factor
        unet = build_unet(family.model, stage.latent_channels, side)
        width = family.model.token_width
    tokens = LabelTokens(findings, width).requires_grad_(False).eval()
    return TrainedDenoiser(unet.requires_grad_(False).eval(), tokens, paper_schedule("epsilon"))


def sketch_first_stage(folder: str, path: Path, network: str) -> FirstStage:
    """An untrained first stage as the folder's config.json says, or as the config's own family has it."""
    if folder:
        shape = read_shape(Path(folder), "model.autoencoder")
        if shape.get("_class_name") == "AutoencoderKL":
            return KlFirstStage(AutoencoderKL.from_config(shape))
        return frozen(PatchAutoencoder.from_config(shape))
    family = load_config("autoencoder", beside(path, network, "autoencoder"))
    if isinstance(family, KlAutoencoderConfig):
        return KlFirstStage(build_kl(family.model, family.data.image_size))
    assert isinstance(family, AutoencoderConfig)
    return frozen(fresh_autoencoder(family.model))


def beside(path: Path, network: str, other: str) -> Path:
    """The config of `other` in the family of the config at `path`; raises TrainingError if there is none."""
    found = path.with_name(path.name.replace(network, other))
    if network not in path.name or not found.exists():
        raise TrainingError(
            where=str(path),
            found=f"no model.{other}, and no {other} config of the same name beside it",
            wanted=f"the {other} that this network stands on",
            mend=f"--set model.{other}=FOLDER",
        )
    return found


def read_shape(folder: Path, key: str) -> dict[str, Any]:
    """A network folder's config.json; raises TrainingError."""
    try:
        shape: dict[str, Any] = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(found=f"{key}: {error}", wanted="the folder of a trained network") from error
    return shape


def sketch_batch(films: int, size: int, findings: int) -> FilmBatch:
    """Films of nothing, of the right shapes."""
    return FilmBatch(
        film=torch.rand(films, 1, size, size),
        codes=torch.zeros(films, size, size, dtype=torch.int64),
        labels=torch.zeros(films, findings + 1, dtype=torch.bool),
        known=torch.ones(films, findings + 1, dtype=torch.bool),
    )


def _films(settings: DataSettings) -> FilmSet:
    """Two films of nothing, for tasks that look at the labels of the training films."""
    batch = sketch_batch(2, 1, len(settings.findings))
    pixels = torch.zeros(2, 1, 1, dtype=torch.uint8)
    return FilmSet(pixels, pixels, batch.labels, batch.known, settings)
