"""Pictures of real images beside made ones, and of made images above their nearest training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from xreal_synth.evaluation.cases import Case, CaseReader
from xreal_synth.evaluation.privacy import Audit, CopyPair
from xreal_synth.evaluation.request import GeneratedFolder, PreparedRequest
from xreal_synth.types import GreyImage

_GAP = 4
_TITLE = 40
_COLOURS = np.array([(0, 0, 0), (70, 130, 220), (60, 180, 120), (220, 80, 70), (230, 180, 50)], np.uint8)
_BOX = (255, 210, 60)
_SHOWN, _STRIP = 256, 36
_FLAG, _WORDS = (255, 120, 90), (200, 200, 200)

Picture = npt.NDArray[np.uint8]


def made_beside_real(prepared: PreparedRequest, made: GeneratedFolder, out: Path) -> None:
    """Two blocks of up to 4 x 4 images at their own size: made on the left, real on the right.

    The images of one place in the two blocks share mask and labels; what was asked for stands below each.
    """
    chosen, read = prepared.cases[:16], prepared.reader.read
    left = _block([_named(made.labelled(case), _asked(case)) for case in chosen], 4)
    right = _block([_named(read(case.row).image, ", ".join(case.row.labels)) for case in chosen], 4)
    title = f"made by {prepared.info.name} (synthetic; for research, not for diagnosis)"
    gap = np.zeros((left.shape[0], 6 * _GAP), np.uint8)
    page = np.concatenate([left, gap, right], axis=1)
    picture = Image.fromarray(np.pad(page, ((_TITLE, 0), (2 * _GAP, 2 * _GAP))))
    draw, face = ImageDraw.Draw(picture), ImageFont.load_default(22)
    draw.text((2 * _GAP, 6), title, fill=235, font=face)
    draw.text((2 * _GAP + left.shape[1] + 6 * _GAP, 6), "real images", fill=235, font=face)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out, optimize=True)


def side_by_side(prepared: PreparedRequest, made: GeneratedFolder, out: Path) -> None:
    """Up to 16 cases in blocks of four rows: the real image, its mask, the healthy twin, the variant with its boxes."""
    shown = [_column(case, prepared.reader, made) for case in prepared.cases[:16]]
    picture = Image.fromarray(_block(shown, min(8, len(shown))))
    words = "rows: real, mask, made from the mask, with the finding"
    ImageDraw.Draw(picture).text((6, 4), words, fill="white")
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)


def draw_pairs(
    audit: Audit,
    pairs: Sequence[CopyPair],
    made: Mapping[str, GreyImage],
    training: Sequence[tuple[str, GreyImage]],
    out: Path,
) -> None:
    """Blocks of two rows: generated images above their nearest training images, distances over thresholds below."""
    cells = [_pair(audit, pair, made[pair.key], *own) for pair, own in zip(pairs, training, strict=True)]
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_block(cells, 6)).save(out)


def _column(case: Case, reader: CaseReader, made: GeneratedFolder) -> Picture:
    pair = reader.read(case.row)
    shown = Image.new("RGB", pair.image.shape[::-1])
    if case.findings:
        shown = Image.fromarray(_rgb(made.labelled(case)))
        draw = ImageDraw.Draw(shown)
        for box in (box for finding in case.findings for box in finding.boxes):
            draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=_BOX)
        draw.text((4, shown.height - 14), _asked(case), fill=_BOX)
    cells = (_rgb(pair.image), _COLOURS[pair.mask], _rgb(made.twin(case)), np.asarray(shown))
    column = np.concatenate([np.pad(cell, ((0, _GAP), (0, _GAP), (0, 0))) for cell in cells])
    return np.pad(column, ((0, 3 * _GAP), (0, 0), (0, 0)))


def _block(cells: Sequence[Picture], columns: int) -> Picture:
    filled = [*cells, *[np.zeros_like(cells[0])] * (-len(cells) % columns)]
    rows = [np.concatenate(filled[at : at + columns], axis=1) for at in range(0, len(filled), columns)]
    return np.concatenate(rows)


def _named(image: GreyImage, words: str) -> Picture:
    """A grey cell [H + strip, W] with as many of its words as fit in a strip below."""
    face = ImageFont.load_default(13)
    if face.getlength(words) > image.shape[1]:
        while face.getlength(words + " ..") > image.shape[1]:
            words = words[:-1]
        words += " .."
    picture = Image.fromarray(np.pad(image, ((0, 18 + _GAP), (0, _GAP))))
    ImageDraw.Draw(picture).text((3, image.shape[0] + 1), words, fill=190, font=face)
    return np.asarray(picture)


def _asked(case: Case) -> str:
    return ", ".join(finding.name for finding in case.findings) or "no finding"


def _rgb(image: GreyImage) -> Picture:
    return np.repeat(image[:, :, None], 3, axis=2)


def _pair(audit: Audit, pair: CopyPair, made: GreyImage, name: str, training: GreyImage) -> Picture:
    picture = Image.new("RGB", (_SHOWN + 6, 2 * _SHOWN + 2 * _STRIP + 12))
    draw, face = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for top, image in ((_STRIP // 2, made), (_STRIP + _SHOWN, training)):
        picture.paste(Image.fromarray(image).resize((_SHOWN, _SHOWN), Image.Resampling.LANCZOS), (0, top))
    words = " ".join(
        f"{metric} {getattr(pair, metric):.2f}/{audit.metrics[metric].threshold:.2f}" for metric in audit.metrics
    )
    colour = _FLAG if pair.by else _WORDS
    draw.text((2, 0), f"made {pair.key}" + (" COPY?" if pair.by else ""), fill=colour, font=face)
    draw.text((2, _STRIP // 2 + _SHOWN), f"training {name}"[:40], fill=_WORDS, font=face)
    draw.text((2, _STRIP + 2 * _SHOWN + 2), words, fill=colour, font=face)
    return np.asarray(picture)
