"""The tables of measuring commands: shown, and written as Markdown with --out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from xreal_synth.cli.options import console
from xreal_synth.errors import XrealError
from xreal_synth.escaping import markdown_row


def _writable(out: Path | None) -> Path | None:
    """Asked before anything is measured."""
    if out is not None and not out.absolute().parent.is_dir():
        raise XrealError(found=f"no folder {out.parent}", wanted="a file that can be written", mend="make it")
    if out is not None and out.is_dir():
        raise XrealError(
            found=f"{out} is a folder", wanted="a file that can be written", mend="name a file in it"
        )
    return out


OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Also writes the tables as Markdown.", show_default="no", callback=_writable),
]


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The table's lines."""
    lines = [columns, *rows]
    written = [markdown_row(cells) for cells in lines]
    return [written[0], "|" + "---|" * len(columns), *written[1:]]


def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints the table."""
    table = Table(*columns)
    for cells in rows:
        table.add_row(*cells)
    console.print(table)
