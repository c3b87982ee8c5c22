"""Bundles of seeded noise in the exact shapes of real ones, for tests of memory, types and speed.

`paper` is the architecture of the authors' weights (518 M denoiser, first stage and Anatomy Controller of
55 M each) with a table of label tokens in the text encoder's place; `mini` is that of xreal-mini. Their images
are noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from xreal_synth.findings import CHEXPERT14
from xreal_synth.models.bundle_file import BUNDLE_FILE, BundleFields
from xreal_synth.models.convert.assemble import Parts, Stored, write_parts
from xreal_synth.models.convert.ldm import unet_config, vae_config
from xreal_synth.models.convert.published import XREAL, XREAL_SIZES, LdmArchitecture
from xreal_synth.models.describe import SHIPPED, BundleInfo
from xreal_synth.models.load import NETWORKS
from xreal_synth.models.networks.conditioning import LabelTokens
from xreal_synth.models.save import read_fields
from xreal_synth.models.tiny import NOISE, build_tiny
from xreal_synth.opening import parse_json

Config = Literal["tiny", "mini", "paper"]

MINI: Final = SHIPPED / "xreal-mini"


@dataclass(frozen=True, slots=True)
class Design:
    """The parts of a bundle: `networks` make a part with fresh weights, `tokens` the label table."""

    fields: BundleFields
    networks: Mapping[str, Callable[[], Any]]
    tokens: Callable[[], dict[str, Tensor]]
    scheduler: Mapping[str, Any]


def build_random(config: Config, out: Path, seed: int = 0) -> BundleInfo:
    """Writes a bundle of random weights into the new folder `out`; nothing is left if it fails.

    The global random state is neither used nor moved. Raises ConversionError if `out` cannot be written.
    """
    if config == "tiny":
        return build_tiny(out, seed)
    return write_design(paper_design() if config == "paper" else mini_design(), out, seed)


def write_design(design: Design, out: Path, seed: int = 0) -> BundleInfo:
    """Writes a design with seeded weights (fp16) and xreal-mini's anatomy bank into the new folder `out`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = {part: make() for part, make in design.networks.items()}
        parts = Parts(networks, design.scheduler, design.tokens())
    return write_parts(out, parts, design.fields, Stored("fp16", bank=str(MINI)))


def paper_design(architecture: LdmArchitecture = XREAL_SIZES) -> Design:
    """The architecture of the authors' weights, or a smaller likeness of it, with text."""
    text = architecture.text
    assert text is not None, "a likeness of XReal takes prompts"
    prompts = XREAL.prompts.model_copy(update={"more": CHEXPERT14})
    words = {"name": "random-paper", "prompts": prompts.for_bundle(), "defaults": XREAL.defaults, **NOISE}
    fields = BundleFields(**words, **architecture.fields())

    def autoencoder() -> Any:
        return AutoencoderKL(**vae_config(architecture.vae))

    def denoiser() -> Any:
        return UNet2DConditionModel(**unet_config(architecture.unet))

    def tokens() -> dict[str, Tensor]:
        return {prompt: torch.randn(text.max_seq_len, text.dim) for prompt in prompts.texts()}

    networks = {"vae": autoencoder, "anatomy_controller": autoencoder, "unet": denoiser}
    return Design(fields, networks, tokens, architecture.scheduler())


def mini_design() -> Design:
    """The architecture of the shipped xreal-mini."""
    fields = read_fields(MINI / BUNDLE_FILE).model_dump()
    given = {key: value for key, value in fields.items() if key not in (*NOISE, "seconds_per_evaluation")}
    width, findings = _config("unet")["cross_attention_dim"], tuple(fields["prompts"]["findings"])
    return Design(
        fields=BundleFields(**{**given, "name": "random-mini"}, **NOISE),
        networks={part: _fresh(part) for part in NETWORKS if (MINI / part).is_dir()},
        tokens=lambda: LabelTokens(findings, width).table(),
        scheduler={k: v for k, v in _config("scheduler").items() if not k.startswith("_")},
    )


def _fresh(part: str) -> Callable[[], Any]:
    config = _config(part)
    return lambda: NETWORKS[part][config["_class_name"]].from_config(config)


def _config(part: str) -> dict[str, Any]:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    config: dict[str, Any] = parse_json((MINI / part / name).read_text(encoding="utf-8"))
    return config
