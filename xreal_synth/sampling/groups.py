"""Groups of images in micro-batches of one fixed size: stage A once per group, stage B once per edit; in mode joint
one trajectory per image.

The last micro-batch is padded with copies of its last row, so that every forward has the same shape and an
image's bytes do not depend on how many others are made beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from xreal_synth.errors import NotFiniteError
from xreal_synth.sampling.blend import PASTES, from_grey, latent_region, to_grey
from xreal_synth.sampling.controlled import (
    FreedRegion,
    Guide,
    RegionGuide,
    Rule,
    anatomy_stage,
    decode_scaled,
    free_stage,
    pathology_from_branch,
    pathology_from_noise,
)
from xreal_synth.sampling.jobs import Edit, GroupImages, GroupJob, MemberJob, in_batches
from xreal_synth.sampling.model import SamplerModel
from xreal_synth.sampling.noise import BatchNoise, NoiseAhead, NoiseKey, NoiseSource, philox
from xreal_synth.sampling.real_image import image_states
from xreal_synth.sampling.schedule import make_schedule
from xreal_synth.types import GreyImage, Role, SamplingSettings

_Row = TypeVar("_Row")


@dataclass(slots=True, eq=False)
class _Group:
    job: GroupJob
    waiting: int
    images: dict[str, GreyImage] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Trajectory:
    """An image to make in one go: of mode joint, a member with its findings, or a group's healthy image."""

    group: _Group
    member: MemberJob

    @property
    def key(self) -> NoiseKey:
        """A healthy image's noise is that of the twin in other modes."""
        job, name = self.group.job, self.member.name
        return NoiseKey(job.seed, job.index, job.attempt, "" if name == Role.healthy else name)


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """One edit to make: on image [C, H, W], held to `states` [steps + 1, C, h, w] (none in mode reference)."""

    group: _Group
    member: MemberJob
    number: int
    image: Tensor
    states: Tensor | None

    @property
    def edit(self) -> Edit:
        return self.member.edits[self.number]

    @property
    def key(self) -> NoiseKey:
        job = self.group.job
        return NoiseKey(job.seed, job.index, job.attempt, self.member.name, self.number)


def sample_groups(
    model: SamplerModel,
    settings: SamplingSettings,
    jobs: Iterable[GroupJob],
    *,
    micro_batch: int,
    noise: NoiseSource = philox,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Iterator[GroupImages]:
    """Makes every group's images, in the order of `jobs`, which are taken a micro-batch at a time.

    Raises what `GroupSampler` raises.
    """
    sampler = GroupSampler(model, settings, micro_batch, noise, on_batch)
    for finished in in_batches(sampler, jobs, micro_batch):
        yield from finished


class GroupSampler:
    """A `Renderer` whose micro-batches of edits and, in mode joint, of images are full but for the last.

    `on_batch` is called after each micro-batch with the number of images that it finished. Raises NotFiniteError if the
    model's numbers overflow.
    """

    def __init__(
        self, model: SamplerModel, settings: SamplingSettings, micro_batch: int, noise: NoiseSource = philox,
        on_batch: Callable[[int], None] = lambda images: None,
    ) -> None:  # fmt: skip
        assert micro_batch >= 1
        self._maker = _GroupMaker(model, settings, micro_batch, noise)
        self._joint, self._on_batch = settings.mode == "joint", on_batch
        self._open: deque[_Group] = deque()
        self._passes: deque[_Pass] = deque()
        self._trajectories: tuple[deque[_Trajectory], deque[_Trajectory]] = deque(), deque()

    def begin(self, jobs: Sequence[GroupJob]) -> list[GroupImages]:
        groups = [_open(job, joint=self._joint) for job in jobs]
        self._open.extend(groups)
        if self._joint:
            for group in groups:
                for member in _joint_members(group.job):
                    self._trajectories[bool(member.edits)].append(_Trajectory(group, member))
        else:
            self._passes.extend(self._maker.twins(groups))
            self._on_batch(len(groups))
        return self._finished(self._maker.micro_batch)

    def finish(self) -> list[GroupImages]:
        return self._finished(1)

    def _finished(self, least: int) -> list[GroupImages]:
        """Makes what fills micro-batches of `least` rows; the first groups, as far as they wait for nothing then."""
        while len(self._passes) >= least:
            batch = self._taken(self._passes)
            following = self._maker.edits(batch)
            self._passes.extend(following)
            self._on_batch(len(batch) - len(following))
        for rows in self._trajectories:
            while len(rows) >= least:
                batch_of_joint = self._taken(rows)
                self._maker.joint(batch_of_joint)
                self._on_batch(len(batch_of_joint))
        done = []
        while self._open and not self._open[0].waiting:
            group = self._open.popleft()
            done.append(GroupImages(group.job.index, group.images))
        return done

    def _taken(self, rows: deque[_Row]) -> list[_Row]:
        return [rows.popleft() for _ in range(min(self._maker.micro_batch, len(rows)))]


def _joint_members(job: GroupJob) -> tuple[MemberJob, ...]:
    """What a group has made of it: its members, or its healthy image where none has findings."""
    shown = tuple(member for member in job.members if member.edits)
    return shown or (MemberJob(Role.healthy, ()),)


class _GroupMaker:
    """The kinds of micro-batch."""

    def __init__(self, model: SamplerModel, settings: SamplingSettings, micro_batch: int, noise: NoiseSource) -> None:
        self.model = model
        self.settings = settings
        self.micro_batch = micro_batch
        self.noise = NoiseAhead(noise, model.device)
        schedule = make_schedule(model.alphas_cumprod, settings.steps, settings.mode, settings.spacing)
        posterior: Literal["sample", "mean"] = "mean" if settings.mode == "paper" else "sample"
        self.rule = Rule(
            schedule,
            model.prediction_type,
            settings.resample,
            settings.eta,
            posterior,
            settings.eta_free,
            settings.hold_steps,
            settings.solver == "multistep",
        )

    @torch.inference_mode()
    def twins(self, groups: list[_Group]) -> list[_Pass]:
        """Stage A: makes the twins, and returns the first edit of every member that has one.

        Real images are their own twins: of them only the states are made.
        """
        rows = self._padded(groups)
        keys = tuple(NoiseKey(row.job.seed, row.job.index, row.job.attempt) for row in rows)
        real = [row.job.image for row in rows if row.job.image is not None]
        if real:
            assert len(real) == len(rows), "all groups of a run have a real image, or none has"
            return self._real_twins(groups, real, keys)
        label_map = self._batch([row.job.anatomy for row in rows])
        noise, grain = self._noise("twins", keys), self._grain("twins", keys)
        guide = Guide(self.model.embed([row.job.healthy_prompt for row in rows]), hint=self._hint(label_map))
        stage = self._anatomy(label_map, guide, noise)
        images = self._decode(stage[-1], keys, grain)
        kept = torch.stack(stage) if self.settings.mode == "branch" else None
        greys = self._greys(images[: len(groups)])
        return _first_passes(groups, greys, images, kept)

    def _real_twins(self, groups: list[_Group], real: list[GreyImage], keys: tuple[NoiseKey, ...]) -> list[_Pass]:
        images = from_grey(self._batch(real), self.model.value_range, self.model.channels)
        kept = None
        if self.settings.mode == "branch" and any(group.waiting for group in groups):
            kept = torch.stack(image_states(self.model, images, self.rule, self._noise("real", keys)))
        return _first_passes(groups, real, images, kept)

    @torch.inference_mode()
    def joint(self, batch: list[_Trajectory]) -> None:
        """Makes an image of each row, all of them with findings or none."""
        rows = self._padded(batch)
        keys = tuple(row.key for row in rows)
        kind = f"joint {bool(batch[0].member.edits)}"
        noise, grain = self._noise(kind, keys), self._grain(kind, keys)
        label_map = self._batch([row.group.job.anatomy for row in rows])
        guide, freed = self._joint_guide(rows, self._hint(label_map))
        stage = self._anatomy(label_map, guide, noise, freed)
        images = self._decode(stage[-1], keys, grain)
        for row, grey in zip(batch, self._greys(images[: len(batch)]), strict=True):
            row.group.images[row.member.name] = grey
            row.group.waiting -= 1

    def _joint_guide(
        self, rows: list[_Trajectory], hint: Tensor | None
    ) -> tuple[Guide | RegionGuide, FreedRegion | None]:
        healthy = [row.group.job.healthy_prompt for row in rows]
        if not rows[0].member.edits:
            return Guide(self.model.embed(healthy), hint=hint), None
        edits = [row.member.edits for row in rows]
        regions = [np.any([edit.region & (not edit.held) for edit in each], axis=0) for each in edits]
        freed = FreedRegion(self._latent_region(regions), self.settings.branch_step)
        if self.model.region_maps:
            maps = self._maps(edits)
            return self._guide([row.member.prompt for row in rows], hint, maps), freed
        findings = []
        for number in range(max(map(len, edits))):
            asked = [each[number] if number < len(each) else None for each in edits]
            prompts = [plain if edit is None else edit.prompt for edit, plain in zip(asked, healthy, strict=True)]
            nowhere = np.zeros_like(edits[0][0].region)
            places = self._latent_region([nowhere if edit is None else edit.region for edit in asked])
            findings.append((self.model.embed(prompts), places))
        null = self.model.embed([self.model.null_prompt] * len(rows))
        guidance, floor = self.settings.guidance, self.settings.guidance_floor or 0
        guide = RegionGuide(self.model.embed(healthy), null, tuple(findings), guidance, hint, floor)
        return guide, freed

    def _maps(self, edits: Sequence[Sequence[Edit]]) -> Tensor | None:
        """Region maps [B, R + 1, h, w] of the edits that each row shows; None for a denoiser that takes none."""
        names = self.model.region_maps
        if not names:
            return None
        side = edits[0][0].region.shape
        areas = np.zeros((len(edits), len(names) + 1, *side), np.float32)
        for row, each in zip(areas, edits, strict=True):
            for edit in each:
                if edit.finding:
                    channel = names.index(edit.finding) if edit.finding in names else len(names)
                    area = edit.region if edit.area is None else edit.area
                    row[channel] = np.maximum(row[channel], area if channel < len(names) else 1.0)
        small: Tensor = adaptive_avg_pool2d(torch.from_numpy(areas), self.model.latent_shape[1:])
        return small.to(self.model.device)

    def _latent_region(self, regions: Sequence[npt.NDArray[np.bool_]]) -> Tensor:
        return latent_region(self._batch(regions), self.model.latent_shape[1:])

    @torch.inference_mode()
    def edits(self, batch: list[_Pass]) -> list[_Pass]:
        """Stage B: makes one edit of each row, and returns the edits that follow them."""
        rows = self._padded(batch)
        keys = tuple(row.key for row in rows)
        noise, grain = self._noise("edits", keys), self._grain("edits", keys)
        m_p = self._latent_region([row.edit.region for row in rows])
        hint = self._hint(self._batch([row.group.job.anatomy for row in rows]))
        maps = self._maps([row.member.edits[: row.number + 1] for row in rows])
        guide = self._guide([row.edit.prompt for row in rows], hint, maps)
        states = self._pathology(rows, m_p, guide, noise)
        edited = self._decode(states[-1], keys, grain)
        kept = torch.stack(states) if self.settings.mode == "branch" else None
        alpha = self._batch([row.edit.alpha for row in batch])[:, None]
        before = torch.stack([row.image for row in batch])
        pasted = PASTES[self.settings.paste](before, edited[: len(batch)], alpha)
        greys, following = self._greys(pasted), []
        for at, row in enumerate(batch):
            if row.number + 1 < len(row.member.edits):
                after = None if kept is None else kept[:, at]
                following.append(_Pass(row.group, row.member, row.number + 1, pasted[at], after))
            else:
                row.group.images[row.member.name] = greys[at]
                row.group.waiting -= 1
        return following

    def _anatomy(
        self, label_map: Tensor, guide: Guide | RegionGuide, noise: BatchNoise, freed: FreedRegion | None = None
    ) -> list[Tensor]:
        settings = self.settings
        if settings.control != "xreal":
            return free_stage(self.model, guide, self.rule, noise)
        assert settings.soft is not None, "resolved settings have `soft` with control xreal"
        return anatomy_stage(
            self.model, label_map, guide, self.rule, noise,
            hold_steps=settings.hold_steps, soft=settings.soft, soft_variance=settings.soft_variance,
            detail=settings.detail, freed=freed, replaced=settings.replaced_steps(freed=freed is not None),
            kept_from=settings.branch_step if settings.mode == "branch" else settings.steps,
        ).states  # fmt: skip

    def _pathology(self, rows: list[_Pass], m_p: Tensor, guide: Guide, noise: BatchNoise) -> list[Tensor]:
        if self.settings.mode != "branch":
            images = torch.stack([row.image for row in rows])
            return pathology_from_noise(self.model, images, m_p, guide, self.rule, noise)[1]
        kept = torch.stack([row.states for row in rows if row.states is not None], dim=1)
        start = self.settings.branch_step
        return pathology_from_branch(self.model, list(kept), m_p, guide, self.rule, noise, start=start)

    def _guide(self, prompts: list[str], hint: Tensor | None, maps: Tensor | None = None) -> Guide:
        cond = self.model.embed(prompts)
        if self.settings.guidance == 1.0:
            return Guide(cond, hint=hint, maps=maps)
        null = self.model.embed([self.model.null_prompt] * len(prompts))
        return Guide(cond, null, self.settings.guidance, hint, maps, self.settings.guidance_floor or 0)

    def _hint(self, label_map: Tensor) -> Tensor | None:
        return self.model.hint(label_map) if self.settings.control == "controlnet" else None

    def _padded(self, rows: list[_Row]) -> list[_Row]:
        return rows + [rows[-1]] * (self.micro_batch - len(rows))

    def _batch(self, arrays: Sequence[npt.NDArray[np.generic]]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(self.model.device)

    def _noise(self, kind: str, keys: tuple[NoiseKey, ...]) -> BatchNoise:
        return self.noise.batch(kind, keys, self.model.latent_shape)

    def _grain(self, kind: str, keys: tuple[NoiseKey, ...]) -> BatchNoise | None:
        """One noise for all images of a group, so that a region has the grain of what surrounds it; images that share
        nothing have their own."""
        shape = self.model.decoder_noise_shape
        if shape is None:
            return None
        shared = tuple(NoiseKey(key.seed, key.index, key.attempt) for key in keys)
        return self.noise.batch(f"{kind}, grain", keys if kind.startswith("joint") else shared, shape)

    def _decode(self, z: Tensor, keys: tuple[NoiseKey, ...], grain: BatchNoise | None) -> Tensor:
        images = decode_scaled(self.model, z, None if grain is None else grain("film.grain"))
        finite = (torch.isfinite(images).flatten(1).all(1) & torch.isfinite(z).flatten(1).all(1)).tolist()
        wrong = sorted({key.index for key, fine in zip(keys, finite, strict=True) if not fine})
        if wrong:
            raise NotFiniteError(
                found=f"the denoiser's numbers overflow in group {', '.join(map(str, wrong))}",
                wanted="finite latents",
                hint="lower sampling.guidance, or set compute.precision to fp32",
            )
        return images

    def _greys(self, images: Tensor) -> list[GreyImage]:
        """Images [B, C, H, W] -> grey images, copied from the device at once."""
        return list(to_grey(images, self.model.value_range).cpu().numpy())


def _first_passes(groups: list[_Group], greys: Sequence[GreyImage], images: Tensor, kept: Tensor | None) -> list[_Pass]:
    """Hands each group its twin, and returns the first edit of every member that has one.

    Images [B, C, H, W] and the states that they ended, [steps + 1, B, C, h, w] in mode branch.
    """
    passes = []
    for row, group in enumerate(groups):
        states = None if kept is None else kept[:, row]
        group.images[Role.healthy] = greys[row]
        for member in group.job.members:
            if member.edits:
                passes.append(_Pass(group, member, 0, images[row], states))
            else:
                group.images[member.name] = greys[row]
    return passes


def _open(job: GroupJob, *, joint: bool) -> _Group:
    names = [member.name for member in job.members]
    assert len(set(names)) == len(names), f"group {job.index} names a member twice: {names}"
    assert not any(member.edits for member in job.members if member.name == Role.healthy), "the twin has no edits"
    if joint:
        return _Group(job, len(_joint_members(job)))
    return _Group(job, sum(bool(member.edits) for member in job.members))
