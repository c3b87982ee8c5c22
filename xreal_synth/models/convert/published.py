"""The published models: their sizes as data (or read from a latent-diffusion training YAML), their own words, and
how this project samples them.

Sizes: XReal by the project's reference facts; Cheff by its public configurations (saiboxx/chexray-diffusion, MIT:
configs/cheff-diff-t2i.yml, and the sizes that its released loader uses for the unconditional weights, which differ
from its YAML in channel_mult).

No weights of any of them were at hand when this was written: licences and terms are those that the publishers state;
see that they hold for your copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
import yaml
from torch import Tensor

from xreal_synth.errors import ConversionError
from xreal_synth.models.text.ldm_bert import TextShape
from xreal_synth.models.text.prompts import LABEL_WORDS, NO_WORDS, REPORT_WORDS, PromptTable
from xreal_synth.types import SamplingDefaults

TRAIN_STEPS: Final = 1000


@dataclass(frozen=True, slots=True)
class LdmArchitecture:
    """Sizes that a latent-diffusion checkpoint does not tell itself.

    `unet` and `vae` hold the layout's own parameters, `text` is None without prompts; `betas` are
    linear_start and linear_end of diffusers' `scaled_linear`; `value_range` is that of images in the networks.
    """

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text: TextShape | None
    scale_factor: float
    betas: tuple[float, float]
    value_range: tuple[float, float]

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return int(self.vae["resolution"])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels and sides of the latents: each level of the first stage but the first halves the side."""
        side = self.image_size >> (len(self.vae["ch_mult"]) - 1)
        return int(self.vae["z_channels"]), side, side

    def fields(self) -> dict[str, Any]:
        """What bundle.json says of sizes."""
        names = ("image_size", "value_range", "latent_shape", "scale_factor")
        return {**{name: getattr(self, name) for name in names}, "channels": self.vae["in_channels"]}

    def scheduler(self) -> dict[str, Any]:
        """The scheduler of these weights in diffusers' words, spaced as the reference spaces its steps."""
        return {
            "num_train_timesteps": TRAIN_STEPS, "beta_start": self.betas[0], "beta_end": self.betas[1],
            "beta_schedule": "scaled_linear", "prediction_type": "epsilon", "clip_sample": False,
            "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading",
        }  # fmt: skip

    def check_buffers(self, state: Mapping[str, Tensor], where: str) -> None:
        """Raises ConversionError if the checkpoint's own schedule or scale factor is another one."""
        betas = state.get("betas")
        if betas is not None:
            roots = (self.betas[0] ** 0.5, self.betas[1] ** 0.5)
            wanted = torch.linspace(*roots, TRAIN_STEPS, dtype=torch.float64) ** 2
            if betas.shape != wanted.shape or not torch.allclose(betas.double(), wanted, rtol=1e-3):
                ends = f"{len(betas)} betas from {float(betas[0]):.5g} to {float(betas[-1]):.5g}"
                raise _other(where, ends, f"{TRAIN_STEPS} from {self.betas[0]} to {self.betas[1]}")
        scale = state.get("scale_factor")
        if scale is not None and abs(float(scale) - self.scale_factor) > 1e-4 * self.scale_factor:
            raise _other(where, f"a scale_factor of {float(scale):.6g}", str(self.scale_factor))


_VAE: Final[dict[str, Any]] = {
    "double_z": True, "z_channels": 3, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
_UNET: Final[dict[str, Any]] = {
    "image_size": 64, "in_channels": 3, "out_channels": 3, "model_channels": 224,
    "attention_resolutions": [8, 4, 2], "num_res_blocks": 2,
}  # fmt: skip
_PROMPTED: Final[dict[str, Any]] = {
    **_UNET, "channel_mult": [1, 2, 4, 4], "num_heads": 8, "use_spatial_transformer": True,
    "transformer_depth": 1, "context_dim": 1280,
}  # fmt: skip
_TEXT: Final = TextShape(num_tokens=30522, max_seq_len=150, dim=1280, depth=32, heads=8, head_dim=64)

XREAL_SIZES: Final = LdmArchitecture(_PROMPTED, _VAE, _TEXT, 0.18215, (0.0015, 0.0295), (0.0, 1.0))
CHEFF_UNCONDITIONAL_SIZES: Final = LdmArchitecture(
    {**_UNET, "channel_mult": [1, 2, 3, 4], "num_head_channels": 32}, _VAE, None, 1.0, XREAL_SIZES.betas, (-1.0, 1.0)
)


def read_architecture(path: Path, base: LdmArchitecture) -> LdmArchitecture:
    """An architecture from a latent-diffusion training YAML (`model.params`); its value range is `base`'s.

    Raises ConversionError for a file that is not one, or that asks for what this project has not.
    """
    try:
        params = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))["model"]["params"]
        unet, stage = params["unet_config"]["params"], params["first_stage_config"]["params"]
        vae, text = stage["ddconfig"], params.get("cond_stage_config")
        for key, value, wanted in (
            ("timesteps", params.get("timesteps", TRAIN_STEPS), TRAIN_STEPS),
            ("parameterization", params.get("parameterization", "eps"), "eps"),
            ("embed_dim", stage.get("embed_dim", vae["z_channels"]), vae["z_channels"]),
        ):
            if value != wanted:
                raise _other(str(path), f"{key} {value!r}", str(wanted))
        return LdmArchitecture(
            unet=unet,
            vae=vae,
            text=None if text in (None, "__is_unconditional__") else _text_shape(text["params"]),
            scale_factor=float(params.get("scale_factor", 1.0)),
            betas=(float(params["linear_start"]), float(params["linear_end"])),
            value_range=base.value_range,
        )
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ConversionError(
            where=str(path),
            found=f"cannot be used: {reason}",
            wanted="a latent-diffusion training YAML: model.params with unet_config, first_stage_config, "
            "linear_start and linear_end",
            hint="give the YAML that the weights were trained with",
        ) from error


def _text_shape(params: Mapping[str, Any]) -> TextShape:
    return replace(
        _TEXT,
        num_tokens=params.get("vocab_size", _TEXT.num_tokens),
        max_seq_len=params.get("max_seq_len", _TEXT.max_seq_len),
        dim=params["n_embed"],
        depth=params["n_layer"],
    )


def _other(where: str, found: str, wanted: str) -> ConversionError:
    return ConversionError(
        where=where,
        found=found,
        wanted=wanted,
        hint="check that the file is the one meant; give --config with the YAML that it was trained with",
    )


_RESEARCH: Final = "research only; not for diagnosis; images made with it are synthetic and must be marked so"
_MIMIC: Final = "MIMIC-CXR's data use agreement (PhysioNet) applies to what was trained on it"


@dataclass(frozen=True, slots=True)
class Published:
    """A published model's name, terms and prompts, and the defaults that its own code samples with.

    `sizes` are those of latent-diffusion checkpoints; a folder in diffusers' layout tells its own.
    """

    name: str
    licence: str
    use_restriction: str
    training_data: str
    prompts: PromptTable
    defaults: SamplingDefaults
    sizes: LdmArchitecture | None = None


def _defaults(mode: Literal["branch", "reference"], steps: int, guidance: float) -> SamplingDefaults:
    return SamplingDefaults(mode=mode, steps=steps, hold=0.5, branch=0.25, guidance=guidance, soft=0.2, eta=1.0)


_MACHEX: Final = "MaCheX, over 650,000 chest X-rays of several public collections; by the authors of Cheff"

XREAL: Final = Published(
    name="xreal",
    licence="CC-BY-NC-4.0",
    use_restriction=f"non-commercial; {_RESEARCH}; {_MIMIC}",
    training_data="MIMIC-CXR, by the authors of XReal",
    prompts=LABEL_WORDS,
    defaults=_defaults("reference", 100, 7.0),
    sizes=XREAL_SIZES,
)
CHEFF_T2I: Final = Published(
    name="cheff-t2i",
    licence="MIT",
    use_restriction=f"{_RESEARCH}; {_MIMIC}",
    training_data=f"MIMIC-CXR images and reports; the autoencoder on {_MACHEX}",
    prompts=REPORT_WORDS,
    defaults=_defaults("branch", 100, 1.0),
    sizes=replace(XREAL_SIZES, value_range=(-1.0, 1.0)),
)
CHEFF_UNCONDITIONAL: Final = replace(
    CHEFF_T2I, name="cheff-unconditional", training_data=_MACHEX, prompts=NO_WORDS, sizes=CHEFF_UNCONDITIONAL_SIZES
)
ROENTGEN: Final = Published(
    name="roentgen",
    licence="CreativeML-OpenRAIL-M",
    use_restriction=f"research and education; {_RESEARCH}; only for those credentialed for MIMIC-CXR; {_MIMIC}",
    training_data="MIMIC-CXR images and reports, on top of Stable Diffusion 1.4; by the authors of RoentGen",
    prompts=REPORT_WORDS,
    defaults=_defaults("branch", 75, 4.0),
)
STABLE_DIFFUSION: Final = Published(
    name="stable-diffusion",
    licence="",
    use_restriction=_RESEARCH,
    training_data="not stated",
    prompts=REPORT_WORDS,
    defaults=_defaults("branch", 50, 4.0),
)
