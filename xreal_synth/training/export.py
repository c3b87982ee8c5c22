"""Write a bundle's network parts from finished runs: fp16 safetensors in diffusers' folder layout.

`python -m xreal_synth.training.export --autoencoder DIR --controller DIR --denoiser DIR --controlnet DIR
--segmenter DIR --classifier DIR --locator DIR OUT`
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from xreal_synth.errors import TrainingError, XrealError
from xreal_synth.models.load import NETWORKS
from xreal_synth.models.networks.label_tokens import LabelTokens
from xreal_synth.models.networks.mask_controller import MaskController
from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.opening import parse_json

NULL_KEY = "<null>"
PATCH_TRANSFORM = ("basis", "offset", "gain")
EMBEDDINGS = "label_embeddings.safetensors"


def export_parts(
    out: Path,
    *,
    autoencoder: Path | None = None,
    controller: Path | None = None,
    denoiser: Path | None = None,
    controlnet: Path | None = None,
    segmenter: Path | None = None,
    classifier: Path | None = None,
    locator: Path | None = None,
    weights: str = "network",
) -> list[str]:
    """Write the parts whose run folders are given into `out`; returns the names written.

    `weights` is `network` (last) or `best` (least validation loss). A part is replaced as a whole. A controller
    exported together with an autoencoder gets its decoder, so that a retrained decoder serves both. A locator is a
    run of a classifier with places, for evaluators; no bundle holds one.
    """
    out.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    for run, part, *name in (
        (autoencoder, "vae"),
        (controller, "anatomy_controller"),
        (denoiser, "unet"),
        (controlnet, "controlnet"),
        (segmenter, "segmenter"),
        (classifier, "classifier"),
        (locator, "classifier", "locator"),
    ):
        if run is not None:
            folder = run / weights / part
            network = load_part(_kind_of(part, folder), folder)
            if isinstance(network, MaskController) and autoencoder is not None:
                share_first_stage(network, load_part(PatchAutoencoder, autoencoder / weights / "vae"))
            written.append(name[0] if name else part)
            _write_half(network, out / written[-1])
    if denoiser is not None:
        _copy_folder(denoiser / weights / "scheduler", out / "scheduler")
        _write_embeddings(denoiser / weights / "tokens", out / EMBEDDINGS)
        written += ["scheduler", EMBEDDINGS]
    return written


def load_part(kind: Any, folder: Path) -> Any:
    """A network from its diffusers folder, with an error that names the folder. Raises TrainingError."""
    try:
        return kind.from_pretrained(folder, low_cpu_mem_usage=False)
    except (OSError, ValueError) as error:
        raise TrainingError(
            found=f"{folder}: {error}",
            wanted=f"a trained {kind.__name__}",
            hint="give the --out folder of its run",
        ) from error


def _kind_of(part: str, folder: Path) -> Any:
    """The class that a part's config.json names, out of those that bundles may hold."""
    kinds = NETWORKS[part]
    try:
        name = parse_json((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
        return kinds[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            found=f"{folder / 'config.json'}: {error}",
            wanted=f"a trained {' or '.join(kinds)}",
            hint="give the --out folder of its run",
        ) from error


def share_first_stage(controller: MaskController, autoencoder: PatchAutoencoder) -> None:
    """Give the controller this autoencoder's decoder; both must stand on the same patch transform.

    Raises TrainingError.
    """
    own = controller.first_stage
    same = all(torch.equal(getattr(own, name), getattr(autoencoder, name)) for name in PATCH_TRANSFORM)
    shapes = [{k: v.shape for k, v in part.state_dict().items()} for part in (own, autoencoder)]
    if not same or shapes[0] != shapes[1]:
        raise TrainingError(
            found="the controller was trained on another autoencoder's latents",
            wanted="the same patch transform and decoder shape in both",
            hint="train the controller with model.autoencoder set to this autoencoder",
        )
    own.load_state_dict(autoencoder.state_dict())


def _write_half(network: Any, target: Path) -> None:
    network = network.half()
    temporary = target.with_name(f".new-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    network.save_pretrained(temporary)
    config = temporary / "config.json"
    record = parse_json(config.read_text(encoding="utf-8"))
    record.pop("_name_or_path", None)
    config.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _replace_folder(temporary, target)


def _write_embeddings(source: Path, target: Path) -> None:
    tokens: LabelTokens = load_part(LabelTokens, source)
    table = {
        prompt or NULL_KEY: value.to(torch.float16).contiguous() for prompt, value in tokens.table().items()
    }
    temporary = target.with_name(f".new-{target.name}")
    save_file(table, temporary, metadata={"labels": ", ".join([*tokens.findings, "No Finding"])})
    os.replace(temporary, target)


def _copy_folder(source: Path, target: Path) -> None:
    temporary = target.with_name(f".new-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    _replace_folder(temporary, target)


def _replace_folder(temporary: Path, target: Path) -> None:
    former = target.with_name(f".old-{target.name}")
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        os.replace(target, former)
    os.replace(temporary, target)
    shutil.rmtree(former, ignore_errors=True)


def main() -> int:
    """The command: writes network parts of finished runs; 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m xreal_synth.training.export", description=__doc__)
    for name in ("autoencoder", "controller", "denoiser", "controlnet", "segmenter", "classifier", "locator"):
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"--out folder of the {name}'s run")
    parser.add_argument("--weights", choices=["network", "best"], default="network")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    try:
        written = export_parts(
            given.out,
            autoencoder=given.autoencoder,
            controller=given.controller,
            denoiser=given.denoiser,
            controlnet=given.controlnet,
            segmenter=given.segmenter,
            classifier=given.classifier,
            locator=given.locator,
            weights=given.weights,
        )
    except XrealError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.out}: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
