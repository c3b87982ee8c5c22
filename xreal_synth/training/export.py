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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from xreal_synth.errors import TrainingError, XrealError, faults
from xreal_synth.findings import NO_FINDING
from xreal_synth.models.bundle_file import BUNDLE_FILE, EMBEDDINGS, NULL_KEY, BundleFields, Prompts
from xreal_synth.models.convert.assemble import new_folder, refuse_existing
from xreal_synth.models.describe import BANK, CONTROLLER, DETAIL, SHIPPED, BundleInfo, describe
from xreal_synth.models.load import NETWORKS, load_bundle
from xreal_synth.models.networks.conditioning import MAPS_KEY, LabelTokens
from xreal_synth.models.networks.controls import MaskController
from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.opening import parse_json
from xreal_synth.training.distill import take_distilled
from xreal_synth.training.first_stage import reading
from xreal_synth.training.fit_bank import fit_bank
from xreal_synth.training.fit_detail import fit_detail
from xreal_synth.training.session import new_version

PATCH_TRANSFORM = ("basis", "offset", "gain")
RUN = "give the --out folder of its run"
LIKE = "xreal-mini"
"""Whose sampling defaults a new bundle starts with."""

RESEARCH = "research only; not for diagnosis; images made with it are synthetic and must be marked as such"
DOCUMENTS = (".md", ".png")
PARTS = {
    "autoencoder": "vae",
    "controller": "anatomy_controller",
    "denoiser": "unet",
    "controlnet": "controlnet",
    "segmenter": "segmenter",
    "classifier": "classifier",
    "locator": "classifier",
}
"""Runs, and the part of a bundle that each trains; a locator is a classifier with places, for evaluators alone."""


def export_parts(out: Path, weights: str = "network", **runs: Path | None) -> list[str]:
    """Write the parts whose run folders are given, by the names of PARTS, into `out`; returns the names written.

    `weights` is `network` (last) or `best` (least validation loss). A part is replaced as a whole. A controller
    exported together with an autoencoder gets its decoder, so that a retrained decoder serves both.
    """
    out.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    autoencoder, denoiser = runs.get("autoencoder"), runs.get("denoiser")
    for name, part in PARTS.items():
        if (run := runs.get(name)) is not None:
            network = load_part(run / weights / part, NETWORKS[part])
            if isinstance(network, MaskController) and autoencoder is not None:
                vae = load_part(autoencoder / weights / "vae", {"PatchAutoencoder": PatchAutoencoder})
                share_first_stage(network, vae)
            written.append("locator" if name == "locator" else part)
            _write_half(network, out / written[-1])
    if denoiser is not None:
        with new_version(out / "scheduler") as folder:
            shutil.copytree(denoiser / weights / "scheduler", folder)
        _write_embeddings(denoiser / weights / "tokens", out / EMBEDDINGS)
        written += ["scheduler", EMBEDDINGS]
    return written


def load_part(folder: Path, kinds: Mapping[str, Any]) -> Any:
    """A network from its diffusers folder, of one of these classes, with an error that names the folder.

    Raises TrainingError.
    """
    name = str(part_config(folder, RUN).get("_class_name"))
    with reading(str(folder), f"a trained {' or '.join(kinds)}", RUN):
        if name not in kinds:
            raise ValueError(f"its config.json names a {name}")
        return kinds[name].from_pretrained(folder, low_cpu_mem_usage=False)


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
    with new_version(target) as folder:
        network.half().save_pretrained(folder)
        config = folder / "config.json"
        record = parse_json(config.read_text(encoding="utf-8"))
        record.pop("_name_or_path", None)
        config.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_embeddings(source: Path, target: Path) -> None:
    tokens: LabelTokens = load_part(source, {"LabelTokens": LabelTokens})
    table = {prompt or NULL_KEY: value.to(torch.float16).contiguous() for prompt, value in tokens.table().items()}
    temporary = target.with_name(f".new-{target.name}")
    save_file(table, temporary, metadata={"labels": ", ".join([*tokens.findings, "No Finding"])})
    os.replace(temporary, target)


def make_bundle(
    out: Path,
    runs: Mapping[str, Path | None],
    words: Mapping[str, str | None],
    *,
    defaults: Mapping[str, Any] | None = None,
    weights: str = "network",
    base: str | None = None,
    bank_images: str | Path | None = None,
) -> BundleInfo:
    """Writes the bundle `out` from the `runs` that `export_parts` takes, on the bundle `base` if one is given.

    `words` are bundle.json's name, licence, training_data and use_restriction, `defaults` sampling defaults by name;
    None and what is left out are the base's. The run `guidance` is the base's own, distilled, with 1 as its default.
    Of the base everything stays that the runs do not bring, but for its card and pictures, which describe other
    weights. `bank_images` is a data folder: on its training masks the mask bank is fitted, on its training images the
    detail that the rough images lack. The new bundle is loaded once before it takes its place.

    Raises TrainingError for what is missing, ConversionError if `out` is there, BundleError if the parts do not
    belong together, AnatomyError for masks.
    """
    refuse_existing(out)
    guidance = runs.get("guidance")
    if base is None and guidance is None:
        _check_complete({**runs, **words})
    with new_folder(out) as folder:
        fields = None if base is None else _copy_base(describe(base), folder)
        if guidance is not None and (base is None or runs.get("denoiser") is not None):
            raise TrainingError(
                found="--guidance without --base" if base is None else "--guidance with --denoiser",
                wanted="the --base whose guidance was distilled, with its own denoiser",
                hint="distil the new denoiser's guidance after it is exported",
            )
        export_parts(folder, weights, **runs)
        if guidance is not None and base is not None:
            take_distilled(describe(base), guidance / weights, folder)
            defaults = {"guidance": 1.0, "guidance_floor": None, **(defaults or {})}
        if bank_images is not None:
            shutil.rmtree(folder / BANK, ignore_errors=True)
            fit_bank(bank_images, folder / BANK)
        if runs.get("autoencoder"):
            (folder / DETAIL).unlink(missing_ok=True)
        said = {key: text for key, text in words.items() if text is not None}
        made = said | _learned(folder, runs, weights)
        written = _fields(made, fields, defaults or {}, measured=bank_images is not None)
        info = write_bundle(folder, written)
        if bank_images is not None and CONTROLLER in info.parts:
            fit_detail(info, bank_images)
            info = write_bundle(folder, written)
        load_bundle(info)
        if written.defaults.detail and not (folder / DETAIL).exists():
            raise TrainingError(
                found=f"a default of detail: {written.defaults.detail:g}, measured with other networks",
                wanted="the detail of these",
                hint="give --data IMAGES to measure it, or --set detail=0",
            )
    return describe(out)


def _check_complete(given: Mapping[str, object]) -> None:
    """Without a base the bundle must bring what every bundle has, and say where it comes from."""
    needed = ("autoencoder", "denoiser", "licence", "training_data")
    missing = [f"--{name.replace('_', '-')}" for name in needed if given.get(name) is None]
    if missing:
        raise TrainingError(
            found=f"no {', '.join(missing)}",
            wanted="what every bundle has",
            hint="give them, or --base BUNDLE to keep another bundle's",
        )


def _copy_base(info: BundleInfo, folder: Path) -> BundleFields:
    for stamp in info.files:
        if Path(stamp.path).suffix not in DOCUMENTS:
            info.copy_file(stamp.path, folder)
    return read_fields(info.root / BUNDLE_FILE)


def _fields(
    made: Mapping[str, Any], base: BundleFields | None, defaults: Mapping[str, Any], *, measured: bool
) -> BundleFields:
    """bundle.json: the rest from the base, or xreal-mini, without its `detail` where these networks' is not
    `measured`."""
    given = (base or read_fields(SHIPPED / LIKE / BUNDLE_FILE)).model_dump()
    if base is None:
        given["use_restriction"] = RESEARCH
        if not measured:
            given["defaults"]["detail"] = None
    try:
        return BundleFields.model_validate({**given, **made, "defaults": {**given["defaults"], **defaults}})
    except ValidationError as error:
        raise TrainingError(
            found=faults(error), wanted="fields of bundle.json", hint="see --set of xreal-synth bundle export"
        ) from error


def _learned(folder: Path, runs: Mapping[str, Path | None], weights: str) -> dict[str, Any]:
    """What bundle.json says of the networks: their sizes, and of new ones value range, prompts and region maps."""
    learned = _sizes(folder)
    if runs.get("autoencoder"):
        learned["value_range"] = (0.0, 1.0)
    if denoiser := runs.get("denoiser"):
        maps = part_config(folder / "unet").get(MAPS_KEY)
        prompts = _prompts(denoiser / weights / "tokens", bool(maps))
        learned |= {"prompts": prompts, "seconds_per_evaluation": {}, "region_maps": maps}
    return learned


def _sizes(folder: Path) -> dict[str, Any]:
    """image_size, channels, value_range, latent_shape and scale_factor as the networks' configs have them."""
    vae, unet = (part_config(folder / part) for part in ("vae", "unet"))
    channels, side = unet["out_channels"], unet["sample_size"]
    kl = vae["_class_name"] == "AutoencoderKL"
    factor = 2 ** (len(vae["block_out_channels"]) - 1) if kl else vae["patch_size"]
    return {
        "image_size": side * factor,
        "channels": vae["in_channels"] if kl else 1,
        "latent_shape": (channels, side, side),
        "scale_factor": vae["scaling_factor"] if kl else 1.0,
    }


def _prompts(tokens: Path, knows_regions: bool) -> Prompts:
    """Each finding by its own name, as the label tokens have them.

    A denoiser that knows regions is guided away from the healthy image: the finding and its place are all that
    differs.
    """
    names = part_config(tokens)["findings"]
    null = NO_FINDING if knows_regions else ""
    return Prompts(null=null, healthy=NO_FINDING, findings={name: name for name in names})


def part_config(folder: Path, hint: str = "give the run that makes it, or a --base that has it") -> dict[str, Any]:
    """A part's config.json; raises TrainingError."""
    file = folder / "config.json"
    with reading(str(file), "a part with its configuration", hint):
        config: dict[str, Any] = parse_json(file.read_text(encoding="utf-8"))
    return config


def main() -> int:
    """The command: writes network parts of finished runs; 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m xreal_synth.training.export", description=__doc__)
    for name in PARTS:
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"--out folder of the {name}'s run")
    parser.add_argument("--weights", choices=["network", "best"], default="network")
    parser.add_argument("out", type=Path)
    given = vars(parser.parse_args())
    out = given.pop("out")
    try:
        written = export_parts(out, **given)
    except XrealError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{out}: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
