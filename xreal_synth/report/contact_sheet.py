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
from xreal_synth.types import GreyImage, Mask, Role, Sample, SampleMeta, SourceImage

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


@dataclass(frozen=True, slots=True)
class _SheetBlock:
    """Members of one group that stand side by side on one row."""

    samples: tuple[Sample, ...]
    twin: bool

    @property
    def width(self) -> int:
        return len(self.samples) * (CELL + GAP) - GAP + 2 * PAD


def contact_sheet(samples: Iterable[Sample], out: Path, *, columns: int = 6, title: str) -> None:
    """Draws the samples into a PNG at `out`, a group's members side by side, `columns` images a row.

    Each image is drawn twice: as it is, and with organ outlines, finding regions, boxes and names. Raises
    DatasetError if there are no samples.
    """
    LocalStore(out.parent).replace(out.name, sheet_png(samples, columns=columns, title=title))


def sheet_png(samples: Iterable[Sample], *, columns: int = 6, title: str) -> bytes:
    """The same sheet as PNG bytes, for places that are not a folder. Raises DatasetError where there is no image."""
    return _encoded(*sheet_picture(samples, columns=columns, title=title))


def sheet_picture(samples: Iterable[Sample], *, columns: int = 6, title: str) -> tuple[Image.Image, str, str]:
    """The same sheet as a picture, its title and its notice. Raises DatasetError where there is no image."""
    assert columns >= 1
    rows = _rows(_blocks(samples, columns), columns)
    if not rows:
        raise DatasetError(
            found="no images to draw a contact sheet of", hint="make at least one sample first"
        )
    widest = max(sum(block.width + PAD for block in row) - PAD for row in rows)
    heights = [_row_height(row) for row in rows]
    width = max(widest + 2 * MARGIN, 720)
    page = Image.new("RGB", (width, HEADER + sum(heights) + PAD * (len(rows) - 1) + FOOTER), PAGE)
    images = sum(len(block.samples) for row in rows for block in row)
    free = rows[0][0].samples[0].meta.sampling.get("control") == "none"
    _header(page, title, images, free=free)
    y = HEADER
    for row, height in zip(rows, heights, strict=True):
        x = MARGIN
        for block in row:
            _draw_block(page, block, x, y, height)
            x += block.width + PAD
        y += height + PAD
    real = any(sample.meta.source for row in rows for block in row for sample in block.samples)
    notice = NOTICE_EDITED if real else NOTICE
    _footer(page, notice)
    return page, title, notice


def _blocks(samples: Iterable[Sample], columns: int) -> list[_SheetBlock]:
    """One block per group, cut where a group has more members than a row has room for."""
    blocks = []
    for _, run in groupby(samples, key=lambda sample: sample.meta.group):
        members = tuple(run)
        twin = any(sample.meta.member != Role.healthy for sample in members)
        cuts = range(0, len(members), columns)
        blocks += [_SheetBlock(members[start : start + columns], twin) for start in cuts]
    return blocks


def _rows(blocks: Iterable[_SheetBlock], columns: int) -> list[list[_SheetBlock]]:
    rows: list[list[_SheetBlock]] = []
    room = 0
    for block in blocks:
        if len(block.samples) > room:
            rows.append([])
            room = columns
        rows[-1].append(block)
        room -= len(block.samples)
    return rows


def _row_height(row: Iterable[_SheetBlock]) -> int:
    images = [plain_height(sample) for block in row for sample in block.samples]
    return 2 * max(images) + GAP + CAPTION + 2 * PAD


def plain_height(sample: Sample) -> int:
    """Pixels that an image takes on the sheet, top to bottom."""
    height, width = sample.image.shape
    return int(max(1, round(CELL * height / width)))


def _draw_block(page: Image.Image, block: _SheetBlock, x: int, y: int, height: int) -> None:
    draw = ImageDraw.Draw(page)
    draw.rounded_rectangle((x, y, x + block.width - 1, y + height - 1), radius=8, fill=PANEL)
    for place, sample in enumerate(block.samples):
        left, top = x + PAD + place * (CELL + GAP), y + PAD
        page.paste(plain(sample, CELL), (left, top))
        page.paste(annotated(sample, CELL), (left, top + plain_height(sample) + GAP))
        _caption(draw, sample, block.twin, left, y + height - PAD - CAPTION + 8)


def _caption(draw: ImageDraw.ImageDraw, sample: Sample, twin: bool, x: int, y: int) -> None:
    role, *details = _captions(sample, twin)
    draw.text((x, y), sample.meta.key, font=font(13, "-Bold"), fill=TEXT)
    draw.text((x + CELL, y + 1), role, font=font(11), fill=FAINT, anchor="ra")
    for line, text in enumerate(details[:2]):
        draw.text((x, y + 19 + 15 * line), fitted(draw, text, CELL), font=font(12), fill=TEXT)


def _captions(sample: Sample, twin: bool) -> list[str]:
    member, findings = sample.meta.member, sample.meta.findings
    if sample.meta.source is not None:
        return _image_captions(sample.meta, sample.meta.source)
    role = {Role.healthy: "healthy twin" if twin else "", Role.variant: "variant", Role.sham: "sham"}[
        Role.of(member)
    ]
    if sample.meta.sham:
        return [role, *_sham_captions(sample.meta)]
    if not findings:
        return [role, "no finding asked for"]
    placed = [" ".join([finding.name, *_where(finding.side, finding.zone)]) for finding in findings]
    return [role, placed[0], ", ".join(placed[1:])]


def _image_captions(meta: SampleMeta, source: SourceImage) -> list[str]:
    if meta.member == Role.healthy:
        return ["real image", source.id, ", ".join(source.labels)]
    if meta.sham:
        return ["sham of a real image", *_sham_captions(meta)]
    gone = [f"{own.name} painted over" for own in source.findings if own.removed is not None]
    placed = [" ".join([finding.name, *_where(finding.side, finding.zone)]) for finding in meta.findings]
    return ["edited", *(", ".join(part) for part in (gone, placed) if part)]


def _sham_captions(meta: SampleMeta) -> list[str]:
    """A sham shows no finding, in the regions where the first variant shows some, or another group would."""
    return ["painted healthy, in place of", ", ".join(place.name for place in meta.sham)]


def _where(side: str, zone: str) -> list[str]:
    words = [word for word in (side, zone) if word not in ("any", "", "none")]
    return ["·", *words] if words else []


def fitted(draw: ImageDraw.ImageDraw, text: str, width: int, *, tail: bool = False) -> str:
    """The text, or as much of its beginning (its end with `tail`) as is `width` pixels wide."""
    if draw.textlength(text, font=font(12)) <= width:
        return text
    while text and draw.textlength(f"{text}…", font=font(12)) > width:
        text = text[1:] if tail else text[:-1]
    return f"…{text}" if tail else f"{text.rstrip()}…"


def _header(page: Image.Image, title: str, images: int, *, free: bool) -> None:
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, 18), title, font=font(20, "-Bold"), fill=TEXT)
    counted = "1 image" if images == 1 else f"{images} images"
    below = "with its masks below"
    if free:
        below = "below with organ masks that it was not made to follow (control: none)"
    draw.text((MARGIN, 46), f"{counted}, each plain above and {below}", font=font(12), fill=FAINT)
    legend(draw, page.width, 53)


def legend(draw: ImageDraw.ImageDraw, width: int, y: int) -> None:
    """The organs' names and colours on a line, up to the right margin of a page of this width."""
    x = width - MARGIN
    for name, code in reversed(ORGANS.items()):
        label = name.replace("_", " ")
        x -= int(draw.textlength(label, font=font(12)))
        draw.text((x, y), label, font=font(12), fill=FAINT, anchor="lm")
        x -= 24
        draw.line((x, y, x + 17, y), fill=ORGAN_COLOURS[code], width=2)
        x -= 14


def _footer(page: Image.Image, notice: str) -> None:
    draw = ImageDraw.Draw(page)
    y = page.height - FOOTER // 2
    draw.text((MARGIN, y), notice, font=font(15, "-Bold"), fill=WARNING, anchor="lm")
    side = "sides are the patient's: left is on the right of the picture"
    if page.width > 1100:
        draw.text((page.width - MARGIN, y), side, font=font(12), fill=FAINT, anchor="rm")


def _encoded(page: Image.Image, title: str, notice: str) -> bytes:
    reported = PngImagePlugin.PngInfo()
    reported.add_itxt("Title", title)
    reported.add_itxt("Description", notice)
    buffer = io.BytesIO()
    page.save(buffer, "PNG", pnginfo=reported, compress_level=6)
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
    _review_header(page, title, notice)
    for at, image in enumerate(images):
        x, y = MARGIN + at % columns * (width + _PAD), _HEADER + at // columns * (height + _PAD)
        ImageDraw.Draw(page).rounded_rectangle((x, y, x + width - 1, y + height - 1), radius=8, fill=PANEL)
        page.paste(outlined(image.image, image.mask, _CELL), (x + _PAD, y + _PAD))
        _review_caption(ImageDraw.Draw(page), image, x + _PAD, y + _PAD + _CELL + 6)
    buffer = io.BytesIO()
    page.save(buffer, "PNG", compress_level=6)
    LocalStore(out.parent).replace(out.name, buffer.getvalue())


def _review_header(page: Image.Image, title: str, notice: str) -> None:
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, 14), title, font=font(20, "-Bold"), fill=TEXT)
    draw.text((MARGIN, 42), notice, font=font(12), fill=FAINT)
    legend(draw, page.width, 26)


def _review_caption(draw: ImageDraw.ImageDraw, image: ReviewImage, x: int, y: int) -> None:
    draw.text((x, y), fitted(draw, image.name, _CELL, tail=True), font=font(12), fill=TEXT)
    if image.refused or image.remark:
        refused = f"refused{_score(image, ' ({})')}: {image.refused}"
        first, rest = _two_lines(draw, refused if image.refused else image.remark)
        draw.text((x, y + 15), first, font=font(11), fill=WARNING)
        draw.text((x, y + 29), fitted(draw, rest, _CELL, tail=True), font=font(11), fill=WARNING)
        return
    draw.text((x, y + 17), _score(image, "certainty {}") or "mask was given", font=font(12), fill=FAINT)


def _score(image: ReviewImage, text: str) -> str:
    return "" if image.score is None else text.format(f"{image.score:.3f}")


def _two_lines(draw: ImageDraw.ImageDraw, text: str) -> tuple[str, str]:
    words = text.split(" ")
    for count in range(len(words), 0, -1):
        first = " ".join(words[:count])
        if draw.textlength(first, font=font(11)) <= _CELL:
            return first, " ".join(words[count:])
    return text, ""
