"""The needs of a training, without data and without weights: parameters, FLOPs, memory.

The task is built and its loss differentiated under FakeTensorMode: every operation of a real step runs on tensors
that have shapes and no numbers. FLOPs are torch.utils.flop_counter's, forward and backward; activations are the
bytes that autograd keeps for the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import flop_counter

from xreal_synth.errors import TrainingError
from xreal_synth.models.layers import CPU_ATTENTION
from xreal_synth.models.networks.conditioning import LabelTokens
from xreal_synth.opening import parse_json, read_file
from xreal_synth.training.config import load_config
from xreal_synth.training.draws import split
from xreal_synth.training.first_stage import FirstStage, TrainedDenoiser, load_first_stage, reading, stage_of
from xreal_synth.training.images import SIDE, ImageBatch, TrainingImages
from xreal_synth.training.loop import check_split
from xreal_synth.training.run import build_task
from xreal_synth.training.settings import AutoencoderSettings, GuidanceSettings, KlSettings, TrainConfig
from xreal_synth.training.tasks.autoencoder import build_kl, fresh_autoencoder
from xreal_synth.training.tasks.base import TrainingTask
from xreal_synth.training.tasks.denoiser import build_unet, paper_schedule

FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class DryRun:
    """A training's sizes. `parameters` are (trained, held fixed) by network, `memory` bytes by kind on each worker's
    device with `images_at_once`, `flops_per_step` those of all workers together."""

    parameters: dict[str, tuple[int, int]]
    memory: dict[str, int]
    images_at_once: int
    flops_per_step: float
    steps: int
    batch: int
    workers: int


def dry_run(config: TrainConfig, path: Path, workers: int = 1) -> DryRun:
    """Builds the task of the config read from `path` and counts a step of its end, when every loss takes part.

    Raises TrainingError for a config that training would refuse, and where a network it stands on is not known.
    """
    loop = config.loop
    check_split(loop, workers)
    at_once = max(part.count for part in split(loop.batch, loop.accumulate * workers))
    with FakeTensorMode():
        task = sketch_task(config, path)
        task.step = loop.steps
        data = config.data
        batch = empty_batch(at_once, data.image_size, len(data.findings), len(data.region_maps))
        flops, activations = count(task, batch, loop.precision)
        parameters = sizes(task)
    one = FLOAT32 * sum(trained for trained, _ in parameters.values())
    memory = {
        "weights": FLOAT32 * sum(map(sum, parameters.values())),
        "gradients": one if workers == 1 else 2 * one,  # several workers exchange copies of them
        "AdamW moments": 2 * one,
        "running average": one,
        "activations": activations,
    }
    return DryRun(parameters, memory, at_once, flops / at_once * loop.batch, loop.steps, loop.batch, workers)


def sizes(task: TrainingTask) -> dict[str, tuple[int, int]]:
    """Parameters (trained, held fixed) of the networks that a task holds, each counted once."""
    seen: set[int] = set()
    found = {}
    for name, network in task.named_children():
        own = [p for p in network.parameters() if name != "module" and id(p) not in seen]
        seen.update(map(id, own))
        trained = sum(p.numel() for p in own if p.requires_grad)
        if own:
            found[name] = (trained, sum(p.numel() for p in own) - trained)
    return found


def count(task: TrainingTask, batch: ImageBatch, precision: str) -> tuple[float, int]:
    """(FLOPs, bytes kept for the backward pass beside the weights) of a part of a batch, forward and backward."""
    task.module.train()
    reference: Any = StorageWeakRef
    own = {reference(tensor.untyped_storage()) for tensor in (*task.parameters(), *task.buffers())}
    kept: dict[Any, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if (known := reference(storage)) not in own:
            kept[known] = storage.nbytes()
        return tensor

    generator = torch.Generator().manual_seed(0)
    with flop_counter.FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"),
        ):
            loss = task.loss(batch, generator)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops()), sum(kept.values())


def empty_batch(images: int, size: int, findings: int, maps: int = 0) -> ImageBatch:
    """Images [images, 1, size, size] of nothing, with label maps, labels, and the regions of `maps` findings."""
    labels = torch.zeros(images, findings + 1, dtype=torch.bool)
    label_map = torch.zeros(images, size, size, dtype=torch.int64)
    regions = torch.zeros(images, maps + 1, SIDE, SIDE) if maps else None
    return ImageBatch(torch.rand(images, 1, size, size), label_map, labels, ~labels, regions=regions)


def sketch_task(config: TrainConfig, path: Path) -> TrainingTask:
    """The config's task under FakeTensorMode. Networks that it names by folder are built from their config.json;
    where none is named, from the config of its family: `paper-autoencoder.yaml` beside `paper-denoiser.yaml`."""
    if isinstance(config.model, GuidanceSettings):
        raise TrainingError(
            found=f"--dry-run of {config.network}",
            wanted="a network whose sizes the config says",
            hint="its sizes are the bundle's: dry-run the denoiser's config",
        )
    unread = {key: "" for key in ("init", "perceptual") if hasattr(config.model, key)}
    if isinstance(config.model, AutoencoderSettings):
        unread["denoiser"] = ""
    bare = replace(config, model=replace(config.model, **unread))
    nothing = empty_batch(2, 1, len(config.data.findings))
    pixels = torch.zeros(2, 1, 1, dtype=torch.uint8)
    images = TrainingImages(pixels, pixels, nothing.labels, nothing.known, config.data)
    return build_task(bare, images, partial(_first_stage, config, path), partial(_denoiser, config, path))


def _first_stage(config: TrainConfig, path: Path, folder: str) -> FirstStage:
    if folder:
        return load_first_stage(folder, weights=False)
    family = load_config("autoencoder", _beside(path, config.network, "autoencoder"))
    if isinstance(family.model, KlSettings):
        return stage_of(build_kl(family.model, family.data.image_size))
    return stage_of(fresh_autoencoder(family.model))


def _denoiser(config: TrainConfig, path: Path, folder: str) -> TrainedDenoiser:
    if folder:
        with reading(f"model.denoiser: {folder!r}", "the folder of a trained network", "correct the path"):
            shape = parse_json(read_file(Path(folder) / "unet" / "config.json"))
            unet: Any = UNet2DConditionModel.from_config(shape)
    else:
        family = load_config("denoiser", _beside(path, config.network, "denoiser"))
        stage = _first_stage(config, path, config.model.autoencoder)
        unet = build_unet(family.model, stage.latent_channels, config.data.image_size // stage.factor)
    tokens = LabelTokens(config.data.findings, int(unet.config.cross_attention_dim))
    fixed = unet.requires_grad_(False).eval(), tokens.requires_grad_(False).eval()
    return TrainedDenoiser(*fixed, paper_schedule("epsilon"))


def _beside(path: Path, network: str, other: str) -> Path:
    found = path.with_name(path.name.replace(network, other))
    if network not in path.name or not found.exists():
        raise TrainingError(
            where=str(path),
            found=f"no model.{other}, and no {other} config of the same name beside it",
            wanted=f"the {other} that this network stands on",
            hint=f"--set model.{other}=FOLDER",
        )
    return found
