"""What the studio shows: chests with boxes drawn on them, an image in four pictures, its facts and its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from markupsafe import Markup
from PIL import Image, ImageDraw

from xreal_synth.generated import GeneratedImage
from xreal_synth.report.drawing import OWN_COLOUR, Mark, annotated, change_picture, finding_colour, frame, outlined
from xreal_synth.report.words import words_for
from xreal_synth.studio.making import Canvas
from xreal_synth.types import NormBox

SIDE: Final = 512
"""Pixels of a picture that is drawn on."""
FOUR: Final = ("healthy", "findings", "difference", "marked")
_ARM: Final = 9


def chest_picture(
    canvas: Canvas, boxes: Mapping[int, tuple[str, NormBox]], corner: tuple[float, float] | None
) -> Image.Image:
    """The chest with its findings' boxes by number, shares of the picture, and a cross at a box's first corner."""
    picture = outlined(canvas.grey, canvas.organs, SIDE)
    for number, (name, (x0, y0, x1, y1)) in boxes.items():
        pixels = round(x0 * SIDE), round(y0 * SIDE), round(x1 * SIDE), round(y1 * SIDE)
        mark = Mark(name, (pixels,), finding_colour(number))
        frame(picture, mark, 1)
    if corner is not None:
        x, y = (round(value * SIDE) for value in corner)
        for line in ((x - _ARM, y, x + _ARM, y), (x, y - _ARM, x, y + _ARM)):
            ImageDraw.Draw(picture).line(line, fill=OWN_COLOUR, width=3)
    return picture


def box_between(one: tuple[float, float], other: tuple[float, float]) -> NormBox:
    """The box with these two corners, shares of the picture."""
    (x0, x1), (y0, y1) = (sorted(round(value, 4) for value in pair) for pair in zip(one, other, strict=True))
    return x0, y0, x1, y1


def four_pictures(one: GeneratedImage) -> tuple[Image.Image | None, ...]:
    """FOUR of an image: its twin (of an edited image the real one), None without one; itself; the change; marks."""
    twin = one.healthy or one.original
    change = change_picture(one.sample.image, one.change, None if one.twin is None else one.twin.image)
    return twin, one.image, Image.fromarray(change), annotated(one.sample, SIDE)


def facts(one: GeneratedImage, seconds: float | None = None) -> Markup:
    """Key, seconds, labels, attempt and heart of an image."""
    meta = one.sample.meta
    positive = ", ".join(name for name, value in one.labels.items() if value == 1) or "none"
    unknown = ", ".join(name for name, value in one.labels.items() if value is None)
    told = [("image", one.key), ("seed", str(meta.seed)), ("positive", positive)]
    told += [("unknown", unknown)] if unknown and len(unknown) < 200 else []
    told += [("heart", f"{meta.ctr:.2f} of the chest's width")] if meta.ctr is not None else []
    told += [("drawn again", f"{meta.attempt} times")] if meta.attempt else []
    told += [("took", f"{seconds:.1f} s")] if seconds is not None else []
    return _table(told)


def scores(one: GeneratedImage) -> Markup:
    """The gate's scores of an image, flagged ones first, in words."""
    quality = one.sample.meta.quality
    if quality is None:
        return Markup("<p>no gate looked at this image</p>")
    rows = sorted(quality.scores.items(), key=lambda score: (score[0] not in quality.flags, score[0]))
    return _table(
        (f"{'flagged: ' if name in quality.flags else ''}{words_for(name) or name}", f"{value:.4g}")
        for name, value in rows
    )


def _table(rows: Iterable[tuple[str, str]]) -> Markup:
    row = Markup("<tr><th>{}</th><td>{}</td></tr>")
    return Markup("<table class='facts'>{}</table>").format(Markup("").join(row.format(*one) for one in rows))
