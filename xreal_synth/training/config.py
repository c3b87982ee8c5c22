"""Training configs: one YAML file per network, read into frozen records; an unknown key is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from xreal_synth.errors import TrainingError

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, config=STRICT)
class WarpSettings:
    """Random changes of a film and its mask; never a mirror image, for the heart's side carries meaning."""

    rotate_deg: float = Field(5.0, ge=0, le=45)
    scale: float = Field(0.06, ge=0, le=0.5)
    shift: float = Field(0.03, ge=0, le=0.5)
    gamma: float = Field(0.10, ge=0, le=1)
    brightness: float = Field(0.05, ge=0, le=1)
    contrast: float = Field(0.08, ge=0, le=1)


@dataclass(frozen=True, slots=True, config=STRICT)
class DataSettings:
    """Which films are read, and how they are changed while training."""

    image_size: int = Field(256, ge=16)
    warp: WarpSettings = Field(default_factory=WarpSettings)
    max_refused: float = Field(0.05, ge=0, le=1)
    limit: int | None = Field(None, ge=1)


@dataclass(frozen=True, slots=True, config=STRICT)
class LoopSettings:
    """The loop's own settings: budget, optimiser, average of weights, and what is written when."""

    steps: int = Field(ge=0)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)
    minutes: float | None = Field(None, gt=0)
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    warmup_steps: int = Field(100, ge=0)
    decay_share: float = Field(0.4, gt=0, le=1)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.9995, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "bf16"
    log_every: int = Field(20, ge=1)
    validate_every: int = Field(250, ge=1)
    preview_every: int = Field(500, ge=1)
    checkpoint_minutes: float = Field(4.0, gt=0)


@dataclass(frozen=True, slots=True, config=STRICT)
class AutoencoderSettings:
    """PatchAutoencoder and its losses."""

    patch_size: int = 8
    latent_channels: int = 8
    refiner_width: int = 64
    refiner_blocks: int = 5
    whiten: float = 0.75
    latent_noise: float = 0.1
    gradient_weight: float = 1.0
    texture_weight: float = 0.003


@dataclass(frozen=True, slots=True, config=STRICT)
class ControllerSettings:
    """MaskController and its losses; `autoencoder` is the folder of a trained first stage."""

    autoencoder: str = ""
    width: int = 64
    blocks: int = 2
    pixel_weight: float = 4.0


@dataclass(frozen=True, slots=True, config=STRICT)
class DenoiserSettings:
    """UNet2DConditionModel on latents; `autoencoder` is the folder of a fitted first stage.

    Noise levels: log signal-to-noise ratio drawn from N(log_snr_mean, log_snr_std), a share of `uniform_share`
    uniformly from all steps.
    """

    autoencoder: str = ""
    channels: tuple[int, ...] = (64, 160, 224)
    attention: tuple[bool, ...] = (False, True, True)
    layers: int = 1
    heads: int = 4
    token_width: int = 96
    null_share: float = 0.12
    log_snr_mean: float = -0.6
    log_snr_std: float = 2.0
    uniform_share: float = 0.15


@dataclass(frozen=True, slots=True, config=STRICT)
class SegmenterSettings:
    """OrganSegmenter: a U-Net at `inner_size` pixels."""

    inner_size: int = 160
    channels: tuple[int, ...] = (24, 48, 96, 128)


@dataclass(frozen=True, slots=True, config=STRICT)
class AutoencoderConfig:
    network: Literal["autoencoder"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = Field(default_factory=DataSettings)
    model: AutoencoderSettings = Field(default_factory=AutoencoderSettings)


@dataclass(frozen=True, slots=True, config=STRICT)
class ControllerConfig:
    network: Literal["anatomy-controller"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = Field(default_factory=DataSettings)
    model: ControllerSettings = Field(default_factory=ControllerSettings)


@dataclass(frozen=True, slots=True, config=STRICT)
class DenoiserConfig:
    network: Literal["denoiser"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = Field(default_factory=DataSettings)
    model: DenoiserSettings = Field(default_factory=DenoiserSettings)


@dataclass(frozen=True, slots=True, config=STRICT)
class SegmenterConfig:
    network: Literal["segmenter"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = Field(default_factory=DataSettings)
    model: SegmenterSettings = Field(default_factory=SegmenterSettings)


TrainConfig = AutoencoderConfig | ControllerConfig | DenoiserConfig | SegmenterConfig
CONFIGS: dict[str, type[TrainConfig]] = {
    "autoencoder": AutoencoderConfig,
    "anatomy-controller": ControllerConfig,
    "denoiser": DenoiserConfig,
    "segmenter": SegmenterConfig,
}


def load_config(network: str, path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML config for `network`, apply `key.path=value` overrides, check everything at once."""
    if network not in CONFIGS:
        raise TrainingError(found=f"network {network!r}", wanted=f"one of {', '.join(CONFIGS)}", mend="name one of them")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(
            found=f"{path}: {error}", wanted="a readable YAML training config", mend="correct the path or the file"
        ) from error
    if not isinstance(tree, dict):
        raise TrainingError(found=f"{path}: {type(tree).__name__}", wanted="a YAML mapping", mend="see the shipped configs")
    for override in overrides:
        _apply(tree, override)
    return parse_config(network, tree, str(path))


def parse_config(network: str, tree: Mapping[str, Any], source: str) -> TrainConfig:
    """A config from a plain mapping; every fault is named with its place."""
    try:
        config: TrainConfig = TypeAdapter(CONFIGS[network]).validate_python(tree)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} ({e['input']!r})" for e in error.errors())
        raise TrainingError(
            found=f"{source}: {faults}", wanted=f"a {network} config", mend="correct these keys; the shipped configs list all"
        ) from error
    return config


def config_tree(config: TrainConfig) -> dict[str, Any]:
    """The config as plain data, every default written out."""
    tree: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise TrainingError(found=f"override {override!r}", wanted="key.path=value", mend="write it like loop.steps=500")
    *parents, leaf = path.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise TrainingError(found=f"override {override!r}", wanted="a path to a value", mend=f"{parent} is a value itself")
    node[leaf] = yaml.safe_load(text)
