"""A joint shape model of the four organs: principal modes of their signed distance maps.

After Leventon (CVPR 2000) and Tsai (TMI 2003). Every mask is brought into the frame of its lungs' box, the
lungs and the heart become signed distance maps on a low grid, the aortic knob one in the frame of its own
box (it is small: in the lungs' frame its maps would average away). Maps and poses are one vector, so that
a large heart brings its lungs along. A draw is mean + sum of z_k * mode_k with standard normal z_k
truncated at +-TRUNCATE.

A frame is a box of centre (cx, cy) and size (w, h): u = (x - cx) / w + 1/2, likewise v; its grid covers u
and v from -MARGIN to 1 + MARGIN. A pose is (cx, cy, log w, log h): the lungs' in shares of the side, the
aorta's in (u, v) of the lungs' frame. Vector: 3 maps [GRID, GRID] (left lung, right lung, heart), the
aorta's [AORTA_GRID, AORTA_GRID], the two poses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy import ndimage, special

from xreal_synth.anatomy.label_map import organ_box
from xreal_synth.errors import BundleError
from xreal_synth.findings import AORTA, BACKGROUND, HEART, LEFT_LUNG, ORGANS, RIGHT_LUNG
from xreal_synth.opening import parse_json, read_file
from xreal_synth.types import Mask

FORMAT_VERSION = 1
MARGIN = 0.15
GRID = 64
AORTA_GRID = 24
TRUNCATE = 2.0

_CHEST = 3 * GRID * GRID
_MAPS = _CHEST + AORTA_GRID * AORTA_GRID
_POSE_SHARE = 0.04
"""Variance of each pose number over that of all maps, while fitting: none is lost among the maps."""
_FINE = 4
_CLIP = 12.0
_GAP = 1.2

_Floats = npt.NDArray[np.float32]
_Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ShapeModel:
    """mean [D] and modes [K, D] of the maps (grid cells, positive inside; a mode is one standard
    deviation), pose_mean [8], pose_modes [K, 8], explained: share of the variance in the modes, fitted:
    masks used. `shifts` are the mean mode weights [K] of patients with a finding, those of the fitted masks being 0.
    """

    mean: _Floats
    modes: _Floats
    pose_mean: _Doubles
    pose_modes: _Doubles
    explained: float
    fitted: int
    shifts: Mapping[str, _Doubles] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, masks: Sequence[Mask], modes: int = 40, patients: Mapping[str, Sequence[Mask]] | None = None
    ) -> ShapeModel:
        """Fits validated masks uint8 [H, H] with an aorta, at least `modes` + 1 of them, and where among them those of
        `patients` with a finding lie."""
        assert len(masks) > modes, "a shape model needs more masks than modes"
        maps, poses = _vectors(masks)
        weight = np.sqrt(_POSE_SHARE * maps.var(axis=0).sum() / np.maximum(poses.var(axis=0), 1e-12))
        vectors = np.concatenate([maps, poses * weight], axis=1)
        mean = vectors.mean(axis=0)
        _, spread, axes = np.linalg.svd(vectors - mean, full_matrices=False)
        deviation = spread[:modes] / np.sqrt(len(masks) - 1)
        scaled = axes[:modes] * deviation[:, None]
        shifts = {}
        for finding, theirs in (patients or {}).items():
            own_maps, own_poses = _vectors(theirs)
            away = np.concatenate([own_maps, own_poses * weight], axis=1).mean(axis=0) - mean
            shifts[finding] = (axes[:modes] @ away / deviation).round(4)
        return cls(
            shifts=shifts,
            mean=mean[:_MAPS].astype(np.float32),
            modes=scaled[:, :_MAPS].astype(np.float32),
            pose_mean=mean[_MAPS:] / weight,
            pose_modes=scaled[:, _MAPS:] / weight,
            explained=float((spread[:modes] ** 2).sum() / (spread**2).sum()),
            fitted=len(masks),
        )

    def sample(self, rng: np.random.Generator, size: int, findings: Sequence[str] = ()) -> Mask:
        """One anatomy uint8 [size, size], of a patient with `findings`; reads K uniform numbers of the stream. Not yet
        validated."""
        low = float(special.ndtr(-TRUNCATE))
        z = special.ndtri(rng.uniform(low, 1.0 - low, len(self.modes))).round(6)
        known = [self.shifts[one] for one in findings if one in self.shifts]
        return self.render(z + sum(known) / len(known) if known else z, size)

    def render(self, z: _Doubles, size: int) -> Mask:
        """The mask uint8 [size, size] of mode weights z [K]. Sums in a fixed order: no BLAS."""
        maps, pose = self.mean.copy(), self.pose_mean.copy()
        for weight, mode, pose_mode in zip(z, self.modes, self.pose_modes, strict=True):
            maps += np.float32(weight) * mode
            pose += weight * pose_mode
        centres = (np.arange(size) + 0.5) / size
        across, down = _framed(centres, centres, pose[:4])
        mask = np.zeros((size, size), dtype=np.uint8)
        window, chest = _interpolate(maps[:_CHEST].reshape(3, GRID, GRID), across, down)
        mask[window] = _paint_chest(chest)
        across, down = _framed(across, down, pose[4:])
        window, aorta = _interpolate(maps[_CHEST:].reshape(1, AORTA_GRID, AORTA_GRID), across, down)
        mask[window][aorta[0] > 0] = AORTA
        return mask

    def save(self, folder: Path) -> None:
        """Writes shape_model.safetensors (int8 modes with a scale each) and shape_model.json."""
        folder.mkdir(parents=True, exist_ok=True)
        scale = np.abs(self.modes).max(axis=1) / 127.0
        tensors = {
            "mean": self.mean.astype(np.float16),
            "modes": np.rint(self.modes / scale[:, None]).astype(np.int8),
            "mode_scale": scale.astype(np.float32),
            "pose_mean": self.pose_mean,
            "pose_modes": self.pose_modes,
        }
        (folder / "shape_model.safetensors").write_bytes(save(tensors))
        about: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "organs": list(ORGANS),
            "grid": [GRID, AORTA_GRID],
            "margin": MARGIN,
            "modes": len(self.modes),
            "explained_variance": round(self.explained, 4),
            "masks": self.fitted,
        }
        if self.shifts:
            about["shifts"] = {name: shift.tolist() for name, shift in self.shifts.items()}
        (folder / "shape_model.json").write_text(json.dumps(about, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, read: Callable[[str], bytes] | None = None) -> ShapeModel:
        """Reads what `save` wrote; `read` gives a file's bytes by its name. Raises BundleError if files are missing,
        broken or newer."""
        read = read or (lambda name: read_file(folder / name))
        about = _read_about(folder / "shape_model.json", read)
        path = folder / "shape_model.safetensors"
        try:
            tensors = load(read(path.name))
            scale = tensors["mode_scale"].astype(np.float32)
            model = cls(
                mean=tensors["mean"].astype(np.float32),
                modes=tensors["modes"].astype(np.float32) * scale[:, None],
                pose_mean=tensors["pose_mean"].astype(np.float64),
                pose_modes=tensors["pose_modes"].astype(np.float64),
                explained=float(about["explained_variance"]),
                fitted=int(about["masks"]),
                shifts={str(name): np.array(shift, float) for name, shift in dict(about.get("shifts", {})).items()},
            )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
            raise _broken(path, str(error)) from error
        if (
            model.mean.shape != (_MAPS,)
            or model.modes.shape[1:] != (_MAPS,)
            or model.pose_modes.shape[1:] != (8,)
            or any(shift.shape != (len(model.modes),) for shift in model.shifts.values())
        ):
            raise _broken(path, f"mean of shape {model.mean.shape}, modes of shape {model.modes.shape}")
        return model


def _read_about(path: Path, read: Callable[[str], bytes]) -> dict[str, Any]:
    try:
        about = parse_json(read(path.name))
        version = about["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(path, str(error)) from error
    if version != FORMAT_VERSION:
        raise BundleError(
            where=str(path),
            found=f"mask bank format {version}",
            wanted=f"format {FORMAT_VERSION}",
            hint="install a version of xreal_synth that reads this bundle",
        )
    return dict(about)


def _broken(path: Path, detail: str) -> BundleError:
    return BundleError(
        where=str(path),
        found=f"the mask bank cannot be read ({detail})",
        wanted="shape_model.json and .safetensors as `bundle export --data` writes them",
        hint="copy the bundle again",
    )


def _vectors(masks: Sequence[Mask]) -> tuple[_Doubles, _Doubles]:
    maps = np.stack([_distance_maps(mask) for mask in masks]).astype(np.float64)
    return maps, np.stack([np.concatenate(_poses(mask)) for mask in masks])


def _poses(mask: Mask) -> tuple[_Doubles, _Doubles]:
    """The lungs' pose in shares of the side, and the aorta's in the lungs' frame."""
    (a0, b0, a1, b1), (c0, d0, c1, d1) = organ_box(mask, LEFT_LUNG), organ_box(mask, RIGHT_LUNG)
    chest = _pose(np.array([min(a0, c0), min(b0, d0), max(a1, c1), max(b1, d1)]) / mask.shape[0])
    aorta = np.array(organ_box(mask, AORTA)) / mask.shape[0]
    across, down = _framed(aorta[0::2], aorta[1::2], chest)
    return chest, _pose(np.array([across[0], down[0], across[1], down[1]]))


def _pose(box: _Doubles) -> _Doubles:
    x0, y0, x1, y1 = box
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2, np.log(x1 - x0), np.log(y1 - y0)])


def _framed(x: _Doubles, y: _Doubles, pose: _Doubles) -> tuple[_Doubles, _Doubles]:
    """Positions x and y in the frame of `pose` -> u, v."""
    w, h = np.exp(pose[2:]).round(9)
    return (x - pose[0]) / w + 0.5, (y - pose[1]) / h + 0.5


def _distance_maps(mask: Mask) -> _Floats:
    """The maps of a mask [D], signed distances in grid cells, positive inside, clipped at +-_CLIP."""
    chest, aorta = _poses(mask)
    cells = [_distance_map(mask == code, GRID, (chest,)) for code in (LEFT_LUNG, RIGHT_LUNG, HEART)]
    cells.append(_distance_map(mask == AORTA, AORTA_GRID, (aorta, chest)))
    return np.concatenate([cell.ravel() for cell in cells])


def _distance_map(organ: npt.NDArray[np.bool_], grid: int, frames: tuple[_Doubles, ...]) -> _Floats:
    """One organ's map [grid, grid] in the frame of the first pose, which lies in that of the next."""
    fine, edge = grid * _FINE, organ.shape[0] - 1
    x = y = (np.arange(fine) + 0.5) / fine * (1 + 2 * MARGIN) - MARGIN
    for cx, cy, log_w, log_h in frames:
        x, y = cx + (x - 0.5) * np.exp(log_w), cy + (y - 0.5) * np.exp(log_h)
    columns, rows = (np.floor(v * organ.shape[0]).astype(int).clip(0, edge) for v in (x, y))
    inside = organ[rows[:, None], columns[None, :]]
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    distance -= np.where(inside, 0.5, -0.5)
    cells = distance.reshape(grid, _FINE, grid, _FINE).mean(axis=(1, 3)) / _FINE
    return np.asarray(cells.clip(-_CLIP, _CLIP), dtype=np.float32)


def _interpolate(maps: _Floats, across: _Doubles, down: _Doubles) -> tuple[tuple[slice, slice], _Floats]:
    """Maps [C, G, G] bilinearly where u = across [S], v = down [S] lie on the grid.

    Returns the window of rows and columns of [S, S] that do, and the values [C, rows, columns] there.
    """
    rows, low_y, share_y = _cells(down, maps.shape[1])
    columns, low_x, share_x = _cells(across, maps.shape[2])
    lines = maps[:, low_y] + (maps[:, low_y + 1] - maps[:, low_y]) * share_y[None, :, None]
    left = lines[:, :, low_x]
    return (rows, columns), left + (lines[:, :, low_x + 1] - left) * share_x[None, None, :]


def _cells(position: _Doubles, grid: int) -> tuple[slice, npt.NDArray[np.int64], _Floats]:
    """The stretch of pixels on the grid, the grid cell below each of them and the share of the next."""
    cell = (position + MARGIN) / (1 + 2 * MARGIN) * grid - 0.5
    start, stop = (int(np.searchsorted(cell, edge)) for edge in (0.0, grid - 1.0))
    low = cell[start:stop].astype(np.int64)
    return slice(start, stop), low, (cell[start:stop] - low).astype(np.float32)


def _paint_chest(maps: _Floats) -> Mask:
    """Distances [3, H, W] of left lung, right lung, heart -> codes, the heart over the lungs.

    A slit narrower than _GAP cells between a lung and the heart, which organs drawn apart leave, goes to
    the nearer of the two.
    """
    left, right, heart = maps
    mask = np.where(left > right, np.uint8(LEFT_LUNG), np.uint8(RIGHT_LUNG))
    lung = np.maximum(left, right)
    slit = lung + heart > -_GAP
    mask[(lung <= 0) & ~(slit & (lung > heart))] = BACKGROUND
    mask[(heart > 0) | (slit & (heart >= lung) & (lung <= 0))] = HEART
    return mask
