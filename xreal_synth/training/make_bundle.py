"""A bundle from finished trainings: parts exported, mask bank fitted, bundle.json written; whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from xreal_synth.errors import TrainingError
from xreal_synth.findings import NO_FINDING
from xreal_synth.models.bundle_file import BUNDLE_FILE, BundleFields, Prompts
from xreal_synth.models.convert.assemble import BANK, new_folder, refuse_existing
from xreal_synth.models.describe import CONTROLLER, SHIPPED, BundleInfo, describe
from xreal_synth.models.load import load_bundle
from xreal_synth.models.networks.with_maps import MAPS_KEY
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.opening import parse_json
from xreal_synth.training.export import export_parts
from xreal_synth.training.fit_bank import fit_bank
from xreal_synth.training.fit_detail import fit_detail

LIKE = "xreal-mini"
"""Whose sampling defaults a new bundle starts with."""

RESEARCH = "research only; not for diagnosis; images made with it are synthetic and must be marked as such"
DOCUMENTS = (".md", ".png")


@dataclass(frozen=True, slots=True)
class Runs:
    """`--out` folders of trainings; `weights` is `network` (last) or `best` (least validation loss)."""

    autoencoder: Path | None = None
    controller: Path | None = None
    denoiser: Path | None = None
    controlnet: Path | None = None
    segmenter: Path | None = None
    classifier: Path | None = None
    weights: str = "network"


@dataclass(frozen=True, slots=True)
class Words:
    """Words of the bundle about itself, and sampling defaults by name; None and what is left out are the base's."""

    name: str
    licence: str | None = None
    training_data: str | None = None
    use_restriction: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


def make_bundle(
    out: Path, runs: Runs, words: Words, *, base: str | None = None, bank_images: str | Path | None = None
) -> BundleInfo:
    """Writes the bundle `out` from `runs`, on top of the bundle `base` if one is given.

    Of the base everything stays that the runs do not bring, but for its card and pictures, which describe other
    weights. `bank_images` is a data folder: on its training masks the mask bank is fitted, on its training images the
    detail that the rough images lack. The new bundle is loaded once before it takes its place.

    Raises TrainingError for what is missing, ConversionError if `out` is there, BundleError if the parts do not
    belong together, AnatomyError for masks.
    """
    refuse_existing(out)
    _check_complete(runs, words, base)
    with new_folder(out) as folder:
        fields = None if base is None else _copy_base(describe(base), folder)
        export_parts(
            folder,
            autoencoder=runs.autoencoder,
            controller=runs.controller,
            denoiser=runs.denoiser,
            controlnet=runs.controlnet,
            segmenter=runs.segmenter,
            classifier=runs.classifier,
            weights=runs.weights,
        )
        if bank_images is not None:
            shutil.rmtree(folder / BANK, ignore_errors=True)
            fit_bank(bank_images, folder / BANK)
        written = _fields(folder, runs, words, fields)
        model = load_bundle(write_bundle(folder, written))
        if bank_images is not None and (folder / CONTROLLER).exists():
            fit_detail(model, bank_images, folder)
            load_bundle(write_bundle(folder, written))
    return describe(out)


def _check_complete(runs: Runs, words: Words, base: str | None) -> None:
    """Without a base the bundle must bring what every bundle has, and say where it comes from."""
    needed = {
        "--autoencoder": runs.autoencoder,
        "--denoiser": runs.denoiser,
        "--licence": words.licence,
        "--training-data": words.training_data,
    }
    missing = [name for name, value in needed.items() if value is None]
    if base is None and missing:
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


def _fields(folder: Path, runs: Runs, words: Words, base: BundleFields | None) -> BundleFields:
    """bundle.json: sizes and prompts from the networks, the rest from the words, the base, or xreal-mini."""
    change: dict[str, Any] = {"name": words.name, **_sizes(folder)}
    if runs.autoencoder is not None:
        change["value_range"] = (0.0, 1.0)
    if runs.denoiser is not None:
        maps = _config(folder / "unet").get(MAPS_KEY)
        change |= {
            "prompts": _prompts(runs.denoiser / runs.weights, bool(maps)),
            "seconds_per_evaluation": {},
        }
        change["region_maps"] = maps
    for key in ("licence", "training_data", "use_restriction"):
        if getattr(words, key) is not None:
            change[key] = getattr(words, key)
    start = base or read_fields(SHIPPED / LIKE / BUNDLE_FILE)
    if base is None:
        change.setdefault("use_restriction", RESEARCH)
    given = start.model_dump()
    change["defaults"] = {**given["defaults"], **words.defaults}
    try:
        return BundleFields.model_validate({**given, **change})
    except ValidationError as error:
        raise TrainingError(
            found="; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()),
            wanted="fields of bundle.json",
            hint="see --set of xreal-synth bundle export",
        ) from error


def _sizes(folder: Path) -> dict[str, Any]:
    """image_size, channels, value_range, latent_shape and scale_factor as the networks' configs have them."""
    vae, unet = (_config(folder / part) for part in ("vae", "unet"))
    channels, side = unet["out_channels"], unet["sample_size"]
    kl = vae["_class_name"] == "AutoencoderKL"
    factor = 2 ** (len(vae["block_out_channels"]) - 1) if kl else vae["patch_size"]
    return {
        "image_size": side * factor,
        "channels": vae["in_channels"] if kl else 1,
        "latent_shape": (channels, side, side),
        "scale_factor": vae["scaling_factor"] if kl else 1.0,
    }


def _prompts(network: Path, knows_regions: bool) -> Prompts:
    """Each finding by its own name, as the label tokens have them.

    A denoiser that knows regions is guided away from the healthy image: the finding and its place are all that
    differs.
    """
    names = _config(network / "tokens")["findings"]
    null = NO_FINDING if knows_regions else ""
    return Prompts(null=null, healthy=NO_FINDING, findings={name: name for name in names})


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(
            found=f"{folder / 'config.json'}: {error}",
            wanted="a part with its configuration",
            hint="give the run that makes it, or a --base that has it",
        ) from error
    return config
