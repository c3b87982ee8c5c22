"""Training configs: one YAML file per network, read into frozen records; an unknown key is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from xreal_synth.errors import TrainingError

STRICT = ConfigDict(extra="forbid")

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True, config=STRICT)
class WarpSettings:
    """Random changes of a film and its mask; never a mirror image, for the heart's side carries meaning.

    Rotation in degrees, scale and shift as shares of the side, gamma and contrast as logarithms of the
    largest factor, brightness as the largest difference; all are drawn uniformly up to both signs.
    """

    rotate_deg: Annotated[float, Field(ge=0, le=45)] = 5.0
    scale: Annotated[float, Field(ge=0, le=0.5)] = 0.06
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    gamma: Share = 0.1
    brightness: Share = 0.05
    contrast: Share = 0.08


@dataclass(frozen=True, slots=True, config=STRICT)
class DataSettings:
    """Which films are read, and how they are changed while training.

    More than `max_refused` of faulty films stop a run before it starts; `limit` keeps the first films of each
    split only.
    """

    image_size: Annotated[int, Field(ge=16)] = 256
    warp: WarpSettings = WarpSettings()
    max_refused: Share = 0.05
    limit: Count | None = None


@dataclass(frozen=True, slots=True, config=STRICT)
class LoopSettings:
    """The loop's own settings: budget, optimiser, average of weights, and what is written when.

    `lr` is reached after `warmup_steps`, kept, and brought to zero over the last `decay_share` of the steps.
    `minutes` ends a run early; a resumed run may be given other budgets and intervals, nothing else.
    """

    steps: Annotated[int, Field(ge=0)]
    batch: Count
    lr: Positive
    minutes: Positive | None = None
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.4
    betas: tuple[Share, Share] = (0.9, 0.99)
    weight_decay: NotNegative = 0.01
    clip_norm: Positive = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9995
    precision: Literal["fp32", "bf16"] = "bf16"
    log_every: Count = 20
    validate_every: Count = 250
    preview_every: Count = 500
    checkpoint_minutes: Positive = 4.0


BUDGET_KEYS = ("steps", "minutes", "log_every", "validate_every", "preview_every", "checkpoint_minutes")


@dataclass(frozen=True, slots=True, config=STRICT)
class AutoencoderSettings:
    """PatchAutoencoder and its losses: absolute error + gradient_weight * edges + texture_weight * texture.

    Half of the films are decoded from latents with Gaussian noise of up to `latent_noise`. `init` is the
    folder of an autoencoder to go on from: its patch transform is kept, so its denoisers stay valid.
    """

    init: str = ""
    patch_size: Count = 8
    latent_channels: Count = 8
    refiner_width: Count = 64
    refiner_blocks: Count = 5
    whiten: Share = 0.75
    latent_noise: NotNegative = 0.1
    gradient_weight: NotNegative = 1.0
    texture_weight: NotNegative = 0.02


@dataclass(frozen=True, slots=True, config=STRICT)
class ControllerSettings:
    """MaskController and its losses; `autoencoder` is the folder of a trained first stage."""

    autoencoder: str = ""
    width: Count = 64
    blocks: Count = 2
    pixel_weight: NotNegative = 4.0


@dataclass(frozen=True, slots=True, config=STRICT)
class DenoiserSettings:
    """UNet2DConditionModel on latents; `autoencoder` is the folder of a fitted first stage.

    Noise levels: the logarithm of the signal-to-noise ratio is drawn from a normal with `log_snr_mean` and
    `log_snr_std`; a share of `uniform_share` is drawn uniformly from all steps. A share of `null_share` of
    the films loses all labels, for guidance.
    """

    autoencoder: str = ""
    channels: tuple[Count, ...] = (64, 160, 224)
    attention: tuple[bool, ...] = (False, True, True)
    layers: Count = 1
    heads: Count = 4
    token_width: Count = 96
    null_share: Share = 0.12
    log_snr_mean: float = -0.6
    log_snr_std: Positive = 2.0
    uniform_share: Share = 0.15


@dataclass(frozen=True, slots=True, config=STRICT)
class SegmenterSettings:
    """OrganSegmenter: a U-Net at `inner_size` pixels."""

    inner_size: Count = 128
    channels: tuple[Count, ...] = (24, 48, 96, 128)


@dataclass(frozen=True, slots=True, config=STRICT)
class AutoencoderConfig:
    network: Literal["autoencoder"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: AutoencoderSettings = AutoencoderSettings()


@dataclass(frozen=True, slots=True, config=STRICT)
class ControllerConfig:
    network: Literal["anatomy-controller"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: ControllerSettings = ControllerSettings()


@dataclass(frozen=True, slots=True, config=STRICT)
class DenoiserConfig:
    network: Literal["denoiser"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: DenoiserSettings = DenoiserSettings()


@dataclass(frozen=True, slots=True, config=STRICT)
class SegmenterConfig:
    network: Literal["segmenter"]
    loop: LoopSettings
    seed: int = 0
    data: DataSettings = DataSettings()
    model: SegmenterSettings = SegmenterSettings()


TrainConfig = AutoencoderConfig | ControllerConfig | DenoiserConfig | SegmenterConfig
CONFIGS: dict[str, type[TrainConfig]] = {
    "autoencoder": AutoencoderConfig,
    "anatomy-controller": ControllerConfig,
    "denoiser": DenoiserConfig,
    "segmenter": SegmenterConfig,
}


def load_config(network: str, path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML config for `network`, apply `key.path=value` overrides, check everything at once."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(
            where=str(path),
            found=str(error),
            wanted="a readable YAML training config",
            mend="correct the path or the file; shipped ones lie in xreal_synth/training/configs",
        ) from error
    if not isinstance(tree, dict):
        raise TrainingError(where=str(path), found=type(tree).__name__, wanted="a YAML mapping")
    for override in overrides:
        _apply(tree, override)
    return parse_config(network, tree, str(path))


def parse_config(network: str, tree: Mapping[str, Any], where: str) -> TrainConfig:
    """A config from a plain mapping; every fault is named with its path."""
    if network not in CONFIGS:
        raise TrainingError(found=f"network {network!r}", wanted=f"one of {', '.join(CONFIGS)}")
    try:
        config: TrainConfig = TypeAdapter(CONFIGS[network]).validate_python(tree)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}, not {e['input']!r}" for e in error.errors()]
        raise TrainingError(
            where=where,
            found="; ".join(faults),
            wanted=f"a config of the network {network}",
            mend="correct these keys; the shipped configs list them all",
        ) from error
    return config


def config_tree(config: TrainConfig) -> dict[str, Any]:
    """The config as plain data, every default written out."""
    tree: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *parents, leaf = path.split(".")
    node: Any = tree
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else None
    if not equals or not leaf or not isinstance(node, dict):
        raise TrainingError(
            found=f"override {override!r}", wanted="key.path=value", mend="write it like loop.steps=500"
        )
    node[leaf] = yaml.safe_load(text)
