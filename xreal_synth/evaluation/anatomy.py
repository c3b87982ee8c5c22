"""Films made from real films' masks and labels, held against those masks and films.

The paper's paired protocol on a manifest: for each film of a split, its own organ mask and its first
finding that the bundle knows. What is measured is in `fidelity`; this file makes the films.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from xreal_synth.anatomy.codes import resize_mask
from xreal_synth.anatomy.film_files import FilmFiles, checked_pair
from xreal_synth.anatomy.manifest import BadFilm, FilmRow, read_manifest
from xreal_synth.anatomy.regions import FEATHER_SHARE, feather, region_mask
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.errors import AnatomyError, BundleError, PlacementError, TrainingError
from xreal_synth.evaluation.fidelity import Figure, dice, figure, high_frequency_ratio, ms_ssim
from xreal_synth.evaluation.stage_watch import StageWatch
from xreal_synth.models.describe import BundleInfo, prompt_for
from xreal_synth.models.load import LoadedBundle, load_network
from xreal_synth.plan.placement import place
from xreal_synth.plan.prior import Prior
from xreal_synth.recipe.schema import FindingLabel
from xreal_synth.sampling.groups import sample_groups
from xreal_synth.sampling.jobs import Edit, GroupFilms, GroupJob, MemberJob
from xreal_synth.seeds import stream
from xreal_synth.storage import open_store
from xreal_synth.types import Film, Mask, PlacedFinding, SamplingSettings
from xreal_synth.vocab import ORGANS

MIN_OVERLAP = 0.6
VARIANT = "v0"


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A real film uint8 [H, W], its mask, and the finding to show, if it has one that the bundle knows."""

    name: str
    film: Film
    mask: Mask
    finding: PlacedFinding | None


@dataclass(frozen=True, slots=True)
class AnatomyFigures:
    """What `evaluate anatomy` reports.

    `dice` is of the healthy twin, requested mask against the segmenter's, `dice_variant` of the film with
    its finding, `dice_real` of the real film (the segmenter's own ceiling). `change_inside` and
    `change_outside` are mean absolute differences variant - twin in grey levels. `sharpness` is the power
    of generated over real films in the upper half of the frequencies. `seconds` are per film and stage.
    """

    films: int
    variants: int
    dice: dict[str, Figure]
    dice_variant: dict[str, Figure]
    dice_real: dict[str, Figure]
    ms_ssim: Figure
    ms_ssim_variant: Figure
    change_inside: Figure
    change_outside: Figure
    sharpness: float
    seconds: dict[str, float]


def read_pairs(data: str | Path, info: BundleInfo, *, split: str, count: int, seed: int) -> list[Pair]:
    """`count` films of a manifest's split, drawn without replacement; faulty films and masks are skipped.

    Raises TrainingError if the manifest cannot be read or has too few films.
    """
    store = open_store(str(data))
    rows = read_manifest(store, ("image", "mask", "labels", "split"), (split,)).rows
    prior, files, pairs = Prior.load(), FilmFiles(store), list[Pair]()
    for at in stream(seed, 0, 0, "rows", "evaluation").permutation(len(rows)):
        pair = _read_pair(files, rows[at], info, prior, seed, int(at))
        if pair is not None:
            pairs.append(pair)
        if len(pairs) == count:
            return pairs
    raise TrainingError(
        found=f"{len(pairs)} usable films in split {split!r}", wanted=f"{count}", mend="lower -n"
    )


def _read_pair(
    files: FilmFiles, row: FilmRow, info: BundleInfo, prior: Prior, seed: int, at: int
) -> Pair | None:
    size = info.image_size
    try:
        read = checked_pair(*files.pair(row), row.mask)
        mask = resize_mask(read.mask, size)
        validate_mask(mask, row.mask)
    except (AnatomyError, BadFilm):
        return None
    film = np.asarray(Image.fromarray(read.film).resize((size, size), Image.Resampling.LANCZOS))
    known = [name for name in row.labels if name in info.prompts]
    finding = None
    if known:
        try:
            rng = stream(seed, at, 0, "boxes", "evaluation")
            label = FindingLabel.model_validate({"name": known[0]})
            finding = place(label, mask, rng, prior, factor=info.factor, min_overlap=MIN_OVERLAP)
        except PlacementError:
            finding = None
    return Pair(row.image, film, mask, finding)


def evaluate_anatomy(
    info: BundleInfo,
    model: LoadedBundle,
    settings: SamplingSettings,
    pairs: Sequence[Pair],
    *,
    seed: int,
    micro_batch: int,
    on_films: Callable[[int], None] = lambda films: None,
) -> tuple[AnatomyFigures, list[GroupFilms]]:
    """Makes twin and variant of every pair and measures them; raises BundleError without a segmenter."""
    if "segmenter" not in info.parts:
        raise BundleError(
            where=str(info.root), found="no segmenter/", wanted="a bundle with one, to judge organs"
        )
    judge = load_network(info, "segmenter").eval().to(model.device)
    watch = StageWatch(model)
    jobs = [_job(info, pair, seed, at) for at, pair in enumerate(pairs)]
    made = list(
        sample_groups(watch, settings, jobs, micro_batch=micro_batch, noise=watch.noise, on_batch=on_films)
    )
    return _measure(judge, pairs, made, watch), made


def _job(info: BundleInfo, pair: Pair, seed: int, at: int) -> GroupJob:
    members: tuple[MemberJob, ...] = ()
    if pair.finding is not None:
        region = region_mask(pair.finding, pair.mask)
        alpha = feather(region, FEATHER_SHARE * info.image_size)
        prompt = prompt_for(info, (pair.finding.name,))
        members = (MemberJob(VARIANT, (Edit(region, prompt, alpha),)),)
    return GroupJob(seed, at, 0, pair.mask, info.healthy_prompt, members)


def _measure(
    judge: nn.Module, pairs: Sequence[Pair], made: Sequence[GroupFilms], watch: StageWatch
) -> AnatomyFigures:
    twins = [group.films["h"] for group in made]
    both = [(pair, group) for pair, group in zip(pairs, made, strict=True) if VARIANT in group.films]
    variants = [group.films[VARIANT] for _, group in both]
    masks, reals = [pair.mask for pair in pairs], [pair.film for pair in pairs]
    inside, outside = _changes(both)
    return AnatomyFigures(
        films=len(twins),
        variants=len(variants),
        dice=_dice(judge, masks, twins),
        dice_variant=_dice(judge, [pair.mask for pair, _ in both], variants),
        dice_real=_dice(judge, masks, reals),
        ms_ssim=figure(ms_ssim(twins, reals)),
        ms_ssim_variant=figure(ms_ssim(variants, [pair.film for pair, _ in both])),
        change_inside=figure(inside),
        change_outside=figure(outside),
        sharpness=high_frequency_ratio(twins, reals),
        seconds=watch.per_film(len(twins), len(variants)),
    )


def _changes(both: Sequence[tuple[Pair, GroupFilms]]) -> tuple[list[float], list[float]]:
    inside, outside = [], []
    for pair, group in both:
        assert pair.finding is not None, "only films with a finding have a variant"
        region = region_mask(pair.finding, pair.mask)
        apart = np.abs(group.films[VARIANT].astype(float) - group.films["h"].astype(float))
        inside.append(float(apart[region].mean()))
        outside.append(float(apart[~region].mean()))
    return inside, outside


def _dice(judge: nn.Module, masks: Sequence[Mask], films: Sequence[Film]) -> dict[str, Figure]:
    shown = list(segment(judge, films))
    return {
        name: figure([dice(mask, found, code) for mask, found in zip(masks, shown, strict=True)])
        for name, code in ORGANS.items()
    }


@torch.inference_mode()
def segment(judge: nn.Module, films: Sequence[Film]) -> Iterator[Mask]:
    """Organ codes uint8 [H, W] of each film uint8 [H, W], by a network with [B, 1, H, W] in 0..1 -> logits."""
    for film in films:
        x = torch.from_numpy(film.astype(np.float32) / 255.0)[None, None]
        yield judge(x).argmax(dim=1)[0].to(torch.uint8).numpy()
