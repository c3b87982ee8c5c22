"""Nothing is fixed at 256 pixels, three channels or [0, 1]: a whole shard from a bundle of other sizes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image

from tests.doubles.shards import run_shard
from xreal_synth.dataset.tar import read_tar
from xreal_synth.engine.backend import Networks
from xreal_synth.engine.worker import environment
from xreal_synth.models.bundle_file import BundleFields, Prompts
from xreal_synth.models.convert.assemble import Parts, Stored, write_parts
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.report.contact_sheet import sheet_png
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import claim, open_run
from xreal_synth.storage import LocalStore
from xreal_synth.types import SamplingDefaults

SIDE, FACTOR, LATENTS, TOKENS, WIDTH = 96, 8, 4, 5, 12

RECIPE = """
version: 1
name: sizes
seed: 1
anatomies: 2
bundle: unset
findings: [{weight: 1, labels: [{name: Pneumonia}]}]
pairs: {twin: true}
output: {uri: unset, shard_samples: 2}
compute: {micro_batch: 2, precision: fp32}
"""


def build(out: Path, channels: Literal[1, 3]) -> None:
    """96-px images in [-1, 1], f = 8, 4 latent channels, v-prediction, random weights."""
    torch.manual_seed(0)

    def vae() -> Any:
        network = AutoencoderKL(
            in_channels=channels, out_channels=channels, latent_channels=LATENTS, layers_per_block=1,
            block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4, sample_size=SIDE,
        )  # fmt: skip
        torch.nn.init.constant_(network.decoder.conv_out.bias, -0.3)
        return network

    unet = UNet2DConditionModel(
        sample_size=SIDE // FACTOR, in_channels=LATENTS, out_channels=LATENTS, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=1, norm_num_groups=4,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=WIDTH, attention_head_dim=2,
    )  # fmt: skip
    side = SIDE // FACTOR
    fields = BundleFields(
        name="sizes", image_size=SIDE, channels=channels, value_range=(-1.0, 1.0), scale_factor=0.4,
        latent_shape=(LATENTS, side, side), licence="none", use_restriction="tests", training_data="none",
        prompts=Prompts(null="", healthy="clear", findings={"Pneumonia": "opacity"}),
        defaults=SamplingDefaults(steps=4, hold=0.5, branch=0.25, guidance=2.0),
    )  # fmt: skip
    scheduler = {"prediction_type": "v_prediction", "beta_schedule": "scaled_linear", "beta_start": 0.00085}
    embeddings = {text: torch.randn(TOKENS, WIDTH) for text in ("", "clear", "opacity")}
    networks = {"vae": vae(), "anatomy_controller": vae(), "unet": unet}
    write_parts(out, Parts(networks, scheduler, embeddings), fields, Stored(bank="xreal-tiny"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["branch", "reference"])
def test_a_shard_at_other_sizes(channels: Literal[1, 3], mode: str, tmp_path: Path) -> None:
    build(tmp_path / "bundle", channels)
    overrides = [f"bundle={tmp_path / 'bundle'}", f"sampling.mode={mode}"]
    run = open_run(LoadedRecipe(recipe_from_text(RECIPE, overrides=overrides), RECIPE))
    backend = Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    store = LocalStore(tmp_path / "out")
    claim(run, store, environment(backend))
    record = run_shard(run, backend, run.plan.shard(0), store)
    images = {sample.meta.key: sample for sample in read_tar(tmp_path / "out" / record.tar.path)}
    assert len(images) == 4
    for key in (key for key in images if key.endswith("v0")):
        variant, twin = images[key], images[key.replace("v0", "h")]
        assert variant.image.shape == variant.anatomy.shape == variant.pathology.shape == (SIDE, SIDE)
        assert variant.meta.image_size == (SIDE, SIDE)
        assert all(edge % FACTOR == 0 for edge in variant.meta.findings[0].box_xyxy)
        apart = variant.image != twin.image
        assert apart.any()
        assert not apart[variant.pathology == 0].any()
        assert 10 < np.mean(twin.image) < 245
    sheet = Image.open(io.BytesIO(sheet_png(images.values(), title="sizes")))
    assert sheet.width > SIDE
