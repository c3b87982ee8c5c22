"""Compares this project's converter and sampler with arrays that the reference's own modules computed.

`python -m tests.golden.check [--bundle] [--batch N] DIR` for a folder with backbone.safetensors,
anatomy_controller.safetensors, config.json and vectors.npz. Prints every array's relative error,
max |ours - theirs| / max |theirs|, and a last line with the worst; exits 0 only if all are there and within
the tolerance. --bundle goes through a bundle: converted, written, loaded. --batch puts the recorded case into
every other row of a batch, among rows with noise of their own, and reports the worst row.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.doubles.recorded_noise import RecordedNoise
from xreal_synth.errors import ConversionError
from xreal_synth.models.convert.latent import LdmFiles, convert_latent
from xreal_synth.models.convert.ldm import TOKEN_ROWS, convert_text, convert_unet, convert_vae, split_ldm
from xreal_synth.models.convert.published import XREAL, LdmArchitecture
from xreal_synth.models.load import alphas_from, load_bundle
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.models.text.encoders import Cut, ldm_bert
from xreal_synth.models.text.ldm_bert import TextShape
from xreal_synth.models.text.prompts import PromptTable
from xreal_synth.sampling.controlled import Guide, Rule, anatomy_stage, decode_scaled, pathology_from_noise
from xreal_synth.sampling.noise import BatchNoise, NoiseKey, NoiseSource, philox
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


def load_model(folder: Path, config: dict, vectors: dict[str, npt.NDArray], device: str = "cpu") -> LoadedBundle:
    """The networks as converted, in memory; the prompts "" and the label are embedded."""
    backbone = load_file(folder / "backbone.safetensors")
    parts = split_ldm(backbone)
    shape = TextShape(**config["text"])
    encoder = convert_text(parts["text"], shape, backbone.get(TOKEN_ROWS))
    text = ldm_bert(encoder, shape, recorded_ids(config, vectors))
    architecture = architecture_of(config)
    info = SimpleNamespace(
        latent_shape=architecture.latent_shape, image_size=architecture.image_size,
        channels=config["vae"]["in_channels"], value_range=architecture.value_range,
        scale_factor=config["scale_factor"], null_prompt="", region_maps=(),
    )  # fmt: skip
    return LoadedBundle(
        info,
        vae=convert_vae(parts["vae"], config["vae"]),
        controller=convert_vae(load_file(folder / "anatomy_controller.safetensors"), config["vae"]),
        unet=convert_unet(parts["unet"], config["unet"]),
        embeddings={prompt: text.encode(prompt) for prompt in ("", config["label"])},
        alphas_cumprod=alphas_from(architecture.scheduler()),
        prediction_type="epsilon",
        device=device,
    )


def load_through_bundle(folder: Path, config: dict, vectors: dict[str, npt.NDArray]) -> LoadedBundle:
    """The same through a bundle in a temporary folder, written and loaded as the commands do."""
    with tempfile.TemporaryDirectory() as place:
        info = convert_latent(
            LdmFiles(
                folder / "backbone.safetensors", None, folder / "anatomy_controller.safetensors", ignore=(TOKEN_ROWS,)
            ),
            Path(place) / "bundle",
            replace(
                XREAL,
                name="golden",
                prompts=PromptTable(healthy="", findings={config["label"]: config["label"]}),
                sizes=architecture_of(config),
            ),
            cut=recorded_ids(config, vectors),
        )
        return load_bundle(info)


def architecture_of(config: dict) -> LdmArchitecture:
    low, high = config["value_range"]
    vae = {**config["vae"], "resolution": config["image_size"]}
    betas = (config["linear_start"], config["linear_end"])
    text = TextShape(**config["text"])
    return LdmArchitecture(config["unet"], vae, text, config["scale_factor"], betas, (float(low), float(high)))


def recorded_ids(config: dict, vectors: dict[str, npt.NDArray]) -> Cut:
    """The reference's own word pieces of the two prompts."""
    known = {"": vectors["token_ids_empty"], config["label"]: vectors["token_ids_label"]}
    return lambda text: known[text].ravel().tolist()


def row_noise(vectors: dict[str, npt.NDArray], rows: int) -> tuple[NoiseSource, list[RecordedNoise]]:
    """Recorded noise for the even rows (by their key's index), philox noise for the odd ones."""
    draws = [draw[0] for draw in vectors["noise"]]
    purposes = [PURPOSES[str(kind)] for kind in vectors["noise_kind"]]
    recorded = [RecordedNoise(draws, purposes) for _ in range(rows)]

    def source(shape, key: NoiseKey, purpose, step, repeat):
        of_row = philox if key.index % 2 else recorded[key.index]
        return of_row(shape, key, purpose, step, repeat)

    return source, recorded[::2]


@torch.inference_mode()
def compute(model: LoadedBundle, config: dict, vectors: dict[str, npt.NDArray], rows: int) -> dict[str, Array]:
    """The expected arrays of every even row [rows, ...], made anew from the recorded inputs and noise."""
    empty, label = model.embed([""] * rows), model.embed([config["label"]] * rows)
    source, recorded = row_noise(vectors, rows)
    keys = tuple(NoiseKey(0, row, 0) for row in range(rows))
    noise = BatchNoise(source, keys, model.latent_shape, model.device)
    schedule = make_schedule(model.alphas_cumprod, config["steps"], "reference")
    rule = Rule(schedule, "epsilon", eta=config.get("eta", 1.0))

    label_map = torch.from_numpy(vectors["organ_codes"])[None].expand(rows, -1, -1).to(model.device)
    a = anatomy_stage(model, label_map, Guide(empty), rule, noise, hold_steps=config["hold_steps"], soft=SOFT)
    x_a = decode_scaled(model, a.states[-1])
    m_p = torch.from_numpy(vectors["pathology_mask_latent"]).float().reshape(1, 1, *model.latent_shape[1:])
    m_p = m_p.expand(rows, -1, -1, -1).to(model.device)
    z0, states = pathology_from_noise(model, x_a, m_p, Guide(label, empty, config["guidance"]), rule, noise)
    left = sum(row.left for row in recorded)
    if left:
        raise ValueError(f"{left} recorded noise draws were not used")
    found: dict[str, Tensor] = {
        "soft_mask_latent": a.mask, "x_hat": a.x_hat, "text_empty": empty, "text_label": label,
        "z_hat": a.z_hat, "z_anatomy": a.states[-1], "x_anatomy": x_a, "z_anatomy_reencoded": z0,
        "z_pathology": states[-1], "x_pathology": decode_scaled(model, states[-1]),
    }  # fmt: skip
    return {name: value[::2].cpu().numpy() for name, value in found.items()}


def check(folder: Path, *, rows: int = 1, through_bundle: bool = False, device: str = "cpu") -> dict[str, float]:
    """Relative error of every expected array, the worst of the rows; infinite where one is missing or has
    another shape. A bundle is loaded on the CPU."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with np.load(folder / "vectors.npz", allow_pickle=False) as file:
        vectors = {name: file[name] for name in file.files}
    missing = [name for name in INPUTS if name not in vectors]
    if missing:
        raise ValueError(f"vectors.npz has no {', '.join(missing)}")
    if through_bundle:
        model = load_through_bundle(folder, config, vectors)
    else:
        model = load_model(folder, config, vectors, device)
    found = compute(model, config, vectors, rows)
    return {name: max(relative_error(row, vectors.get(name), name) for row in found[name]) for name in EXPECTED}


def relative_error(ours: Array, theirs: npt.NDArray | None, name: str) -> float:
    """max |ours - theirs| / max |theirs| of a row; the soft mask's one channel is compared with each of theirs."""
    if theirs is not None and name != "soft_mask_latent":
        ours = ours[None]
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
    parser = argparse.ArgumentParser(prog="python -m tests.golden.check", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--bundle", action="store_true")
    parser.add_argument("--batch", type=int, default=1, metavar="N")
    given = parser.parse_args(arguments)
    try:
        errors = check(given.folder, rows=given.batch, through_bundle=given.bundle)
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
