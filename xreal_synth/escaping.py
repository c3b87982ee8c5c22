"""Texts that may be a stranger's, written into what other programs show: one function for each medium.

HTML is escaped by jinja2's own autoescape (report.html); a finished text is marked as such with `markupsafe.Markup`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from markupsafe import Markup

from xreal_synth.uris import scrubbed

_UNSEEN: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What steers a terminal, or turns the order of what it shows; tab and newline are left."""
_PLACE: Final = re.compile(r"(?<![\w:/.\-<])(?:file://)?(?:/|~[\w.-]*/)(?:[^\s/'\"]+/)+")
_FORMULA: Final = re.compile(r"[=+\-@\t\r\n]")
_NUMBER: Final = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_MARKDOWN: Final = re.compile(r"[\\`|*]|!(?=\[)|\](?=[\[(:])")
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def for_terminal(text: str) -> str:
    """Without credentials; what a terminal would obey stands as `\\x1b`."""
    return _UNSEEN.sub(lambda one: repr(one[0])[1:-1], scrubbed(text))


def without_places(text: str) -> str:
    """Without the folders of absolute paths: where things lay on somebody's machine is not for publishing."""
    return _PLACE.sub("", text)


def for_csv(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: such a text begins with an apostrophe; numbers stay."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def from_csv(text: str) -> str:
    """The text of a cell that `for_csv` wrote."""
    return text[1:] if text[:1] == "'" and _FORMULA.match(text[1:]) else text


def for_markdown(value: object) -> object:
    """Text that stays text, on one line, in a Markdown document or a cell of its tables; others than texts stay."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    flat = " ".join(_UNSEEN.sub("", value).split())
    entities = re.sub(r"[&<>]", lambda one: _ENTITIES[one[0]], flat)
    return _MARKDOWN.sub(r"\\\g<0>", entities)


def markdown_table(header: Sequence[object], rows: Iterable[Iterable[object]]) -> list[str]:
    """A Markdown table's lines."""
    return [markdown_row(header), "|" + "---|" * len(header), *map(markdown_row, rows)]


def markdown_row(cells: Iterable[object]) -> str:
    """`| a | b |`."""
    return f"| {' | '.join(str(for_markdown(cell)) for cell in cells)} |"
