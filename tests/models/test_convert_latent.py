"""`xreal-synth convert xreal | cheff` on small checkpoints saved as the publishers save theirs."""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ldm_layouts import unet_layout
from safetensors.torch import load_file
from torch import Tensor

from xreal_synth.errors import BundleError
from xreal_synth.models.convert.ldm import TOKEN_ROWS
from xreal_synth.models.describe import describe, prompt_for, verify_files
from xreal_synth.models.load import load_bundle

GOLDEN = Path(__file__).parent.parent / "golden" / "xreal-tiny"
CONFIG: dict[str, Any] = json.loads((GOLDEN / "config.json").read_text())
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def backbone() -> dict[str, Tensor]:
    """The golden backbone with every word, the schedule, averages and word prediction, as a training saves."""
    state = load_file(GOLDEN / "backbone.safetensors")
    rows = state.pop(TOKEN_ROWS)
    words = "cond_stage_model.transformer.token_emb.weight"
    full = torch.zeros(CONFIG["text"]["num_tokens"], CONFIG["text"]["dim"])
    full[rows] = state[words].float()
    state[words] = full
    unet = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.diffusion_model.")}
    state |= {f"model_ema.{key.replace('.', '')}": value + 1 for key, value in unet.items()}
    state["model_ema.decay"] = torch.tensor(0.9999)
    roots = CONFIG["linear_start"] ** 0.5, CONFIG["linear_end"] ** 0.5
    state["betas"] = (torch.linspace(*roots, 1000, dtype=torch.float64) ** 2).float()
    state["cond_stage_model.transformer.to_logits.bias"] = torch.zeros(4)
    return state


class Files:
    """A folder with the publisher's files, and a vocabulary in which the recorded ids are the label's."""

    def __init__(self, folder: Path, backbone: dict[str, Tensor]) -> None:
        self.folder = folder
        self.state = dict(backbone)
        self.extras: dict[str, Any] = {
            "epoch": 3, "global_step": 10, "pytorch-lightning_version": "1.6.5", "optimizer_states": [{}],
            "callbacks": {"ModelCheckpoint": {"best": np.float64(0.1)}}, "loops": defaultdict(list, fit=[1]),
            "hyper_parameters": argparse.Namespace(lr=1e-4),
        }  # fmt: skip
        self.save()
        controller = load_file(GOLDEN / "anatomy_controller.safetensors")
        controller["loss.logvar"] = torch.zeros(1)
        torch.save({"state_dict": controller}, folder / "controller.pth")
        stage = self.first_stage()
        torch.save({"state_dict": stage}, folder / "ae.pth")
        (folder / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
        (folder / "config.yaml").write_text(yaml.safe_dump(training_yaml()))

    def save(self) -> None:
        torch.save({"state_dict": self.state, **self.extras}, self.folder / "backbone.pth")

    def first_stage(self) -> dict[str, Tensor]:
        head = "first_stage_model."
        return {k.removeprefix(head): v for k, v in self.state.items() if k.startswith(head)}


def vocabulary() -> list[str]:
    """30522 words; the pieces of the golden label stand at the ids that the reference's tokenizer gave."""
    with np.load(GOLDEN / "vectors.npz") as file:
        ids = [int(i) for i in file["token_ids_label"].ravel() if i not in (0, 101, 102)]
    words = [f"[unused{at}]" for at in range(CONFIG["text"]["num_tokens"])]
    for at, name in ((0, "[PAD]"), (100, "[UNK]"), (101, "[CLS]"), (102, "[SEP]"), (103, "[MASK]")):
        words[at] = name
    for at, letter in enumerate("abcdefghijklmnopqrstuvwxyz."):
        words[200 + at], words[300 + at] = letter, f"##{letter}"
    label, cut = CONFIG["label"].lower(), -(-len(CONFIG["label"]) // len(ids))
    for at, index in enumerate(ids):
        words[index] = ("##" if at else "") + label[at * cut : (at + 1) * cut]
    return words


def training_yaml() -> dict[str, Any]:
    """The golden architecture as a latent-diffusion training YAML says it."""
    text = {"n_embed": CONFIG["text"]["dim"], "n_layer": CONFIG["text"]["depth"]}
    params = {
        "linear_start": CONFIG["linear_start"], "linear_end": CONFIG["linear_end"], "timesteps": 1000,
        "scale_factor": CONFIG["scale_factor"], "unet_config": {"params": CONFIG["unet"]},
        "first_stage_config": {"params": {"embed_dim": 3, "ddconfig": CONFIG["vae"]}},
        "cond_stage_config": {"params": text},
    }  # fmt: skip
    return {"model": {"params": params}}


@pytest.fixture
def files(tmp_path: Path, backbone: dict[str, Tensor]) -> Files:
    return Files(tmp_path, backbone)


XREAL = (
    "convert", "xreal", "--backbone", "backbone.pth", "--ae", "ae.pth", "--controller", "controller.pth",
    "--vocab", "vocab.txt", "--config", "config.yaml",
)  # fmt: skip


def test_the_three_files_become_a_bundle(files: Files, run: Run) -> None:
    code, said = run(*XREAL, "out", "--name", "my-xreal")
    assert code == 0, said
    assert "ae.pth is not used" in said
    info = describe("out")
    verify_files(info)
    assert (info.name, info.image_size, info.latent_shape) == ("my-xreal", 128, (3, 32, 32))
    assert (info.value_range, info.channels, info.scale_factor) == ((0.0, 1.0), 3, 0.18215)
    assert info.licence.startswith("CC-BY-NC-4.0; anatomy_bank")
    assert "MIMIC" in info.use_restriction
    assert info.defaults.mode == "reference"
    assert {"anatomy_controller", "anatomy_bank", "unet", "vae"} <= set(info.parts)
    assert prompt_for(info, ["Effusion"]) == "Pleural Effusion"
    assert prompt_for(info, ["Effusion", "Cardiomegaly"]) == "Cardiomegaly Pleural Effusion"
    with np.load(GOLDEN / "vectors.npz") as recorded:
        model = load_bundle(info)
        for name, prompt in (("text_label", CONFIG["label"]), ("text_empty", "")):
            np.testing.assert_allclose(model.embed([prompt]), recorded[name], atol=1e-4)
    assert not [path for path in files.folder.iterdir() if path.name.startswith(".tmp")]


def test_options_change_what_they_say(files: Files, run: Run) -> None:
    prompts = {"healthy": "No finding", "findings": {"Edema": "Edema"}, "more": ["a mild edema"]}
    (files.folder / "prompts.yaml").write_text(yaml.safe_dump(prompts))
    options = ("--ema", "--dtype", "fp16", "--bank", "none", "--prompts", "prompts.yaml", "--licence", "mine")
    code, said = run(*XREAL, "out", *options, "--keep-text-encoder")
    assert code == 0, said
    info = describe("out")
    assert info.known_prompts == {"", "No finding", "Edema", "a mild edema"}
    assert (info.licence, info.healthy_prompt) == ("mine", "No finding")
    assert "anatomy_bank" not in info.parts
    assert {"text_encoder", "tokenizer"} <= set(info.parts)
    weights = load_file(files.folder / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    plain = files.state["model.diffusion_model.out.2.bias"].float()
    torch.testing.assert_close(weights["conv_out.bias"].float(), plain + 1, rtol=1e-3, atol=1e-3)


def test_the_first_stage_comes_from_the_backbone_or_from_its_own_file(files: Files, run: Run) -> None:
    files.state = {k: v for k, v in files.state.items() if not k.startswith("first_stage_model.")}
    files.save()
    code, said = run(*XREAL, "out")
    assert code == 0, said
    without = [part for part in XREAL if part not in ("--ae", "ae.pth")]
    code, said = run(*without, "other")
    assert code == 2
    assert "no first stage" in said
    assert "--ae" in said


def test_cheff_has_its_own_range_and_no_controller(files: Files, run: Run) -> None:
    code, said = run(
        "convert", "cheff", "--t2i", "backbone.pth", "--vocab", "vocab.txt", "--config", "config.yaml", "out"
    )
    assert code == 0, said
    assert "no Anatomy Controller" in said
    info = describe("out")
    assert (info.value_range, info.licence.split(";")[0]) == ((-1.0, 1.0), "MIT")
    assert "anatomy_controller" not in info.parts
    assert load_bundle(info).value_range == (-1.0, 1.0)


def test_cheff_without_prompts_makes_images_without_findings(files: Files, run: Run) -> None:
    params = training_yaml()["model"]["params"]
    unet = {
        "in_channels": 3, "out_channels": 3, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1,
        "attention_resolutions": [2], "num_head_channels": 16,
    }  # fmt: skip
    params |= {"unet_config": {"params": unet}, "cond_stage_config": "__is_unconditional__"}
    (files.folder / "config.yaml").write_text(yaml.safe_dump({"model": {"params": params}}))
    generator = torch.Generator().manual_seed(0)
    shapes = {f"model.diffusion_model.{key}": shape for key, shape in unet_layout(unet).items()}
    files.state = {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}
    files.save()
    code, said = run("convert", "cheff", "--uncond", "backbone.pth", "--ae", "ae.pth", "--config", "config.yaml", "out")
    assert code == 0, said
    info = describe("out")
    assert (info.prompts, info.known_prompts, info.healthy_prompt) == ({}, {""}, "")
    with pytest.raises(BundleError, match="cannot make Edema"):
        prompt_for(info, ["Edema"])
    model = load_bundle(info)
    z = torch.randn(2, 3, 32, 32, generator=generator)
    out = model.denoise(z, torch.tensor([3, 900]), model.embed(["", ""]))
    assert out.shape == z.shape
    assert not torch.equal(out[0], out[1])


def edit(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Files], None]:
    def break_it(files: Files) -> None:
        change(files.state)
        files.save()

    return break_it


def cut_short(files: Files) -> None:
    path = files.folder / "backbone.pth"
    os.truncate(path, path.stat().st_size // 2)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def hide_code(files: Files) -> None:
    files.extras["optimizer_states"] = [Code()]
    files.save()


def hide_code_in_an_old_pickle(files: Files) -> None:
    state = {"state_dict": {"a": torch.zeros(1)}, "epoch": Code()}
    torch.save(state, files.folder / "backbone.pth", _use_new_zipfile_serialization=False)


def unknown_entry(files: Files) -> None:
    files.extras["surprise"] = 1
    files.save()


OUT_BIAS = "model.diffusion_model.out.2.bias"
BROKEN: dict[str, tuple[Callable[[Files], object], str]] = {
    "renamed key": (edit(lambda s: s.update({f"{OUT_BIAS}es": s.pop(OUT_BIAS)})), "out.2.biases"),
    "truncated": (cut_short, "cut short"),
    "code": (hide_code, "posix.system"),
    "code, old format": (hide_code_in_an_old_pickle, "posix.system"),
    "unknown entry": (unknown_entry, "--ignore surprise"),
    "no denoiser": (edit(lambda s: [s.pop(k) for k in list(s) if "diffusion_model" in k]), "no denoiser"),
    "no text encoder": (edit(lambda s: [s.pop(k) for k in list(s) if "cond_stage" in k]), "text encoder"),
    "another layout": (edit(lambda s: s.update({"unet.conv_in.weight": torch.zeros(1)})), "unet.conv_in"),
    "other betas": (edit(lambda s: s.update({"betas": s["betas"] * 2})), "betas"),
    "other scale": (edit(lambda s: s.update({"scale_factor": torch.tensor(0.3)})), "scale_factor of 0.3"),
    "no number": (edit(lambda s: s.update({OUT_BIAS: torch.tensor([float("nan")] * 3)})), "no number"),
    "web page": (lambda f: (f.folder / "backbone.pth").write_text("<!DOCTYPE html><html>"), "web page"),
    "git lfs": (lambda f: (f.folder / "backbone.pth").write_text("version https://git-lfs."), "Git LFS"),
    "no autoencoder": (lambda f: (f.folder / "ae.pth").unlink(), "ae.pth: no such file"),
    "no file": (lambda f: (f.folder / "backbone.pth").unlink(), "no such file"),
    "list": (lambda f: torch.save([1], f.folder / "backbone.pth"), "a list"),
    "short vocabulary": (lambda f: (f.folder / "vocab.txt").write_text("[PAD]\n"), "1 word pieces"),
    "place taken": (lambda f: (f.folder / "out").mkdir(), "already there"),
    "bad yaml": (lambda f: (f.folder / "config.yaml").write_text("model: {params: {}}"), "unet_config"),
    "x0": (
        lambda f: (f.folder / "config.yaml").write_text(
            yaml.safe_dump({"model": {"params": training_yaml()["model"]["params"] | {"parameterization": "x0"}}})
        ),
        "parameterization 'x0'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_and_nothing_is_written(case: str, files: Files, run: Run) -> None:
    breaks, named = BROKEN[case]
    breaks(files)
    before = sorted(files.folder.iterdir())
    code, said = run(*XREAL, "out")
    assert code == 2, said
    assert named in said
    assert "wanted:" in said
    assert "Traceback" not in said
    assert sorted(files.folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([*XREAL[:8], *XREAL[10:], "out"], "--vocab"),
        ([*XREAL, "out", "--name", "No Slug"], "No Slug"),
        ([*XREAL, "out", "--prompts", "config.yaml"], "model"),
        (["convert", "cheff", "--config", "config.yaml", "out"], "one of --t2i"),
        (["convert", "cheff", "--uncond", "backbone.pth", "out"], "without a place"),
        (["convert", "cheff", "--uncond", "backbone.pth", "--prompts", "table.yaml", "out"], "prompts for Edema"),
        (["convert", "cheff", "--bundle", "xreal-tiny", "out"], "--bundle without --upscaler"),
        (["convert", "cheff", "--bundle", "xreal-tiny", "--upscaler", "ae.pth", "--ema", "out"], "--ema with --bundle"),
        ([*XREAL, "out", "--bank", "nowhere"], "no bundle 'nowhere'"),
    ],
)
def test_what_was_mistyped_is_named(arguments: list[str], named: str, files: Files, run: Run) -> None:
    (files.folder / "table.yaml").write_text("findings: {Edema: Edema}")
    before = sorted(files.folder.iterdir())
    code, said = run(*arguments)
    assert code == 2, said
    assert named in said
    assert sorted(files.folder.iterdir()) == before


def test_an_entry_beside_the_weights_can_be_waved_through(files: Files, run: Run) -> None:
    unknown_entry(files)
    code, said = run(*XREAL, "out", "--ignore", "surprise")
    assert code == 0, said
