"""The bundle's ControlNet: read where it is asked for, refused where it does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel

from xreal_synth.errors import BundleError
from xreal_synth.models.describe import describe, require_control
from xreal_synth.models.load import load_bundle, load_network
from xreal_synth.models.networks.controls import HINT, build_controlnet, organ_hint
from xreal_synth.models.save import read_fields, write_bundle


def rewrite(bundle: Path) -> None:
    write_bundle(bundle, read_fields(bundle / "bundle.json"))


def set_config(bundle: Path, **changes: object) -> None:
    path = bundle / "controlnet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    rewrite(bundle)


def test_the_steered_denoiser_is_diffusers_own() -> None:
    torch.set_num_threads(1)
    info = describe("xreal-tiny")
    model = load_bundle(info, control="controlnet")
    generator = torch.Generator().manual_seed(0)
    z, t = torch.randn(2, 3, 16, 16, generator=generator), torch.tensor([40, 900])
    label_map = torch.randint(0, 5, (2, 64, 64), dtype=torch.uint8, generator=generator)
    tokens = model.embed(["Edema", "No Finding"])
    controlnet, unet = load_network(info, "controlnet").eval(), load_network(info, "unet").eval()
    assert isinstance(controlnet, ControlNetModel)
    assert (controlnet.config["_hint"], controlnet.config["conditioning_channels"]) == (HINT, 4)
    with torch.no_grad():
        down, middle = controlnet(z, t, tokens, organ_hint(label_map, 64), return_dict=False)
        wanted = unet(z, t, tokens, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample
    steered = model.denoise(z, t, tokens, model.hint(label_map))
    torch.testing.assert_close(steered, wanted)
    assert not torch.allclose(steered, model.denoise(z, t, tokens), atol=1e-3)
    half = load_bundle(info, precision="bf16", control="controlnet")
    ours = half.denoise(z, t, half.embed(["Edema", "No Finding"]), half.hint(label_map))
    assert ours.dtype == torch.float32
    assert (ours - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_it_is_read_only_where_it_is_asked_for(bundle: Path) -> None:
    set_config(bundle, _class_name="FluxControlNetModel")
    load_bundle(describe(bundle), control="none")
    with pytest.raises(BundleError, match="_class_name 'FluxControlNetModel'"):
        load_bundle(describe(bundle), control="controlnet")


def test_a_bundle_without_one_says_so(bundle: Path) -> None:
    shutil.rmtree(bundle / "controlnet")
    rewrite(bundle)
    info = describe(bundle)
    for control in ("xreal", "none"):
        require_control(info, control)
    with pytest.raises(BundleError, match="no controlnet/") as caught:
        load_bundle(info, control="controlnet")
    assert "anatomy_controller" in caught.value.wanted
    assert "train" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_hint": None}, "a hint of 4 channels of None"),
        ({"_hint": "edges"}, "a hint of 4 channels of edges"),
        ({"addition_embed_type": "text"}, "do not belong together"),
    ],
)
def test_another_ones_controlnet_is_refused(changes: dict[str, object], words: str, bundle: Path) -> None:
    set_config(bundle, **changes)
    with pytest.raises(BundleError, match=words):
        load_bundle(describe(bundle), control="controlnet")


def test_a_controlnet_of_another_denoiser_is_refused(bundle: Path) -> None:
    unet = load_network(describe("xreal-tiny"), "unet")
    other = type(unet).from_config({**unet.config, "layers_per_block": 2})
    build_controlnet(other, (4, 8, 8)).save_pretrained(bundle / "controlnet")
    rewrite(bundle)
    with pytest.raises(BundleError, match="layers_per_block 2, the denoiser has 1"):
        load_bundle(describe(bundle), control="controlnet")
