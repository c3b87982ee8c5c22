"""The review sheet of prepared images: masks drawn on them, refused ones first, then from the least certain on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw

from xreal_synth.findings import ORGANS
from xreal_synth.report.contact_sheet import FAINT, PAGE, PANEL, TEXT, WARNING
from xreal_synth.report.overlay import ORGAN_COLOURS, font, outlined
from xreal_synth.storage import LocalStore
from xreal_synth.types import GreyImage, Mask

CELL: Final = 240
PAD: Final = 8
CAPTION: Final = 50
MARGIN: Final = 24
HEADER: Final = 70
NOTICE: Final = "Refused images are not used. Where kept outlines are wrong: prepare again with --min-score."


@dataclass(frozen=True, slots=True, eq=False)
class ReviewImage:
    """A square image uint8 [S, S], its mask, its name, the segmenter's certainty, why it was refused (""), or what else
    is to be said of it."""

    image: GreyImage
    mask: Mask
    name: str
    score: float | None = None
    refused: str = ""
    remark: str = ""


def review_sheet(
    images: Sequence[ReviewImage], out: Path, *, title: str, notice: str = NOTICE, columns: int = 6
) -> None:
    """Draws the images, in the order given, into a PNG at `out`, replaced as a whole."""
    assert images
    assert columns >= 1
    rows = -(-len(images) // columns)
    width, height = CELL + 2 * PAD, CELL + CAPTION + 2 * PAD
    across = min(columns, max(len(images), 3))
    size = (2 * MARGIN + across * (width + PAD) - PAD, HEADER + rows * (height + PAD) + MARGIN)
    page = Image.new("RGB", size, PAGE)
    _header(page, title, notice)
    for at, image in enumerate(images):
        x, y = MARGIN + at % columns * (width + PAD), HEADER + at // columns * (height + PAD)
        ImageDraw.Draw(page).rounded_rectangle((x, y, x + width - 1, y + height - 1), radius=8, fill=PANEL)
        page.paste(outlined(image.image, image.mask, CELL), (x + PAD, y + PAD))
        _caption(ImageDraw.Draw(page), image, x + PAD, y + PAD + CELL + 6)
    buffer = io.BytesIO()
    page.save(buffer, "PNG", compress_level=6)
    LocalStore(out.parent).replace(out.name, buffer.getvalue())


def _header(page: Image.Image, title: str, notice: str) -> None:
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, 14), title, font=font(20, "-Bold"), fill=TEXT)
    draw.text((MARGIN, 42), notice, font=font(12), fill=FAINT)
    x = page.width - MARGIN
    for name, code in reversed(ORGANS.items()):
        label = name.replace("_", " ")
        x -= int(draw.textlength(label, font=font(12)))
        draw.text((x, 26), label, font=font(12), fill=FAINT, anchor="lm")
        x -= 24
        draw.line((x, 26, x + 17, 26), fill=ORGAN_COLOURS[code], width=2)
        x -= 14


def _caption(draw: ImageDraw.ImageDraw, image: ReviewImage, x: int, y: int) -> None:
    draw.text((x, y), _fitted(draw, image.name), font=font(12), fill=TEXT)
    if image.refused or image.remark:
        refused = f"refused{_score(image, ' ({})')}: {image.refused}"
        first, rest = _two_lines(draw, refused if image.refused else image.remark)
        draw.text((x, y + 15), first, font=font(11), fill=WARNING)
        draw.text((x, y + 29), _fitted(draw, rest), font=font(11), fill=WARNING)
        return
    draw.text((x, y + 17), _score(image, "certainty {}") or "mask was given", font=font(12), fill=FAINT)


def _score(image: ReviewImage, text: str) -> str:
    return "" if image.score is None else text.format(f"{image.score:.3f}")


def _two_lines(draw: ImageDraw.ImageDraw, text: str) -> tuple[str, str]:
    words = text.split(" ")
    for count in range(len(words), 0, -1):
        first = " ".join(words[:count])
        if draw.textlength(first, font=font(11)) <= CELL:
            return first, " ".join(words[count:])
    return text, ""


def _fitted(draw: ImageDraw.ImageDraw, text: str) -> str:
    if draw.textlength(text, font=font(12)) <= CELL:
        return text
    while text and draw.textlength(f"…{text}", font=font(12)) > CELL:
        text = text[1:]
    return f"…{text}"
