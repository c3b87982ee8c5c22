"""A tiny seeded bundle with random weights: every part is there and runs in milliseconds.

`python -m xreal_synth.models.tiny OUT` writes it; an `anatomy_bank/` already in OUT becomes part of it.
"""

from __future__ import annotations

import argparse
import string
import tempfile
from itertools import compress, product
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from xreal_synth.findings import NO_FINDING
from xreal_synth.models.bundle_file import EMBEDDINGS, BundleFields, Prompts
from xreal_synth.models.convert.assemble import save_embeddings, save_network
from xreal_synth.models.convert.published import XREAL_SIZES
from xreal_synth.models.describe import UPSCALER, BundleInfo
from xreal_synth.models.networks.controls import build_controlnet
from xreal_synth.models.networks.sr3_unet import Sr3UNet
from xreal_synth.models.save import write_bundle
from xreal_synth.models.text.encoders import WordPieces, ldm_bert
from xreal_synth.models.text.ldm_bert import TextEncoder, TextShape
from xreal_synth.types import SamplingDefaults

FINDINGS = ("Pneumonia", "Effusion", "Atelectasis", "Cardiomegaly", "Edema")
TOKENS, WIDTH = 2, 16
_SPECIAL, _LETTERS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]"), string.ascii_lowercase + string.digits + ".,-"
IMAGE_SIZE, LATENT_SHAPE = 64, (3, 16, 16)

NOISE: Final[dict[str, Any]] = {
    "licence": "CC0-1.0",
    "use_restriction": "for tests only: the weights are random and the images are noise",
    "training_data": "none: seeded random weights",
}
_FIELDS = BundleFields(
    name="xreal-tiny",
    image_size=IMAGE_SIZE,
    channels=1,
    value_range=(0.0, 1.0),
    latent_shape=LATENT_SHAPE,
    scale_factor=0.5,
    prompts=Prompts(null="", healthy=NO_FINDING, findings={name: name for name in FINDINGS}),
    defaults=SamplingDefaults(mode="branch", steps=8, hold=0.5, branch=0.25, guidance=2.0, soft=0.2),
    **NOISE,
)


def build_tiny(
    out: Path, seed: int = 0, *, upscale: int | None = None, text: bool = False, maps: bool = False
) -> BundleInfo:
    """Writes the bundle (64x64 images, 3x16x16 latents, fp16, under 600 kB) into the folder `out`.

    The denoiser predicts v, with which random weights keep the images within range. `upscale` adds an upscaler
    to images of that side, `text` a text encoder, which then makes the table, of single findings alone; with `maps`
    the denoiser takes the findings' regions.
    """
    out.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: dict[str, Any] = {"vae": _vae(), "anatomy_controller": _vae(), "unet": _unet(maps)}
        table = _text_table(out) if text else _embeddings()
        torch.manual_seed(seed)
        parts["controlnet"] = _controlnet(parts["unet"])
    for name, network in parts.items():
        save_network(out / name, network, "fp16")
    schedule = {**XREAL_SIZES.scheduler(), "prediction_type": "v_prediction"}
    DDIMScheduler(**schedule).save_config(out / "scheduler")
    save_embeddings(out / EMBEDDINGS, table, "fp16")
    if upscale is not None:
        _add_upscaler(out, seed, upscale)
    if not maps:
        return write_bundle(out, _FIELDS)
    prompts = _FIELDS.prompts.model_copy(update={"null": NO_FINDING})
    return write_bundle(out, _FIELDS.model_copy(update={"region_maps": FINDINGS, "prompts": prompts}))


def _add_upscaler(out: Path, seed: int, side: int) -> None:
    """Random weights, and a schedule that ends far from pure noise, so that the image is still to be seen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = Sr3UNet(8, (1, 1, 2, 2), 8, attention_levels=1, head_width=4, groups=4, sample_size=side)
    save_network(out / UPSCALER, network, "fp16")
    DDIMScheduler(100, 0.0001, 0.02, clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading").save_config(
        out / UPSCALER
    )


def _vae() -> Any:
    vae: Any = AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=LATENT_SHAPE[0], block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1, norm_num_groups=4, sample_size=IMAGE_SIZE,
    )  # fmt: skip
    torch.nn.init.constant_(vae.decoder.conv_out.bias, 0.5)
    return vae


def _unet(maps: bool) -> Any:
    return UNet2DConditionModel(
        sample_size=LATENT_SHAPE[1], out_channels=LATENT_SHAPE[0],
        in_channels=LATENT_SHAPE[0] + maps * (len(FINDINGS) + 1),
        block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1, cross_attention_dim=WIDTH,
        attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip


def _controlnet(unet: Any) -> Any:
    """With random weights where a new ControlNet has zeros, so that the mask shows in the images."""
    controlnet: Any = build_controlnet(unet, (4, 8, 8))
    for weights in controlnet.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.2)
    return controlnet


def _text_table(out: Path) -> dict[str, Tensor]:
    """A text encoder of random weights that spells words out, written into the bundle; null prompt, no finding
    and each finding -> its tokens [L, D]."""
    words = [*_SPECIAL, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    shape = TextShape(len(words), 40, WIDTH, depth=1, heads=2, head_dim=WIDTH // 2)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(words) + "\n", encoding="utf-8")
        model = ldm_bert(TextEncoder(shape), shape, WordPieces(vocabulary, len(words)))
        model.save(out)
    return {text: model.encode(text) for text in ("", NO_FINDING, *FINDINGS)}


def _embeddings() -> dict[str, Tensor]:
    """Every combination of the findings, and no finding, and the null prompt -> random tokens [L, D]."""
    every = product([False, True], repeat=len(FINDINGS))
    joined = [" ".join(compress(FINDINGS, flags)) for flags in every if any(flags)]
    return {prompt: torch.randn(TOKENS, WIDTH) for prompt in ("", NO_FINDING, *joined)}


def main() -> None:
    """The command: builds the bundle in a new folder and prints its content hash."""
    parser = argparse.ArgumentParser(prog="python -m xreal_synth.models.tiny", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--upscale", type=int, metavar="SIDE", help="add an upscaler to images of this side")
    parser.add_argument("--text", action="store_true", help="add a text encoder, which makes the prompt table")
    given = parser.parse_args()
    info = build_tiny(given.out, given.seed, upscale=given.upscale, text=given.text)
    print(f"{info.root}: {info.bytes} bytes, content hash {info.content_hash}")


if __name__ == "__main__":
    main()
