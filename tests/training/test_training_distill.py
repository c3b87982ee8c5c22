"""Guidance distilled into a bundle's prompts: nearer to the guided prediction, and nothing else is touched."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from tests.training.conftest import make_pair
from xreal_synth.errors import TrainingError
from xreal_synth.models.describe import BundleInfo, describe
from xreal_synth.models.load import load_bundle, read_embeddings
from xreal_synth.models.tiny import FINDINGS, build_tiny
from xreal_synth.training.config import load_config
from xreal_synth.training.distill import UNET
from xreal_synth.training.dry_run import dry_run
from xreal_synth.training.export import make_bundle
from xreal_synth.training.look import read_metrics
from xreal_synth.training.run import train

SIDE = 64
LABELS = ["Pneumonia", "Effusion|Atelectasis", "Cardiomegaly", "Edema", "Atelectasis", "No Finding"]
BOX = json.dumps([[name, 0.1, 0.2, 0.3, 0.4] for name in ("Pneumonia", "Effusion", "Atelectasis")])


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> BundleInfo:
    return build_tiny(tmp_path_factory.mktemp("mapped"), maps=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxed")
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "mask", "labels", "patient_id", "split", "boxes_xywh_norm"])
        for number in range(12):
            image, label_map = make_pair(number, SIDE)
            for name, pixels in (("image", image), ("mask", label_map)):
                Image.fromarray(pixels).save(folder / f"{name}{number}.png")
            labels = LABELS[number % 6]
            boxes = [one for one in json.loads(BOX) if one[0] in labels]
            split = "val" if number >= 8 else "train"
            rows.writerow([f"image{number}.png", f"mask{number}.png", labels, number, split, json.dumps(boxes)])
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    def write(info: BundleInfo, **loop: object) -> Path:
        tree = {
            "network": "distill-guidance",
            "data": {"image_size": SIDE, "findings": list(FINDINGS), "region_maps": list(info.region_maps)},
            "model": {"bundle": str(info.root)},
            "loop": {
                "steps": 40, "batch": 4, "lr": 0.1, "warmup_steps": 2, "precision": "fp32", "weight_decay": 0.0,
                "ema_decay": 0.5, "log_every": 1, "validate_every": 40, "preview_every": 40, **loop,
            },
        }  # fmt: skip
        path = tmp_path / "distill.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("kind", ["maps", "plain"])
def test_a_distilled_bundle_needs_one_evaluation_and_healthy_prompts_stay(
    kind: str, mapped: BundleInfo, images: Path, config: Callable[..., Path], tmp_path: Path
) -> None:
    base = mapped if kind == "maps" else describe("xreal-tiny")
    out = tmp_path / "run"
    assert train("distill-guidance", config(base), images, out, device="cpu").finished
    last = read_metrics(out)[-1]
    assert last["split"] == "val"
    assert float(last["loss"]) < 0.95 * float(last["undistilled"])
    assert (out / "samples" / "step-0000040.png").exists()

    made = make_bundle(tmp_path / "half", {"guidance": out}, {"name": "half"}, base=str(base.root))
    assert (made.defaults.guidance, made.defaults.guidance_floor) == (1.0, None)
    assert made.defaults.steps == base.defaults.steps
    before, after = read_embeddings(base), read_embeddings(made)
    assert before.keys() == after.keys()
    for prompt in (base.null_prompt, base.healthy_prompt):
        assert torch.equal(before[prompt], after[prompt])
    change = {prompt: after[prompt] - tokens for prompt, tokens in before.items()}
    assert change["Pneumonia"].abs().max() > 0.01
    assert torch.allclose(change["Effusion Atelectasis"], change["Effusion"] + change["Atelectasis"], atol=4e-3)

    old, new = (load_file(info.root / UNET) for info in (base, made))
    latents = base.latent_shape[0]
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    assert changed == (["conv_in.weight"] if kind == "maps" else [])
    assert torch.equal(old["conv_in.weight"][:, :latents], new["conv_in.weight"][:, :latents])
    z, t = torch.randn(1, *base.latent_shape, generator=torch.Generator().manual_seed(1)), torch.tensor([500])
    healthy = [
        model.denoise(z, t, model.embed([base.healthy_prompt])) for model in (load_bundle(base), load_bundle(made))
    ]
    assert torch.equal(*healthy), "images without a finding are the base's"


def test_a_stopped_run_goes_on_with_the_same_bits(
    mapped: BundleInfo, images: Path, config: Callable[..., Path], tmp_path: Path
) -> None:
    few = {"schedule": "constant", "validate_every": 100, "preview_every": 100}
    train("distill-guidance", config(mapped, steps=2, **few), images, tmp_path / "parts", device="cpu")
    train("distill-guidance", config(mapped, steps=4, **few), images, tmp_path / "parts", device="cpu")
    train("distill-guidance", config(mapped, steps=4, **few), images, tmp_path / "whole", device="cpu")
    parts, whole = (
        load_file(tmp_path / name / "network" / "label_embeddings.safetensors") for name in ("parts", "whole")
    )
    assert all(torch.equal(parts[prompt], whole[prompt]) for prompt in whole)


def test_a_batch_in_parts_gives_the_curve_of_the_whole(
    mapped: BundleInfo, images: Path, config: Callable[..., Path], tmp_path: Path
) -> None:
    curves = []
    for parts in (1, 3):
        path, out = config(mapped, steps=3, accumulate=parts, validate_every=9), tmp_path / str(parts)
        train("distill-guidance", path, images, out, device="cpu")
        curves.append([float(one["loss"]) for one in read_metrics(out) if one["split"] == "train"])
    assert len(curves[0]) == 3
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ('model.bundle=""', "no model.bundle"),
        ("data.image_size=32", "data.image_size 32"),
        ("data.findings=[Pneumonia, Mass]", "data.findings"),
        ("data.region_maps=[Edema]", "data.region_maps"),
    ],
)
def test_a_config_that_does_not_fit_its_bundle_is_refused(
    override: str, found: str, mapped: BundleInfo, images: Path, config: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError) as error:
        train("distill-guidance", config(mapped), images, tmp_path / "run", [override], "cpu")
    assert found in str(error.value)
    assert "--set" in str(error.value) or "leave them out" in str(error.value)


def test_only_guidance_of_a_whole_prediction_and_of_the_base_is_taken(
    mapped: BundleInfo, images: Path, config: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train("distill-guidance", config(mapped, steps=1, validate_every=9), images, run, device="cpu")
    for runs, base, found in (
        ({"guidance": run}, None, "--guidance without --base"),
        ({"guidance": run, "denoiser": run}, str(mapped.root), "--guidance with --denoiser"),
        ({"guidance": run}, "xreal-tiny", "the guidance of a bundle of content hash"),
        ({"guidance": tmp_path}, str(mapped.root), "--guidance"),
    ):
        with pytest.raises(TrainingError, match=found):
            make_bundle(tmp_path / "out", runs, {"name": "out"}, base=base)
        assert not (tmp_path / "out").exists()
    done = make_bundle(tmp_path / "done", {"guidance": run}, {"name": "done"}, base=str(mapped.root))
    with pytest.raises(TrainingError, match="has none"):
        train("distill-guidance", config(done), images, tmp_path / "again", device="cpu")


def test_its_sizes_are_its_bundle_s(mapped: BundleInfo, config: Callable[..., Path]) -> None:
    with pytest.raises(TrainingError, match="--dry-run of distill-guidance"):
        dry_run(load_config("distill-guidance", config(mapped)), config(mapped))
