"""Images for the audit of privacy: those of a dataset, training and validation images; and the picture of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from xreal_synth.errors import TrainingError
from xreal_synth.evaluation.cases import CaseReader
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.privacy import Audit, CopyPair, MeasuredSet, reduced
from xreal_synth.evaluation.request import Report
from xreal_synth.images.manifest import BadImage, ImageRow
from xreal_synth.types import GreyImage

_BATCH = 8
_SHOWN = 256
_STRIP = 36
_FLAG, _WORDS = (255, 120, 90), (200, 200, 200)


def see(evaluators: Evaluators, images: Iterable[tuple[GreyImage, str]]) -> MeasuredSet:
    """Images of one size with whose they are, read once in a stream. Images uint8 [H, W]."""
    small, features, patients = [], [], []
    stream = iter(images)
    while batch := list(islice(stream, _BATCH)):
        with torch.inference_mode():
            found = evaluators.classifier.features(evaluators.batch([image for image, _ in batch]))
        features.append(found.float().cpu().numpy())
        small += [reduced(image) for image, _ in batch]
        patients += [patient for _, patient in batch]
    width = features[0].shape[1] if features else 0
    return MeasuredSet(
        np.stack(small) if small else np.empty((0, 1, 1), np.float32),
        np.concatenate(features) if features else np.empty((0, width), np.float32),
        np.asarray(patients, dtype=str),
    )


def real_images(
    reader: CaseReader, rows: Sequence[ImageRow], used: list[ImageRow], what: str, report: Report
) -> Iterator[tuple[GreyImage, str]]:
    """The images of a manifest's rows that can be read; `used` gets their rows. Images uint8 [S, S]."""
    for row in rows:
        report(f"looking at {what} images", 1, len(rows))
        try:
            image = reader.image(row)
        except BadImage:
            continue
        used.append(row)
        yield image, row.patient


def check_patients(training: Sequence[ImageRow], validation: Sequence[ImageRow]) -> None:
    """Raises TrainingError without training images of two patients, or where a patient is in both."""
    patients = {row.patient for row in training}
    if len(patients) < 2:
        raise TrainingError(
            found=f"usable training images of {len(patients)} patients",
            wanted="images of at least two: the threshold comes from images of different patients",
            hint="see the manifest, or name another --train-split",
        )
    shared = sorted(patients & {row.patient for row in validation})
    if shared:
        raise TrainingError(
            found=f"patients both in training and in validation images: {', '.join(shared[:5])}",
            wanted="validation images of other patients: their rate is what chance reaches",
            hint="name other splits, or correct the manifest",
        )


def draw_pairs(
    audit: Audit,
    pairs: Sequence[CopyPair],
    made: dict[str, GreyImage],
    training: Sequence[GreyImage],
    names: Sequence[str],
    out: Path,
    *,
    columns: int = 6,
) -> None:
    """Blocks of two rows: generated images above their nearest training images, distances over thresholds below."""
    cells = [
        _cell(audit, pair, made[pair.key], image, name)
        for pair, image, name in zip(pairs, training, names, strict=True)
    ]
    blank = np.zeros_like(cells[0])
    cells += [blank] * (-len(cells) % columns)
    rows = [np.concatenate(cells[at : at + columns], axis=1) for at in range(0, len(cells), columns)]
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(out)


def _cell(
    audit: Audit, pair: CopyPair, made: GreyImage, training: GreyImage, name: str
) -> npt.NDArray[np.uint8]:
    picture = Image.new("RGB", (_SHOWN + 6, 2 * _SHOWN + 2 * _STRIP + 12))
    draw, face = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for top, image in ((_STRIP // 2, made), (_STRIP + _SHOWN, training)):
        picture.paste(Image.fromarray(image).resize((_SHOWN, _SHOWN), Image.Resampling.LANCZOS), (0, top))
    words = " ".join(
        f"{metric} {getattr(pair, metric):.2f}/{audit.metrics[metric].threshold:.2f}"
        for metric in audit.metrics
    )
    colour = _FLAG if pair.by else _WORDS
    draw.text((2, 0), f"made {pair.key}" + (" COPY?" if pair.by else ""), fill=colour, font=face)
    draw.text((2, _STRIP // 2 + _SHOWN), f"training {name}"[:40], fill=_WORDS, font=face)
    draw.text((2, _STRIP + 2 * _SHOWN + 2), words, fill=colour, font=face)
    return np.asarray(picture)
