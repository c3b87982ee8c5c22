"""What the verbs print with: the console, tables, JSON, sizes and times in words."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any

from rich import filesize
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from xreal_synth.escaping import for_terminal
from xreal_synth.evaluation.kept import null_for_nan


class _Terminal(Console):
    """Shows texts as they are, brackets and colons too, but so that none steers the terminal or tells a credential."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(for_terminal(text), **how)


console = _Terminal(highlight=False, soft_wrap=False, markup=False, emoji=False)
notes = _Terminal(stderr=True, highlight=False, markup=False, emoji=False)


def first_sentence(text: str) -> str:
    """Of a YAML file's first comment."""
    lines = takewhile(lambda line: line.startswith("# "), text.splitlines())
    return re.split(r"(?<=[.:]) ", " ".join(line[1:].strip() for line in lines))[0].rstrip(".:")


def table_of(rows: Iterable[Sequence[Any]], *header: str | Column, **how: Any) -> Table:
    """Rows of texts or numbers, without a header names with what is said of each; `how` is rich's."""
    table = Table(*header, show_header=bool(header), **how)
    for row in rows:
        table.add_row(*map(str, row))
    return table


def note(line: str) -> None:
    """A line beside the output."""
    notes.print(line, soft_wrap=True)


def print_json(value: Any) -> None:
    """For scripts; NaN is null."""
    text = json.dumps(null_for_nan(value), indent=2, ensure_ascii=False, default=str)
    sys.stdout.write(re.sub(r"[\x7f-\x9f]", lambda one: f"\\u{ord(one[0]):04x}", text) + "\n")


def told(as_json: bool, fields: Any, *shown: str | Table) -> None:
    """A command's result: for scripts, or in lines and tables."""
    if as_json:
        print_json(fields)
        return
    for one in shown:
        console.print(one, soft_wrap=isinstance(one, str))


def seconds_text(seconds: float) -> str:
    """`42 s`, `3.5 min`, `7.2 h`, `12 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:,.0f} days"


def bytes_text(size: float) -> str:
    """`12.3 MB`, powers of 1000."""
    return filesize.decimal(round(size))
