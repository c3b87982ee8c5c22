"""Bundles into memory: strict loading, and the seam that the sampler sees."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from xreal_synth.errors import BundleError
from xreal_synth.models.describe import describe
from xreal_synth.models.layers import resolve_precision
from xreal_synth.models.load import load_bundle
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.models.tiny import build_tiny

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def tiny() -> LoadedBundle:
    torch.set_num_threads(1)
    return load_bundle(describe("xreal-tiny"))


def rewrite(bundle: Path) -> None:
    write_bundle(bundle, read_fields(bundle / "bundle.json"))


def set_config(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_shapes_types_and_ranges(tiny: LoadedBundle) -> None:
    label_map = torch.randint(0, 5, (2, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rough = tiny.control(label_map)
    mean, std = tiny.encode(rough)
    image = tiny.decode(mean)
    tokens = tiny.embed(["No Finding", "Pneumonia Edema"])
    out = tiny.denoise(mean, torch.tensor([1, 999]), tokens)
    assert rough.shape == image.shape == (2, 1, 64, 64)
    assert mean.shape == std.shape == out.shape == (2, 3, 16, 16)
    assert {t.dtype for t in (rough, mean, std, image, out)} == {torch.float32}
    assert rough.min() >= 0
    assert rough.max() <= 1
    assert (std > 0).all()
    assert tiny.alphas_cumprod.shape == (1000,)


def test_every_input_of_the_denoiser_matters(tiny: LoadedBundle) -> None:
    z = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t, tokens = torch.tensor([500]), tiny.embed(["Edema"])
    base = tiny.denoise(z, t, tokens)
    assert not torch.equal(base, tiny.denoise(z + 0.1, t, tokens))
    assert not torch.equal(base, tiny.denoise(z, torch.tensor([501]), tokens))
    assert not torch.equal(base, tiny.denoise(z, t, tiny.embed([""])))


def test_bf16_is_close_and_keeps_float32_outside(tiny: LoadedBundle) -> None:
    half = load_bundle(describe("xreal-tiny"), precision="bf16")
    z = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t, names = torch.tensor([500, 500]), ["Edema", ""]
    ours, theirs = half.denoise(z, t, half.embed(names)), tiny.denoise(z, t, tiny.embed(names))
    assert ours.dtype == torch.float32
    assert (ours - theirs).abs().max() < 0.03 * theirs.abs().max()
    assert torch.equal(half.decode(z), tiny.decode(z))


def test_an_unknown_prompt(tiny: LoadedBundle) -> None:
    with pytest.raises(BundleError, match="no embedding for the prompt 'Mass'"):
        tiny.embed(["Edema", "Mass"])


def test_a_bundle_without_a_controller_loads_and_says_so_when_asked(bundle: Path) -> None:
    shutil.rmtree(bundle / "anatomy_controller")
    rewrite(bundle)
    model = load_bundle(describe(bundle))
    with pytest.raises(BundleError, match="no anatomy_controller") as caught:
        model.control(torch.zeros(1, 64, 64, dtype=torch.uint8))
    assert "anatomy.source: images" in caught.value.hint


def test_an_altered_file_is_not_loaded(bundle: Path) -> None:
    path = bundle / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="sha256"):
        load_bundle(describe(bundle))


@pytest.mark.parametrize("path", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_a_file_without_a_hash_is_not_read(path: str, bundle: Path) -> None:
    record = json.loads((bundle / "bundle.json").read_text())
    (bundle / "scheduler" / "note.json").write_text("{}")
    del record["files"][path]
    record["files"]["scheduler/note.json"] = {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    (bundle / "bundle.json").write_text(json.dumps(record))
    with pytest.raises(BundleError, match=f"does not list {path}"):
        load_bundle(describe(bundle))


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("unet", {"_class_name": "UNet3D"}, "_class_name 'UNet3D'"),
        ("vae", {"_class_name": "MaskController"}, "_class_name 'MaskController'"),
        ("vae", {"block_out_channels": [8, 16, 32]}, "do not belong together"),
        ("unet", {"in_channels": 4}, "do not belong together"),
        ("unet", {"block_out_channels": "x"}, "do not belong together"),
    ],
)
def test_a_wrong_network(part: str, changes: dict[str, object], words: str, bundle: Path) -> None:
    set_config(bundle / part / "config.json", **changes)
    rewrite(bundle)
    with pytest.raises(BundleError, match=words):
        load_bundle(describe(bundle))


@pytest.mark.parametrize("how", ["missing", "extra", "garbage"])
def test_wrong_weights(how: str, bundle: Path) -> None:
    path = bundle / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    if how == "missing":
        state.pop("conv_in.weight")
    elif how == "extra":
        state["more.weight"] = torch.zeros(1)
    save_file(state, path)
    if how == "garbage":
        path.write_bytes(b"\0" * 64)
    rewrite(bundle)
    words = "cannot be read" if how == "garbage" else "conv_in.weight|more.weight"
    with pytest.raises(BundleError, match=words):
        load_bundle(describe(bundle))


def test_a_scheduler_that_predicts_something_else(bundle: Path) -> None:
    set_config(bundle / "scheduler" / "scheduler_config.json", prediction_type="sample")
    rewrite(bundle)
    with pytest.raises(BundleError, match="prediction_type 'sample'"):
        load_bundle(describe(bundle))


def test_embeddings_of_another_width(bundle: Path) -> None:
    path = bundle / "label_embeddings.safetensors"
    save_file({name: value[:, :8].contiguous() for name, value in load_file(path).items()}, path)
    rewrite(bundle)
    with pytest.raises(BundleError, match="embeddings of shapes"):
        load_bundle(describe(bundle))


def test_the_tiny_bundle_follows_from_its_seed(tmp_path: Path) -> None:
    first, again, other = (build_tiny(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first.content_hash == again.content_hash != other.content_hash


def test_precision_auto_is_what_the_processor_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("fp32") == "fp32"
    assert resolve_precision("bf16") == "bf16"
    for found, wanted in (({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"avx2": True}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        assert resolve_precision("auto", "cpu") == wanted
