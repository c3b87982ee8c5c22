"""Fits the placement prior: `python -m tests.planning.fit_prior --data DIR`.

Box tables: NIH BBox_List_2017 (8 findings; Cardiomegaly is left out, its region is the heart) and the RSNA
pneumonia challenge's labels (lung opacity: Pneumonia and Lung Opacity), as torchxrayvision ships them.
Their images are not at hand, so each box is read in the mean lung frame of its view (PA, AP): the mean of
each lung's box over the training masks of DIR. Boxes of patients under 18 and of DIR's own images are left
out; the latter, which have masks, are then what the prior is checked against.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import io
import json
import re
import sys
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xreal_synth.anatomy.label_map import organ_box, read_mask
from xreal_synth.errors import PlacementError, TrainingError
from xreal_synth.findings import LEFT_LUNG, LUNGS, RIGHT_LUNG, canonical, takes_box
from xreal_synth.images.manifest import ImageRow, read_manifest
from xreal_synth.planning.prior import FORMAT_VERSION, PATH, Boxes, Lung, Prior, SidePrior
from xreal_synth.storage import LocalStore
from xreal_synth.types import Mask, NormBox

KEEP = 500
"""Boxes kept a finding and side: drawn at random from the larger tables."""

BANDWIDTH = 0.35
"""Blur, in standard deviations of the boxes: Scott's factor for 4 numbers of about 4000 boxes."""

REGION = 0.9
_SIDES: tuple[Lung, Lung] = ("left", "right")


@dataclass(frozen=True, slots=True)
class Frame:
    """A lung box per side, normalised xyxy."""

    left: NormBox
    right: NormBox

    def side(self, lung: Lung) -> NormBox:
        """The mean box of one lung, the patient's."""
        return self.left if lung == "left" else self.right

    def lung_of(self, box: NormBox) -> Lung:
        """The lung nearer to the box's centre, the border lying midway between the two lungs' boxes."""
        return "left" if (box[0] + box[2]) / 2 > (self.right[2] + self.left[0]) / 2 else "right"

    def read(self, box: NormBox, lung: Lung) -> list[float]:
        """(u, v, log w, log h) of a normalised box over that lung's box."""
        x0, y0, x1, y1 = self.side(lung)
        w, h = x1 - x0, y1 - y0
        u, v = ((box[0] + box[2]) / 2 - x0) / w, ((box[1] + box[3]) / 2 - y0) / h
        return [u, v, float(np.log((box[2] - box[0]) / w)), float(np.log((box[3] - box[1]) / h))]


def frame_of(mask: Mask) -> Frame:
    """The lung boxes of one image's mask. The mask is uint8 [H, W]."""
    return Frame(_norm_box(mask, LEFT_LUNG), _norm_box(mask, RIGHT_LUNG))


def _norm_box(mask: Mask, code: int) -> NormBox:
    x0, y0, x1, y1 = (v / mask.shape[0] for v in organ_box(mask, code))
    return x0, y0, x1, y1


def manifest_rows(data: Path) -> tuple[ImageRow, ...]:
    """All rows of the manifest, with what the prior needs of them; raises TrainingError."""
    needed = ("mask", "split", "view", "mask_score", "original_id")
    found = read_manifest(LocalStore(data), needed)
    if found.refused:
        first = found.refused[0]
        raise TrainingError(where=str(data), found=f"{len(found.refused)} rows refused; {first.file}: {first.reason}")
    return found.rows


def mean_frames(data: Path) -> dict[str, Frame]:
    """The mean lung frame by view over the training masks with a score of at least 0.9."""
    frames: dict[str, list[Frame]] = {"PA": [], "AP": []}
    for row in manifest_rows(data):
        if row.split == "train" and row.mask_score is not None and row.mask_score >= 0.9:
            frames[row.view].append(frame_of(read_mask(data / row.mask)))
    return {
        view: Frame(*(_mean([frame.side(lung) for frame in found]) for lung in _SIDES))
        for view, found in frames.items()
    }


def fit(boxes: Iterable[TableBox], frames: dict[str, Frame]) -> dict[str, dict[str, object]]:
    """The stored form of each finding's prior."""
    points: dict[str, dict[Lung, list[list[float]]]] = {}
    for box in boxes:
        frame = frames[box.view]
        lung = frame.lung_of(box.box)
        points.setdefault(box.finding, {"left": [], "right": []})[lung].append(frame.read(box.box, lung))
    rng = np.random.default_rng(2017)
    entries: dict[str, dict[str, object]] = {}
    for name in sorted(points):
        counts = {lung: len(points[name][lung]) for lung in _SIDES}
        entries[name] = {
            "boxes": sum(counts.values()),
            "left_share": round(counts["left"] / sum(counts.values()), 3),
            **{lung: _stored(np.array(points[name][lung]), rng) for lung in _SIDES},
        }
    return entries


def check(prior: Prior, data: Path) -> dict[str, float]:
    """The prior against the images of DIR that have boxes and a mask, read in their own lungs."""
    inside, overlaps, drawn_overlaps = [], [], []
    rng = np.random.default_rng(39)
    images = set()
    for image, finding, box in image_boxes(manifest_rows(data)):
        if finding not in prior.findings:
            continue
        mask = read_mask(data / image)
        frame = frame_of(mask)
        lung = frame.lung_of(box)
        side = prior.findings[finding].sides[lung]
        centre = np.array([frame.read(box, lung)[:2]])
        inside.append(centre_density(side, centre)[0] >= region_threshold(side))
        overlaps.append(_lung_share(mask, box))
        drawn_overlaps.append(np.mean([_lung_share(mask, b) for b in _drawn_boxes(side, frame.side(lung), rng)]))
        images.add(image)
    shares = np.array(overlaps)
    return {
        "films": len(images),
        "boxes": len(inside),
        "share_of_centres_in_90_region": round(float(np.mean(inside)), 3),
        "mean_share_of_box_in_lungs": round(float(shares.mean()), 3),
        "share_of_boxes_with_60_percent_in_lungs": round(float((shares >= 0.6).mean()), 3),
        "mean_share_in_lungs_of_prior_draws": round(float(np.mean(drawn_overlaps)), 3),
    }


def centre_density(side: SidePrior, centres: Boxes) -> Boxes:
    """The prior's density of box centres [M, 2] -> [M], per unit of (u, v)."""
    delta = (centres[:, None, :] - side.points[None, :, :2]) / side.bandwidth[:2]
    kernel = np.exp(-0.5 * (delta**2).sum(axis=2)) / (2 * np.pi * side.bandwidth[:2].prod())
    return np.asarray(kernel.mean(axis=1))


def region_threshold(side: SidePrior) -> float:
    """The density of centres that REGION of the prior's own draws exceed."""
    own = side.draw(np.random.default_rng(90), 4000)[:, :2]
    return float(np.quantile(centre_density(side, own), 1 - REGION))


def _drawn_boxes(side: SidePrior, lung: NormBox, rng: np.random.Generator) -> list[NormBox]:
    x0, y0, x1, y1 = lung
    boxes: list[NormBox] = []
    for u, v, log_w, log_h in side.draw(rng, 100):
        x, y = x0 + u * (x1 - x0), y0 + v * (y1 - y0)
        w, h = np.exp(log_w) * (x1 - x0) / 2, np.exp(log_h) * (y1 - y0) / 2
        boxes.append((x - w, y - h, x + w, y + h))
    return boxes


def _lung_share(mask: Mask, box: NormBox) -> float:
    x0, y0, x1, y1 = (round(v * mask.shape[0]) for v in box)
    inside = mask[max(0, y0) : y1, max(0, x0) : x1]
    return float(np.isin(inside, LUNGS).sum() / max(1, (x1 - x0) * (y1 - y0)))


def _stored(points: Boxes, rng: np.random.Generator) -> dict[str, list[object]]:
    bandwidth = BANDWIDTH * points.std(axis=0)
    if len(points) > KEEP:
        points = points[np.sort(rng.choice(len(points), KEEP, replace=False))]
    return {"bandwidth": bandwidth.round(4).tolist(), "points": points.round(3).ravel().tolist()}


def _mean(boxes: Sequence[NormBox]) -> NormBox:
    x0, y0, x1, y1 = (round(float(v), 4) for v in np.mean(boxes, axis=0))
    return x0, y0, x1, y1


def _dump(stored: dict[str, object]) -> str:
    """JSON with a line per list of numbers, so that a change can be read as a diff."""
    text = json.dumps(stored, indent=1)
    return re.sub(r"\[[^\[\]{}]*\]", lambda match: re.sub(r"\s+", "", match[0]), text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: fits the prior on the public box tables and writes its JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.planning.fit_prior", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and masks/")
    parser.add_argument("--out", type=Path, default=PATH, help="JSON to write (default: the package's)")
    options = parser.parse_args(arguments)
    frames = mean_frames(options.data)
    own = {row.original_id for row in manifest_rows(options.data)}
    boxes = [*nih_boxes(without=own), *rsna_boxes()]
    findings = fit([box for box in boxes if takes_box(box.finding)], frames)
    stored: dict[str, object] = {
        "format_version": FORMAT_VERSION,
        "sources": "NIH BBox_List_2017 (Wang 2017), RSNA pneumonia challenge 2018; from torchxrayvision",
        "point": "u, v, log w, log h over the box of the patient's left or right lung",
        "frames": {view: {"left": frame.left, "right": frame.right} for view, frame in frames.items()},
        "findings": findings,
    }
    options.out.write_text(_dump(stored))
    figures = check(Prior.load(options.out), options.data)
    options.out.write_text(_dump({**stored, "check": figures}))
    for name, entry in findings.items():
        print(f"{name:<14} {entry['boxes']:>6} boxes, {entry['left_share']:.0%} in the left lung")
    for name, value in figures.items():
        print(f"{name.replace('_', ' ')}: {value:g}")
    return 0


NATIVE = 1024.0
"""Both tables are in pixels of images of 1024x1024."""

ADULT = 18


@dataclass(frozen=True, slots=True)
class TableBox:
    """A box of a table: the finding's own name, view PA or AP, normalised xyxy."""

    finding: str
    view: str
    box: NormBox


def nih_boxes(without: Collection[str] = ()) -> Iterator[TableBox]:
    """NIH BBox_List_2017: boxes of adults, images named in `without` left out."""
    folder = _tables()
    views = {
        row["Image Index"]: (row["View Position"], int(row["Patient Age"]))
        for row in _rows(folder / "Data_Entry_2017_v2020.csv.gz")
    }
    with gzip.open(folder / "BBox_List_2017.csv.gz", "rt", newline="") as file:
        for image, finding, *numbers in list(csv.reader(file))[1:]:
            view, age = views[image]
            name = canonical(finding)
            assert name is not None, f"{finding} is not in findings.py"
            if age >= ADULT and image not in without:
                yield TableBox(name, view, _norm(*map(float, numbers[:4])))


def rsna_boxes() -> Iterator[TableBox]:
    """RSNA 2018: lung opacities suspicious for pneumonia, of adults, once as each of the two findings."""
    folder = _tables()
    headers = _rows(folder / "kaggle_stage_2_train_images_dicom_headers.csv.gz")
    views = {row["PatientID"]: (row["ViewPosition"], int(float(row["PatientAge"]))) for row in headers}
    with zipfile.ZipFile(folder / "kaggle_stage_2_train_labels.csv.zip") as archive:
        text = archive.read("stage_2_train_labels.csv").decode()
    for row in csv.DictReader(io.StringIO(text)):
        view, age = views[row["patientId"]]
        if row["Target"] == "1" and age >= ADULT:
            box = _norm(*(float(row[key]) for key in ("x", "y", "width", "height")))
            for name in ("Pneumonia", "Lung Opacity"):
                yield TableBox(name, view, box)


def image_boxes(rows: Iterable[ImageRow]) -> Iterator[tuple[str, str, NormBox]]:
    """(mask path, finding, normalised xyxy) of the images' own boxes, minors left out."""
    for row in rows:
        if row.split == "minor":
            continue
        for boxed in row.boxes:
            name = canonical(boxed.name)
            assert name is not None, f"{boxed.name} is not in findings.py"
            yield row.mask, name, boxed.box


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def _norm(x: float, y: float, w: float, h: float) -> NormBox:
    return x / NATIVE, y / NATIVE, (x + w) / NATIVE, (y + h) / NATIVE


def _tables() -> Path:
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        raise PlacementError(
            found="torchxrayvision is not installed",
            wanted="its box tables, to fit the placement prior",
            hint="pip install torchxrayvision",
        )
    return Path(spec.origin).parent / "data"


if __name__ == "__main__":
    sys.exit(main())
