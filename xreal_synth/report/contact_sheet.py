"""Sheets of images: every image of some groups, plain above, with masks and boxes below; and prepared ones for review,
masks drawn on them, refused ones first, then from the least certain on."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, PngImagePlugin

from xreal_synth.errors import DatasetError
from xreal_synth.findings import ORGANS
from xreal_synth.report.drawing import ORGAN_COLOURS, Colour, annotated, font, outlined, plain
from xreal_synth.storage import LocalStore
from xreal_synth.types import GreyImage, Mask, Role, Sample

NOTICE: Final = "Synthetic images made by a model: for research, not for diagnosis."
NOTICE_EDITED: Final = "Patients' images, as they are or edited by a model: for research, not for diagnosis."

PAGE: Final[Colour] = (14, 18, 22)
PANEL: Final[Colour] = (25, 31, 38)
TEXT: Final[Colour] = (232, 238, 243)
FAINT: Final[Colour] = (146, 159, 171)
WARNING: Final[Colour] = (255, 190, 84)

CELL: Final = 232
GAP: Final = 10
PAD: Final = 10
MARGIN: Final = 24
HEADER: Final = 74
FOOTER: Final = 52
CAPTION: Final = 56


Block = tuple[tuple[Sample, ...], bool]
"""Members of one group that stand side by side on one row, and whether the group has others than its healthy one."""


def contact_sheet(samples: Iterable[Sample], out: Path, *, columns: int = 6, title: str) -> None:
    """Draws the samples into a PNG at `out`, a group's members side by side, `columns` images a row.

    Each image is drawn twice: as it is, and with organ outlines, finding regions, boxes and names. Raises
    DatasetError if there are no samples.
    """
    LocalStore(out.parent).replace(out.name, sheet_png(samples, columns=columns, title=title))


def sheet_png(samples: Iterable[Sample], *, columns: int = 6, title: str) -> bytes:
    """The same sheet as PNG bytes, for places that are not a folder. Raises DatasetError where there is no image."""
    page, notice = sheet_picture(samples, columns=columns, title=title)
    reported = PngImagePlugin.PngInfo()
    reported.add_itxt("Title", title)
    reported.add_itxt("Description", notice)
    return _encoded(page, reported)


def sheet_picture(samples: Iterable[Sample], *, columns: int = 6, title: str) -> tuple[Image.Image, str]:
    """The same sheet as a picture, and its notice. Raises DatasetError where there is no image."""
    assert columns >= 1
    rows = _rows(samples, columns)
    if not rows:
        raise DatasetError(found="no images to draw a contact sheet of", hint="make at least one sample first")
    shown = [sample for row in rows for members, _ in row for sample in members]
    heights = [2 * max(_height(one) for members, _ in row for one in members) + GAP + CAPTION + 2 * PAD for row in rows]
    widest = max(sum(_width(block) + PAD for block in row) - PAD for row in rows)
    width = max(widest + 2 * MARGIN, 720)
    page = Image.new("RGB", (width, HEADER + sum(heights) + PAD * (len(rows) - 1) + FOOTER), PAGE)
    counted = "1 image" if len(shown) == 1 else f"{len(shown)} images"
    free = shown[0].meta.sampling.get("control") == "none"
    below = "below with organ masks that it was not made to follow (control: none)"
    _header(page, title, f"{counted}, each plain above and {below if free else 'with its masks below'}", 18, 53)
    y = HEADER
    for row, height in zip(rows, heights, strict=True):
        x = MARGIN
        for block in row:
            _draw_block(page, block, x, y, height)
            x += _width(block) + PAD
        y += height + PAD
    notice = NOTICE_EDITED if any(one.meta.source for one in shown) else NOTICE
    draw, y = ImageDraw.Draw(page), page.height - FOOTER // 2
    draw.text((MARGIN, y), notice, font=font(15, "-Bold"), fill=WARNING, anchor="lm")
    if page.width > 1100:
        side = "sides are the patient's: left is on the right of the picture"
        draw.text((page.width - MARGIN, y), side, font=font(12), fill=FAINT, anchor="rm")
    return page, notice


def _rows(samples: Iterable[Sample], columns: int) -> list[list[Block]]:
    """Whole groups beside one another, cut where one has more members than a row has room for."""
    rows: list[list[Block]] = []
    room = 0
    for _, run in groupby(samples, key=lambda sample: sample.meta.group):
        members = tuple(run)
        twin = any(sample.meta.member != Role.healthy for sample in members)
        for start in range(0, len(members), columns):
            block = members[start : start + columns]
            if len(block) > room:
                rows.append([])
                room = columns
            rows[-1].append((block, twin))
            room -= len(block)
    return rows


def _width(block: Block) -> int:
    return len(block[0]) * (CELL + GAP) - GAP + 2 * PAD


def _height(sample: Sample) -> int:
    """Pixels that an image takes on the sheet, top to bottom."""
    height, width = sample.image.shape
    return int(max(1, round(CELL * height / width)))


def _draw_block(page: Image.Image, block: Block, x: int, y: int, height: int) -> None:
    draw, (members, twin) = ImageDraw.Draw(page), block
    draw.rounded_rectangle((x, y, x + _width(block) - 1, y + height - 1), radius=8, fill=PANEL)
    for place, sample in enumerate(members):
        left, top = x + PAD + place * (CELL + GAP), y + PAD
        page.paste(plain(sample, CELL), (left, top))
        page.paste(annotated(sample, CELL), (left, top + _height(sample) + GAP))
        role, *details = _captions(sample, twin)
        under = y + height - PAD - CAPTION + 8
        draw.text((left, under), sample.meta.key, font=font(13, "-Bold"), fill=TEXT)
        draw.text((left + CELL, under + 1), role, font=font(11), fill=FAINT, anchor="ra")
        for line, text in enumerate(details[:2]):
            draw.text((left, under + 19 + 15 * line), _fitted(draw, text, CELL), font=font(12), fill=TEXT)


def _captions(sample: Sample, twin: bool) -> list[str]:
    """The image's role, and up to two lines; a sham shows no finding, where the first variant or another group does."""
    meta, source = sample.meta, sample.meta.source
    placed = [" ".join([one.name, *_where(one.side, one.zone)]) for one in meta.findings]
    if source is not None and meta.member == Role.healthy:
        return ["real image", source.id, ", ".join(source.labels)]
    if meta.sham:
        role = "sham of a real image" if source is not None else "sham"
        return [role, "painted healthy, in place of", ", ".join(place.name for place in meta.sham)]
    if source is not None:
        gone = [f"{own.name} painted over" for own in source.findings if own.removed is not None]
        return ["edited", *(", ".join(part) for part in (gone, placed) if part)]
    role = {Role.healthy: "healthy twin" if twin else "", Role.variant: "variant", Role.sham: "sham"}[
        Role.of(meta.member)
    ]
    return [role, placed[0], ", ".join(placed[1:])] if placed else [role, "no finding asked for"]


def _where(*given: str) -> list[str]:
    words = [word for word in given if word not in ("any", "", "none")]
    return ["·", *words] if words else []


def _fitted(draw: ImageDraw.ImageDraw, text: str, width: int, *, tail: bool = False) -> str:
    """The text, or as much of its beginning (its end with `tail`) as is `width` pixels wide."""
    if draw.textlength(text, font=font(12)) <= width:
        return text
    while text and draw.textlength(f"{text}…", font=font(12)) > width:
        text = text[1:] if tail else text[:-1]
    return f"…{text}" if tail else f"{text.rstrip()}…"


def _header(page: Image.Image, title: str, below: str, y: int, legend_y: int) -> None:
    """The title, a line below it, and the organs' names and colours on a line up to the right margin."""
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, y), title, font=font(20, "-Bold"), fill=TEXT)
    draw.text((MARGIN, y + 28), below, font=font(12), fill=FAINT)
    x = page.width - MARGIN
    for name, code in reversed(ORGANS.items()):
        label = name.replace("_", " ")
        x -= int(draw.textlength(label, font=font(12)))
        draw.text((x, legend_y), label, font=font(12), fill=FAINT, anchor="lm")
        x -= 24
        draw.line((x, legend_y, x + 17, legend_y), fill=ORGAN_COLOURS[code], width=2)
        x -= 14


def _encoded(page: Image.Image, about: PngImagePlugin.PngInfo | None = None) -> bytes:
    buffer = io.BytesIO()
    page.save(buffer, "PNG", pnginfo=about, compress_level=6)
    return buffer.getvalue()


_CELL: Final = 240
_PAD: Final = 8
_CAPTION: Final = 50
_HEADER: Final = 70
REVIEW: Final = "Refused images are not used. Where kept outlines are wrong: prepare again with --min-score."


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
    images: Sequence[ReviewImage], out: Path, *, title: str, notice: str = REVIEW, columns: int = 6
) -> None:
    """Draws the images, in the order given, into a PNG at `out`, replaced as a whole."""
    assert images
    assert columns >= 1
    rows = -(-len(images) // columns)
    width, height = _CELL + 2 * _PAD, _CELL + _CAPTION + 2 * _PAD
    across = min(columns, max(len(images), 3))
    size = (2 * MARGIN + across * (width + _PAD) - _PAD, _HEADER + rows * (height + _PAD) + MARGIN)
    page = Image.new("RGB", size, PAGE)
    _header(page, title, notice, 14, 26)
    for at, image in enumerate(images):
        x, y = MARGIN + at % columns * (width + _PAD), _HEADER + at // columns * (height + _PAD)
        ImageDraw.Draw(page).rounded_rectangle((x, y, x + width - 1, y + height - 1), radius=8, fill=PANEL)
        page.paste(outlined(image.image, image.mask, _CELL), (x + _PAD, y + _PAD))
        _review_caption(ImageDraw.Draw(page), image, x + _PAD, y + _PAD + _CELL + 6)
    LocalStore(out.parent).replace(out.name, _encoded(page))


def _review_caption(draw: ImageDraw.ImageDraw, image: ReviewImage, x: int, y: int) -> None:
    score = "" if image.score is None else f"{image.score:.3f}"
    draw.text((x, y), _fitted(draw, image.name, _CELL, tail=True), font=font(12), fill=TEXT)
    if not (image.refused or image.remark):
        below = f"certainty {score}" if score else "mask was given"
        draw.text((x, y + 17), below, font=font(12), fill=FAINT)
        return
    refused = f"refused{f' ({score})' if score else ''}: {image.refused}"
    words = (refused if image.refused else image.remark).split(" ")
    fits = (n for n in range(len(words), 0, -1) if draw.textlength(" ".join(words[:n]), font=font(11)) <= _CELL)
    count = next(fits, len(words))
    draw.text((x, y + 15), " ".join(words[:count]), font=font(11), fill=WARNING)
    rest = _fitted(draw, " ".join(words[count:]), _CELL, tail=True)
    draw.text((x, y + 29), rest, font=font(11), fill=WARNING)
