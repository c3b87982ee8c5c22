"""Settings of every training: the images and their random changes, the loop, and each network's own."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from xreal_synth.findings import IMAGE_LABELS, NO_FINDING, image_label
from xreal_synth.models.networks.conditioning import FINDINGS

STRICT = ConfigDict(extra="forbid")

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def _findings(names: tuple[str, ...]) -> tuple[str, ...]:
    """The project's names of findings; raises ValueError for any other name and for one given twice."""
    strange = [name for name in names if image_label(name) in (None, NO_FINDING)]
    if strange:
        known = ", ".join(name for name in IMAGE_LABELS if name != NO_FINDING)
        raise ValueError(f"no finding {', '.join(map(repr, strange))}; known are {known}")
    found = tuple(image_label(name) or name for name in names)
    if len(set(found)) != len(found):
        raise ValueError("a finding is named twice")
    return found


Findings = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_findings)]
OptionalFindings = Annotated[tuple[str, ...], AfterValidator(_findings)]


@dataclass(frozen=True, slots=True, config=STRICT)
class WarpSettings:
    """Random changes of an image and its mask; never a mirror image, for the heart's side carries meaning.

    Rotation in degrees, scale and shift as shares of the side, gamma and contrast as logarithms of the
    largest factor, brightness as the largest difference; all are drawn uniformly up to both signs. `elastic` is
    the largest displacement, as a share of the side, of the knots of a smooth field.
    """

    rotate_deg: Annotated[float, Field(ge=0, le=45)] = 5.0
    scale: Annotated[float, Field(ge=0, le=0.5)] = 0.06
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    elastic: Annotated[float, Field(ge=0, le=0.1)] = 0.0
    gamma: Share = 0.1
    brightness: Share = 0.05
    contrast: Share = 0.08


@dataclass(frozen=True, slots=True, config=STRICT)
class DrawSettings:
    """Rates at which images are drawn into a training batch, relative to one that nothing is said of.

    `boxed` is the factor of images with a region of a finding whose place is known, `findings` those of images
    with these labels (the largest counts). With `balance_view`, PA and AP images have equal shares among the
    images with a finding and among those without, so that the view does not stand for the label.
    """

    boxed: Positive = 1.0
    findings: dict[str, Positive] = field(default_factory=dict)
    balance_view: bool = False


@dataclass(frozen=True, slots=True, config=STRICT)
class DataSettings:
    """Images that are read, findings that are learnt, and changes of images while training.

    More than `max_refused` of faulty images stop a run before it starts; `limit` keeps the first images of each
    split only. `findings` are labels in the order of the network's own, "No Finding" comes after them.
    `region_maps` are the findings whose regions a denoiser, or a classifier with places, is shown. Without `draw`
    every image is seen once per pass. With `healthy_only` images with a finding, or with an unknown one, are left out.
    """

    image_size: Annotated[int, Field(ge=16)] = 256
    warp: WarpSettings = WarpSettings()
    findings: Findings = FINDINGS
    region_maps: OptionalFindings = ()
    draw: DrawSettings | None = None
    max_refused: Share = 0.05
    limit: Count | None = None
    healthy_only: bool = False


@dataclass(frozen=True, slots=True, config=STRICT)
class LoopSettings:
    """The loop's own settings: budget, optimiser, average of weights, and what is written when.

    A step sees `batch` images in all: `accumulate` splits them into parts computed one after another, where the
    whole batch does not fit into memory, and several workers share them. `lr` is reached after `warmup_steps`,
    kept, and brought to zero over the last `decay_share` of the steps (`constant`: kept to the end). `minutes`
    ends a run early; a resumed run may be given other budgets, intervals and another split, nothing else.
    """

    steps: Annotated[int, Field(ge=0)]
    batch: Count
    lr: Positive
    minutes: Positive | None = None
    accumulate: Count = 1
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


BUDGET_KEYS = ("steps", "minutes", "accumulate", "log_every", "validate_every", "preview_every", "checkpoint_minutes")


@dataclass(frozen=True, slots=True, config=STRICT)
class FirstStageSettings:
    """What the losses of both first stages share.

    `init` is the folder of a network to go on from, `perceptual` that of a trained segmenter. The critic learns from
    the start and counts, more and more, from step `adversarial_after` on.
    """

    init: str = ""
    gradient_weight: NotNegative = 1.0
    perceptual: str = ""
    perceptual_weight: NotNegative = 0.1
    adversarial_weight: NotNegative = 0.0
    adversarial_after: Annotated[int, Field(ge=0)] = 0
    critic_width: Count = 64


@dataclass(frozen=True, slots=True, config=STRICT)
class AutoencoderSettings(FirstStageSettings):
    """PatchAutoencoder and its losses: absolute error + gradient_weight * edges + texture_weight * texture
    + band_weight * power in rings of frequency + perceptual_weight * features' distance
    + adversarial_weight * patch critic.

    Half of the images are decoded from latents with Gaussian noise of up to `latent_noise`. Of `init` the patch
    transform is kept, so its denoisers stay valid; its decoder is kept where the sizes agree. With `grain` the decoder
    is given noise as a further input. With the folder of a trained `denoiser`, a share of `denoised_share` of the
    latents is noised to a step below `denoised_below` and denoised again, so that the decoder learns to give detail
    back to latents as a sampler leaves them.
    """

    kind: Literal["patch"] = "patch"
    patch_size: Count = 8
    latent_channels: Count = 8
    refiner_width: Count = 64
    refiner_blocks: Count = 5
    whiten: Share = 0.75
    latent_noise: NotNegative = 0.1
    texture_weight: NotNegative = 0.02
    band_weight: NotNegative = 0.0
    grain: bool = False
    critic_width: Count = 32
    denoiser: str = ""
    denoised_share: Share = 0.5
    denoised_below: Annotated[int, Field(ge=4, le=1000)] = 200


Levels = Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)]


@dataclass(frozen=True, slots=True, config=STRICT)
class KlSettings(FirstStageSettings):
    """AutoencoderKL and its losses; the defaults are the paper's sizes (55 M weights, f = 4).

    `channels` are the widths of the levels, each but the last halves the side; `blocks` residual blocks a level
    (one more in the decoder); `groups` of the group norms. Images are repeated to `image_channels`. `kl_weight` is
    the usual one, of losses summed over an image's values. `scale_factor` is written into the network's config:
    the denoiser sees latents times this number, which should give them unit deviation (the metric `latent_std`
    is the deviation without it). `init` has the same sizes.
    """

    kind: Literal["kl"] = "kl"
    image_channels: Literal[1, 3] = 3
    latent_channels: Count = 3
    channels: Levels = (128, 256, 512)
    blocks: Count = 2
    groups: Count = 32
    scale_factor: Positive = 0.18215
    kl_weight: NotNegative = 1e-6


@dataclass(frozen=True, slots=True, config=STRICT)
class KlControllerSettings(KlSettings):
    """The same network as Anatomy Controller: organ mask -> image with probability `mask_share`, else image -> image.

    The paper trains on masks alone (1.0), the authors' released code on half of each (0.5); an image as input keeps
    the decoder able to draw what masks do not say.
    """

    mask_share: Share = 0.5


@dataclass(frozen=True, slots=True, config=STRICT)
class ControllerSettings:
    """MaskController and its losses; `autoencoder` is the folder of a trained first stage."""

    kind: Literal["patch"] = "patch"
    autoencoder: str = ""
    width: Count = 64
    blocks: Count = 2
    pixel_weight: NotNegative = 4.0


@dataclass(frozen=True, slots=True, config=STRICT)
class DenoiserSettings:
    """UNet2DConditionModel on latents; `autoencoder` is the folder of a fitted first stage.

    Noise levels: the logarithm of the signal-to-noise ratio is drawn from a normal with `log_snr_mean` and
    `log_snr_std`; a share of `uniform_share` is drawn uniformly from all steps. A share of `null_share` of
    the images loses all labels, for guidance. `prediction` is what the network returns; `min_snr_gamma` weighs
    the loss by min(SNR, gamma), for eps over SNR, for v over SNR + 1 (Hang et al. 2023); without it every step
    counts alike. `init` is the folder of a denoiser to go on from. `pooled_labels`
    adds the labels, pooled over their tokens, to the time embedding too, so that every block sees them.

    Where `data.region_maps` names findings, their maps and one for "some finding, place unknown" are further input
    channels. A share of `null_share` of the images then loses maps and labels, a share of `token_drop` of the rest
    its labels alone; inside a finding's region the loss counts `region_weight` times.
    """

    autoencoder: str = ""
    init: str = ""
    pooled_labels: bool = False
    channels: tuple[Count, ...] = (64, 160, 224)
    attention: tuple[bool, ...] = (False, True, True)
    layers: Count = 1
    heads: Count = 4
    token_width: Count = 96
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    min_snr_gamma: Positive | None = None
    null_share: Share = 0.12
    token_drop: Share = 0.0
    region_weight: Positive = 1.0
    log_snr_mean: float = -0.6
    log_snr_std: Positive = 2.0
    uniform_share: Share = 0.15


@dataclass(frozen=True, slots=True, config=STRICT)
class ControlNetSettings:
    """ControlNetModel on a trained denoiser, which stays as it is.

    `autoencoder` is the folder of its first stage, `denoiser` the folder of the denoiser (unet/, tokens/,
    scheduler/). `hint_channels` are the widths of the hint's embedding; the mask is shown to it at
    2 ** (their number - 1) times the latents' side. A share of `mask_dropout` of the images loses its mask, a
    share of `null_share` its labels. Noise levels are drawn as the denoiser's are.
    """

    autoencoder: str = ""
    denoiser: str = ""
    hint_channels: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)] = (16, 32, 96, 256)
    mask_dropout: Share = 0.05
    null_share: Share = 0.1
    log_snr_mean: float = -1.0
    log_snr_std: Positive = 2.0
    uniform_share: Share = 0.3


@dataclass(frozen=True, slots=True, config=STRICT)
class GuidanceSettings:
    """Changes of the tokens of `bundle`'s prompts, by which one evaluation gives what its guidance does."""

    bundle: str = ""


@dataclass(frozen=True, slots=True, config=STRICT)
class SegmenterSettings:
    """OrganSegmenter, a U-Net of `channels`, or PyramidSegmenter, `blocks` and `width`; at `inner_size` pixels."""

    kind: Literal["unet", "pyramid"] = "unet"
    inner_size: Count = 128
    channels: tuple[Count, ...] = (24, 48, 96, 128)
    blocks: Annotated[tuple[Count, ...], Field(min_length=1, max_length=4)] = (1, 1, 1)
    width: Count = 48


@dataclass(frozen=True, slots=True, config=STRICT)
class ClassifierSettings:
    """FindingClassifier and its loss.

    A finding's positive images weigh as much as its negative ones, up to `max_weight` times each. Labels are
    softened by `smoothing` (1 becomes 1 - smoothing / 2, 0 becomes smoothing / 2): they are noisy. With a
    `place_weight` over 0 the network has `places`, and learns those of `data.region_maps` with this weight beside
    the image's labels.
    """

    kind: Literal["densenet", "resnet"] = "resnet"
    inner_size: Count = 128
    blocks: Annotated[tuple[Count, ...], Field(min_length=1, max_length=4)] = (1, 1, 1)
    width: Count = 64
    growth: Count = 12
    dropout: Share = 0.2
    smoothing: Share = 0.1
    max_weight: Annotated[float, Field(ge=1)] = 8.0
    place_weight: NotNegative = 0.0


M = TypeVar("M")


@dataclass(frozen=True, slots=True, config=STRICT)
class NetworkConfig(Generic[M]):
    """Every setting of a run of one network, whose own are `model`."""

    network: str
    loop: LoopSettings
    model: M
    seed: int = 0
    data: DataSettings = DataSettings()

    def __post_init__(self) -> None:
        if isinstance(self.model, ClassifierSettings):
            maps = self.data.region_maps
            if bool(maps) != (self.model.place_weight > 0):
                raise ValueError("data.region_maps and model.place_weight over 0 go together")
            if not set(maps) <= set(self.data.findings):
                raise ValueError("data.region_maps names findings that data.findings does not")


TrainConfig = NetworkConfig[Any]
CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "autoencoder": {"patch": AutoencoderSettings, "kl": KlSettings},
    "anatomy-controller": {"patch": ControllerSettings, "kl": KlControllerSettings},
    "denoiser": {"": DenoiserSettings},
    "controlnet": {"": ControlNetSettings},
    "distill-guidance": {"": GuidanceSettings},
    "segmenter": {"": SegmenterSettings},
    "classifier": {"": ClassifierSettings},
}
"""The networks that can be trained, and each one's settings; where there are several kinds (`model.kind`), the first is
what a config means that says nothing."""
