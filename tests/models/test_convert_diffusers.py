"""`xreal-synth convert diffusers` on a tiny Stable-Diffusion pipeline that diffusers itself saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from xreal_synth.dataset.tar import read_tar
from xreal_synth.models.describe import describe, prompt_for, verify_files
from xreal_synth.models.load import load_bundle

pytest.importorskip("transformers")

Run = Callable[..., tuple[int, str]]
SIZE, TOKENS, WIDTH = 96, 24, 32


def write_vocabulary(folder: Path) -> list[str]:
    """CLIP's two files with letters alone."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return words


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """96-px images of one channel, f = 8, 4 latent channels, v-prediction, squared-cosine betas."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    words = write_vocabulary(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=TOKENS, bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1, pad_token_id=len(words) - 1,
    )  # fmt: skip
    vae = AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=4, block_out_channels=(8, 8, 8, 8), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1, sample_size=SIZE, scaling_factor=0.31,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=SIZE // 8, in_channels=4, out_channels=4, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=1, attention_head_dim=2,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=WIDTH,
    )  # fmt: skip
    scheduler = PNDMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", skip_prk_steps=True, steps_offset=1
    )
    return StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text).eval(), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def saved(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "sd"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def source(saved: Path, tmp_path: Path) -> Path:
    """A copy to convert, or to break."""
    return Path(shutil.copytree(saved, tmp_path / "sd"))


CONVERT = ("convert", "diffusers", "sd", "out", "--licence", "CC0-1.0", "--prompts", "prompts.yaml")


@pytest.fixture
def prompts(tmp_path: Path) -> None:
    table = {"healthy": "clear", "findings": {"Pneumonia": "opacity", "Edema": "edema"}, "combine": 2}
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(table, sort_keys=False))


def test_the_folder_becomes_a_bundle_of_its_own_size(source: Path, prompts: None, run: Run, pipeline: Any) -> None:
    code, said = run(*CONVERT)
    assert code == 0, said
    info = describe("out")
    verify_files(info)
    assert (info.image_size, info.latent_shape, info.channels) == (SIZE, (4, 12, 12), 1)
    assert (info.value_range, info.scale_factor, info.factor) == ((-1.0, 1.0), 0.31, 8)
    assert prompt_for(info, ["Edema", "Pneumonia"]) == "opacity edema"

    model = load_bundle(info)
    assert model.prediction_type == "v_prediction"
    torch.testing.assert_close(model.alphas_cumprod.float(), pipeline.scheduler.alphas_cumprod)
    expected, null = pipeline.encode_prompt("opacity edema", "cpu", 1, do_classifier_free_guidance=True)
    torch.testing.assert_close(model.embed(["opacity edema"]), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.embed([info.null_prompt]), null, rtol=0, atol=1e-6)
    z = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([10, 700])
    with torch.inference_mode():
        eps = pipeline.unet(z, t, expected.expand(2, -1, -1)).sample
        image = pipeline.vae.decode(z).sample
    torch.testing.assert_close(model.denoise(z, t, model.embed(["opacity edema"] * 2)), eps)
    torch.testing.assert_close(model.decode(z), image)


RECIPE = """
version: 1
name: sd
anatomies: 2
bundle: out
findings: [{weight: 1, labels: [{name: Pneumonia}]}]
pairs: {twin: true}
sampling: {control: none, steps: 4, guidance: 2.0}
output: {uri: images, shard_samples: 2}
compute: {actors: 1, micro_batch: 2, precision: fp32}
"""


@pytest.mark.ray
def test_it_generates_at_its_own_size(source: Path, prompts: None, run: Run, joined_ray: Any, tmp_path: Path) -> None:
    assert run(*CONVERT)[0] == 0
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    code, said = run("generate", "recipe.yaml", "--address", joined_ray.address)
    assert code == 0, said
    images = list(read_tar(tmp_path / "images" / "shards" / "sd-000000.tar"))
    assert [sample.meta.key[-1] for sample in images] == ["h", "0", "h", "0"]
    assert {sample.image.shape for sample in images} == {(SIZE, SIZE)}
    assert {sample.meta.prompt for sample in images} == {"clear", "opacity"}
    assert run("verify", "images")[0] == 0


def test_pickles_halves_and_old_names_of_attention(source: Path, prompts: None, run: Run, pipeline: Any) -> None:
    """As folders of 2022 are: .bin files, `query` and `proj_attn`, positions among the text encoder's weights,
    a tokenizer of two files."""
    (source / "tokenizer" / "tokenizer.json").unlink()
    write_vocabulary(source / "tokenizer")
    for part, stem in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")):
        state = load_file(source / part / f"{stem}.safetensors")
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if part == "vae":
                state = {key.replace(f"0.{new}.", f"0.{old}."): value for key, value in state.items()}
        torch.save({key: value.half() for key, value in state.items()}, source / part / f"{stem}.bin")
        (source / part / f"{stem}.safetensors").unlink()
    state = load_file(source / "text_encoder" / "model.safetensors")
    state = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in state.items()}
    state["text_model.embeddings.position_ids"] = torch.arange(TOKENS)[None]
    torch.save(state, source / "text_encoder" / "pytorch_model.bin")
    (source / "text_encoder" / "model.safetensors").unlink()
    code, said = run(*CONVERT)
    assert code == 0, said
    expected, _ = pipeline.encode_prompt("opacity", "cpu", 1, do_classifier_free_guidance=False)
    found = load_bundle(describe("out")).embed(["opacity"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def set_config(source: Path, part: str, **changes: object) -> None:
    path = next((source / part).glob("*config.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rename(source: Path) -> None:
    path = source / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["conv_inn.weight"] = state.pop("conv_in.weight")
    save_file(state, path)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no part": (lambda s: shutil.rmtree(s / "vae"), "no vae"),
    "no weights": (lambda s: (s / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "as .bin"),
    "renamed key": (rename, "conv_inn.weight"),
    "xl": (lambda s: (s / "text_encoder_2").mkdir(), "second text encoder"),
    "sd3": (lambda s: (s / "transformer").mkdir(), "transformer"),
    "inpainting": (lambda s: set_config(s, "unet", in_channels=9), "[8, 4, 3, 3] where [8, 9, 3, 3]"),
    "another class": (lambda s: set_config(s, "unet", _class_name="UNet3D"), "_class_name 'UNet3D'"),
    "class labels": (lambda s: set_config(s, "unet", class_embed_type="timestep"), "class_embed_type"),
    "shifted latents": (lambda s: set_config(s, "vae", shift_factor=0.1), "shift_factor 0.1"),
    "sample": (lambda s: set_config(s, "scheduler", prediction_type="sample"), "prediction_type 'sample'"),
    "steps": (lambda s: set_config(s, "scheduler", num_train_timesteps=500), "num_train_timesteps 500"),
    "betas": (lambda s: set_config(s, "scheduler", beta_schedule="sigmoid"), "beta_schedule 'sigmoid'"),
    "pure noise": (
        lambda s: set_config(s, "scheduler", prediction_type="epsilon", rescale_betas_zero_snr=True),
        "pure noise",
    ),
    "text": (lambda s: set_config(s, "text_encoder", architectures=["RobertaModel"]), "RobertaModel"),
    "tokenizer": (lambda s: (s / "tokenizer" / "tokenizer.json").write_text("["), "cannot be read"),
    "no tokenizer": (lambda s: (s / "tokenizer" / "tokenizer.json").unlink(), "vocab.json and merges.txt"),
    "other words": (lambda s: set_config(s, "text_encoder", vocab_size=191), "[190, 32] where [191, 32]"),
    "no json": (lambda s: (s / "unet" / "config.json").write_text("{"), "cannot be read"),
    "long prompt": (
        lambda s: (s.parent / "prompts.yaml").write_text("healthy: no acute cardiopulmonary process at all"),
        "at most 24",
    ),
    "size": (lambda s: set_config(s, "unet", sample_size=[12, 16]), "--image-size"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_and_nothing_is_written(case: str, source: Path, prompts: None, run: Run) -> None:
    breaks, named = BROKEN[case]
    breaks(source)
    code, said = run(*CONVERT)
    assert code == 2, said
    assert named in said
    assert "Traceback" not in said
    assert not [path for path in source.parent.iterdir() if path.name.startswith((".tmp", "out"))]


def test_a_licence_is_asked_for(source: Path, prompts: None, run: Run) -> None:
    code, said = run("convert", "diffusers", "sd", "out")
    assert code == 2
    assert "--licence" in said


def test_other_sizes_are_taken_or_refused(source: Path, prompts: None, run: Run) -> None:
    code, said = run(*CONVERT, "--image-size", "64", "--bank", "none")
    assert code == 0, said
    assert (describe("out").image_size, describe("out").latent_shape) == (64, (4, 8, 8))
    code, said = run(*CONVERT[:3], "other", *CONVERT[4:], "--image-size", "72")
    assert code == 2
    assert "a multiple of 16" in said


def test_a_prompt_can_be_added(source: Path, prompts: None, run: Run, pipeline: Any) -> None:
    assert run(*CONVERT, "--keep-text-encoder")[0] == 0
    before = describe("out")
    code, said = run("bundle", "add-prompt", "out", "a large effusion", "--finding", "Effusion")
    assert code == 0, said
    info = describe("out")
    verify_files(info)
    assert info.content_hash != before.content_hash
    assert prompt_for(info, ["Effusion"]) == "a large effusion"
    expected, _ = pipeline.encode_prompt("a large effusion", "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(load_bundle(info).embed(["a large effusion"]), expected, rtol=0, atol=1e-6)


def test_a_prompt_needs_the_same_text_encoder(source: Path, prompts: None, run: Run) -> None:
    assert run(*CONVERT)[0] == 0
    code, said = run("bundle", "add-prompt", "out", "mass")
    assert code == 2
    assert "no text_encoder/" in said
    code, said = run("bundle", "add-prompt", "out", "mass", "--text-encoder", "sd", "--finding", "Mas")
    assert code == 2
    assert "no finding 'Mas'" in said
    path = source / "text_encoder" / "model.safetensors"
    save_file({key: value + 0.1 for key, value in load_file(path).items()}, path)
    code, said = run("bundle", "add-prompt", "out", "mass", "--text-encoder", "sd")
    assert code == 2
    assert "another text encoder" in said
    code, said = run("bundle", "add-prompt", "xreal-mini", "mass", "--text-encoder", "sd")
    assert code == 2
    assert "copy the folder" in said
