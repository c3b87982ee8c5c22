"""A joint shape model of the four organs: principal modes of their signed distance maps.

Cootes' point-free variant (Leventon 2000; Tsai 2003): every mask is brought into one frame by the box of
its lungs, each organ becomes a signed distance map on a low grid, and the four maps and the pose are one
vector, so that a large heart brings its lungs along. A draw is mean + sum of z_k * mode_k with standard
normal z_k truncated at +-2.

The frame: u = (x - cx) / w + 1/2, likewise v, for the lungs' box of centre (cx, cy) and size (w, h) in
shares of the side; the grid covers u and v from -MARGIN to 1 + MARGIN. pose = (cx, cy, log w, log h).
Axes: K modes, C four organs in code order, G grid cells a side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy import ndimage, special

from xreal_synth.anatomy.measure import lung_box
from xreal_synth.errors import BundleError
from xreal_synth.types import Mask
from xreal_synth.vocab import LEFT_LUNG, ORGANS, RIGHT_LUNG

FORMAT_VERSION = 1
MARGIN = 0.15
GRID = 64
TRUNCATE = 2.0
POSE_WEIGHT = 40.0
"""A pose unit against a grid cell of distance: makes the pose's variance comparable to an organ's."""

_FINE = 4
_CLIP = 12.0
_GAP = 1.2

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ShapeModel:
    """mean [C, G, G] and modes [K, C, G, G] in grid cells (positive inside, one standard deviation each),
    pose_mean [4], pose_modes [K, 4], explained: share of the variance the modes hold, fitted: masks used.
    """

    mean: _Floats
    modes: _Floats
    pose_mean: npt.NDArray[np.float64]
    pose_modes: npt.NDArray[np.float64]
    explained: float
    fitted: int

    @classmethod
    def fit(cls, masks: Sequence[Mask], modes: int = 32) -> ShapeModel:
        """Fits validated masks uint8 [H, H], at least `modes` + 1 of them."""
        assert len(masks) > modes, "a shape model needs more masks than modes"
        maps = np.stack([_distance_maps(mask) for mask in masks])
        poses = np.stack([_pose(mask) for mask in masks])
        vectors = np.concatenate([maps.reshape(len(masks), -1), POSE_WEIGHT * poses], axis=1).astype(np.float64)
        mean = vectors.mean(axis=0)
        _, spread, axes = np.linalg.svd(vectors - mean, full_matrices=False)
        scaled = axes[:modes] * (spread[:modes, None] / np.sqrt(len(masks) - 1))
        return cls(
            mean=mean[:-4].reshape(maps.shape[1:]).astype(np.float32),
            modes=scaled[:, :-4].reshape(modes, *maps.shape[1:]).astype(np.float32),
            pose_mean=mean[-4:] / POSE_WEIGHT,
            pose_modes=scaled[:, -4:] / POSE_WEIGHT,
            explained=float((spread[:modes] ** 2).sum() / (spread**2).sum()),
            fitted=len(masks),
        )

    def sample(self, rng: np.random.Generator, size: int) -> Mask:
        """One anatomy uint8 [size, size]; reads K uniform numbers of the stream. Not yet validated."""
        low = float(special.ndtr(-TRUNCATE))
        z = special.ndtri(rng.uniform(low, 1.0 - low, len(self.modes))).round(6)
        return self.render(z, size)

    def render(self, z: npt.NDArray[np.float64], size: int) -> Mask:
        """The mask uint8 [size, size] of mode weights z [K]. Sums in a fixed order: no BLAS."""
        maps, pose = self.mean.copy(), self.pose_mean.copy()
        for weight, mode, pose_mode in zip(z, self.modes, self.pose_modes, strict=True):
            maps += np.float32(weight) * mode
            pose += weight * pose_mode
        cx, cy, w, h = pose[0], pose[1], *np.exp(pose[2:]).round(9)
        centres = (np.arange(size) + 0.5) / size
        across = (centres - cx) / w + 0.5
        down = (centres - cy) / h + 0.5
        return _paint(_interpolate(maps, across, down))

    def save(self, folder: Path) -> None:
        """Writes shape_model.safetensors (int8 modes with a scale each) and shape_model.json."""
        folder.mkdir(parents=True, exist_ok=True)
        scale = np.abs(self.modes).reshape(len(self.modes), -1).max(axis=1) / 127.0
        quantised = np.rint(self.modes / scale[:, None, None, None]).astype(np.int8)
        tensors = {
            "mean": self.mean.astype(np.float16),
            "modes": quantised,
            "mode_scale": scale.astype(np.float32),
            "pose_mean": self.pose_mean,
            "pose_modes": self.pose_modes,
        }
        (folder / "shape_model.safetensors").write_bytes(save(tensors))
        about = {
            "format_version": FORMAT_VERSION,
            "organs": list(ORGANS),
            "grid": self.mean.shape[-1],
            "margin": MARGIN,
            "modes": len(self.modes),
            "explained_variance": round(self.explained, 4),
            "masks": self.fitted,
        }
        (folder / "shape_model.json").write_text(json.dumps(about, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> ShapeModel:
        """Reads what `save` wrote. Raises BundleError if files are missing, broken or newer."""
        about = _read_about(folder / "shape_model.json")
        try:
            tensors = load((folder / "shape_model.safetensors").read_bytes())
            scale = tensors["mode_scale"].astype(np.float32)
            return cls(
                mean=tensors["mean"].astype(np.float32),
                modes=tensors["modes"].astype(np.float32) * scale[:, None, None, None],
                pose_mean=tensors["pose_mean"].astype(np.float64),
                pose_modes=tensors["pose_modes"].astype(np.float64),
                explained=float(about["explained_variance"]),
                fitted=int(about["masks"]),
            )
        except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
            raise _broken(folder / "shape_model.safetensors", str(error)) from error


def _read_about(path: Path) -> dict[str, float]:
    try:
        about = json.loads(path.read_text())
        version = about["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(path, str(error)) from error
    if version != FORMAT_VERSION or about.get("margin") != MARGIN:
        raise BundleError(
            where=str(path),
            found=f"mask bank format {version}",
            wanted=f"format {FORMAT_VERSION}",
            mend="install a version of xreal_synth that reads this bundle",
        )
    return dict(about)


def _broken(path: Path, detail: str) -> BundleError:
    return BundleError(
        where=str(path),
        found=f"the mask bank cannot be read ({detail})",
        wanted="shape_model.json and shape_model.safetensors as `python -m xreal_synth.anatomy.fit_bank` writes",
        mend="copy the bundle again",
    )


def _pose(mask: Mask) -> npt.NDArray[np.float64]:
    (a0, b0, a1, b1), (c0, d0, c1, d1) = lung_box(mask, LEFT_LUNG), lung_box(mask, RIGHT_LUNG)
    x0, y0, x1, y1 = (v / mask.shape[0] for v in (min(a0, c0), min(b0, d0), max(a1, c1), max(b1, d1)))
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2, np.log(x1 - x0), np.log(y1 - y0)])


def _distance_maps(mask: Mask) -> _Floats:
    """Signed distances float32 [C, G, G] in grid cells, positive inside, clipped at +-_CLIP."""
    cx, cy, log_w, log_h = _pose(mask)
    fine = GRID * _FINE
    span = ((np.arange(fine) + 0.5) / fine * (1 + 2 * MARGIN) - MARGIN - 0.5) * mask.shape[0]
    columns = np.floor(span * np.exp(log_w) + cx * mask.shape[0]).astype(int)
    rows = np.floor(span * np.exp(log_h) + cy * mask.shape[0]).astype(int)
    edge = mask.shape[0] - 1
    framed = mask[rows.clip(0, edge)[:, None], columns.clip(0, edge)[None, :]]
    maps = np.empty((len(ORGANS), GRID, GRID), dtype=np.float32)
    for i, code in enumerate(ORGANS.values()):
        inside = framed == code
        if not inside.any():
            maps[i] = -_CLIP
            continue
        distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
        distance -= np.where(inside, 0.5, -0.5)
        maps[i] = distance.reshape(GRID, _FINE, GRID, _FINE).mean(axis=(1, 3)) / _FINE
    return maps.clip(-_CLIP, _CLIP)


def _interpolate(maps: _Floats, across: npt.NDArray[np.float64], down: npt.NDArray[np.float64]) -> _Floats:
    """Maps [C, G, G] bilinearly at frame positions u = across [S], v = down [S] -> [C, S, S]."""
    low_y, share_y = _cells(down, maps.shape[1])
    low_x, share_x = _cells(across, maps.shape[2])
    rows = maps[:, low_y] + (maps[:, low_y + 1] - maps[:, low_y]) * share_y[None, :, None]
    left = rows[:, :, low_x]
    return left + (rows[:, :, low_x + 1] - left) * share_x[None, None, :]


def _cells(position: npt.NDArray[np.float64], grid: int) -> tuple[npt.NDArray[np.int64], _Floats]:
    cell = ((position + MARGIN) / (1 + 2 * MARGIN) * grid - 0.5).clip(0, grid - 1)
    low = np.minimum(cell.astype(np.int64), grid - 2)
    return low, (cell - low).astype(np.float32)


def _paint(maps: _Floats) -> Mask:
    """Distances [C, S, S] -> codes: lungs, over them the heart, over it the aorta.

    A slit narrower than _GAP cells between a lung and the heart, which organs drawn apart leave, goes to
    the nearer of the two.
    """
    left, right, heart, aorta = maps
    mask = np.where(left > right, np.uint8(LEFT_LUNG), np.uint8(RIGHT_LUNG))
    lung = np.maximum(left, right)
    near = lung + heart > -_GAP
    mask[(lung <= 0) & ~(near & (lung > heart))] = 0
    mask[(heart > 0) | (near & (heart >= lung) & (lung <= 0))] = ORGANS["heart"]
    mask[aorta > 0] = ORGANS["aorta"]
    return mask
