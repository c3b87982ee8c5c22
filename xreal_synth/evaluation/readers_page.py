"""A reader's page: one HTML file with its images in it, which loads nothing and sends nothing.

Its content security policy allows its own style and script, by their hashes, and pictures in the file itself.
Every image is a PNG of the same size, depth and encoder; a page knows images by random names alone.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from xreal_synth.evaluation.readers import GUESS, GUESSES, RANK, Kit, words
from xreal_synth.types import GreyImage

TEMPLATES: Final = Path(__file__).parent / "templates"
FORMAT: Final = "xreal-synth readers 1"

_QUESTIONS: Final[dict[str, tuple[str, tuple[str, str]]]] = {
    "anatomy": ("Anatomy", ("not like a real image", "like a real image")),
    "pathology": ("Pathology: %s", ("not like a real image", "like a real image")),
    "quality": ("Image quality", ("lowest", "highest")),
}


def reader_page(kit: Kit, reader: int, images: Sequence[GreyImage]) -> bytes:
    """The page of a reader; `images` uint8 [S, S] are the kit's, in its order."""
    showings = kit.readers[reader]
    study = {
        "format": FORMAT,
        "study": kit.study,
        "reader": reader,
        "questions": [_question(name) for name in kit.questions],
        "images": [
            {
                "name": one.name,
                "findings": words(kit.images[one.image].findings),
                "png": _png(images[one.image]),
            }
            for one in showings
        ],
    }
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("reader.css", "reader.js"))
    filled = {
        "STYLE_HASH": _hash(style),
        "SCRIPT_HASH": _hash(script),
        "READER": str(reader),
        "STYLE": style,
        "KEYS": " (<kbd>r</kbd> real, <kbd>s</kbd> synthetic)" if kit.guess else "",
        "STUDY": json.dumps(study).replace("<", "\\u003c"),
        "SCRIPT": script,
    }
    page = (TEMPLATES / "reader.html").read_text(encoding="utf-8")
    for name, text in filled.items():
        page = page.replace(f"@@{name}@@", text)
    return page.encode()


def _question(name: str) -> dict[str, Any]:
    if name == GUESS:
        options = [[value, value, value[0]] for value in GUESSES]
        return {"name": name, "text": "Is this image real or synthetic?", "options": options, "number": False}
    text, ends = _QUESTIONS[name]
    return {
        "name": name,
        "text": text,
        "options": [[str(rank), str(rank)] for rank in RANK],
        "ends": ends,
        "number": True,
    }


def _hash(text: str) -> str:
    """What a content security policy names an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _png(image: GreyImage) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=False, compress_level=6)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
