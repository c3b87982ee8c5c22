"""Compares this project's converter and sampler with arrays that the reference's own modules computed.

`python tests/golden/check.py DIR` for a folder with backbone.safetensors, anatomy_controller.safetensors,
config.json and vectors.npz. Prints every array's relative error, max |ours - theirs| / max |theirs|, and a
last line with the worst; exits 0 only if all are there and within the tolerance.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.xreal import (
    TOKEN_ROWS,
    convert_text,
    convert_unet,
    convert_vae,
    split_backbone,
)
from xreal_synth.models.load import LoadedBundle, alphas_from
from xreal_synth.models.text_encoder import TextEncoder, TextShape
from xreal_synth.sampling.controlled import (
    Guide,
    Rule,
    anatomy_stage,
    decode_scaled,
    pathology_from_noise,
)
from xreal_synth.sampling.noise import BatchNoise, NoiseKey, RecordedNoise
from xreal_synth.sampling.schedule import make_schedule

TOLERANCE = 1e-4
EXPECTED = (
    "soft_mask_latent", "x_hat", "text_empty", "text_label", "z_hat", "z_anatomy", "x_anatomy",
    "z_anatomy_reencoded", "z_pathology", "x_pathology",
)  # fmt: skip
INPUTS = ("organ_codes", "pathology_mask_latent", "token_ids_empty", "token_ids_label", "noise", "noise_kind")
PURPOSES = {"posterior": "posterior", "x_T": "x_T", "q_sample": "hold", "ddim": "step"}
SOFT = 0.2

Array = npt.NDArray[np.float32]


def load_model(folder: Path, config: dict) -> tuple[LoadedBundle, TextEncoder]:
    backbone = load_file(folder / "backbone.safetensors")
    parts = split_backbone(backbone)
    rows = backbone.get(TOKEN_ROWS)
    scheduler = {
        "num_train_timesteps": config["timesteps"], "beta_start": config["linear_start"],
        "beta_end": config["linear_end"], "beta_schedule": "scaled_linear",
    }  # fmt: skip
    side = config["image_size"] >> (len(config["vae"]["ch_mult"]) - 1)
    low, high = config["value_range"]
    model = LoadedBundle(
        vae=convert_vae(parts["vae"], config["vae"]),
        controller=convert_vae(load_file(folder / "anatomy_controller.safetensors"), config["vae"]),
        unet=convert_unet(parts["unet"], config["unet"]),
        embeddings={},
        alphas_cumprod=alphas_from(scheduler),
        prediction_type="epsilon",
        latent_shape=(config["vae"]["z_channels"], side, side),
        image_size=config["image_size"],
        channels=config["vae"]["in_channels"],
        value_range=(float(low), float(high)),
        scale_factor=config["scale_factor"],
        null_prompt="",
    )
    return model, convert_text(parts["text"], TextShape(**config["text"]), rows).eval()


@torch.inference_mode()
def compute(folder: Path, config: dict, vectors: dict[str, npt.NDArray]) -> dict[str, Array]:
    """The expected arrays, made anew from the recorded inputs and noise."""
    model, text = load_model(folder, config)
    empty = text(torch.from_numpy(vectors["token_ids_empty"]))
    label = text(torch.from_numpy(vectors["token_ids_label"]))
    draws = [draw[0] for draw in vectors["noise"]]
    recorded = RecordedNoise(draws, [PURPOSES[str(kind)] for kind in vectors["noise_kind"]])
    noise = BatchNoise(recorded, (NoiseKey(0, 0, 0),), model.latent_shape, model.device)
    schedule = make_schedule(model.alphas_cumprod, config["steps"], "reference")
    rule = Rule(schedule, "epsilon", eta=config.get("eta", 1.0))

    codes = torch.from_numpy(vectors["organ_codes"])[None]
    a = anatomy_stage(model, codes, Guide(empty), rule, noise, hold_steps=config["hold_steps"], soft=SOFT)
    x_a = decode_scaled(model, a.states[-1])
    m_p = torch.from_numpy(vectors["pathology_mask_latent"]).float().reshape(1, 1, *model.latent_shape[1:])
    z0, states = pathology_from_noise(model, x_a, m_p, Guide(label, empty, config["guidance"]), rule, noise)
    if recorded.left:
        raise ValueError(f"{recorded.left} recorded noise draws were not used")
    found: dict[str, Tensor] = {
        "soft_mask_latent": a.mask[0], "x_hat": a.x_hat, "text_empty": empty, "text_label": label,
        "z_hat": a.z_hat, "z_anatomy": a.states[-1], "x_anatomy": x_a, "z_anatomy_reencoded": z0,
        "z_pathology": states[-1], "x_pathology": decode_scaled(model, states[-1]),
    }  # fmt: skip
    return {name: value.numpy() for name, value in found.items()}


def check(folder: Path) -> dict[str, float]:
    """Relative error of every expected array; infinite where one is missing or has another shape."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with np.load(folder / "vectors.npz", allow_pickle=False) as file:
        vectors = {name: file[name] for name in file.files}
    missing = [name for name in INPUTS if name not in vectors]
    if missing:
        raise ValueError(f"vectors.npz has no {', '.join(missing)}")
    found = compute(folder, config, vectors)
    return {name: relative_error(found[name], vectors.get(name)) for name in EXPECTED}


def relative_error(ours: Array, theirs: npt.NDArray | None) -> float:
    """max |ours - theirs| / max |theirs|; the soft mask's single channel is compared with each of theirs."""
    if theirs is None or ours.ndim != theirs.ndim or ours.shape[1:] != theirs.shape[1:]:
        return float("inf")
    if ours.shape[0] not in (1, theirs.shape[0]):
        return float("inf")
    scale = float(np.abs(theirs).max())
    error = float(np.abs(ours.astype(np.float64) - theirs).max())
    if not np.isfinite(error):
        return float("inf")
    return error / scale if scale else (0.0 if error == 0 else float("inf"))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__)
        return 2
    try:
        errors = check(Path(arguments[0]))
    except (OSError, ValueError, KeyError, ConversionError) as error:
        print(f"cannot compare: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for name, error in errors.items():
        print(f"{name:22s} {error:.3e}  {'ok' if error <= TOLERANCE else 'WRONG'}")
    name = max(errors, key=lambda key: errors[key])
    print(f"worst {name} {errors[name]:.3e} (tolerance {TOLERANCE:.0e})")
    return 0 if errors[name] <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
