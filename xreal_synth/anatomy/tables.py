"""A table as people and programs save one: any usual separator, UTF-8 or UTF-16, cells without blanks round them."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from xreal_synth.opening import MAX_COLUMNS, UnreadableError

Row = dict[str, str]
SEPARATORS: Final = (",", ";", "\t", "|")
_MARKS: Final = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, rows with a cell for each, the rows' line numbers, and the line numbers of rows with more or fewer."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    lines: tuple[int, ...]
    torn: tuple[int, ...]


def parse_table(data: bytes, needed: Collection[str] = (), encoding: str = "utf-8-sig") -> Table:
    """A table in a file's bytes; a byte order mark, or the zero bytes of UTF-16, win over `encoding`. Empty rows do
    not count.

    The separator is `,` `;` tab or `|`: that which a first line `sep=;` names, or which gives the `needed` columns,
    or most columns. Raises ValueError: not text of that encoding, a quote that does not end, a column twice with
    different cells. Raises LookupError for an unknown encoding.
    """
    wide = {b"\0": "utf-16-be"}.get(data[:1]) or {b"\0": "utf-16-le"}.get(data[1:2])
    text = data.decode(next((own for mark, own in _MARKS if data.startswith(mark)), wide or encoding))
    if "\0" in text:
        raise UnreadableError("zero bytes: no text")
    head, _, rest = text.partition("\n")
    named = head.strip().strip('"')
    separator = named[4:] if named.startswith("sep=") and len(named) == 5 else ""
    try:
        rows, lines = _cells(rest if separator else text, separator or _separator(text, needed))
    except csv.Error as error:
        raise UnreadableError(str(error)) from error
    if not rows:
        return Table((), (), (), ())
    columns = [cell.removeprefix("\ufeff") for cell in rows[0]]
    if len(columns) > MAX_COLUMNS:
        raise UnreadableError(f"more than {MAX_COLUMNS} columns")
    return _table(columns, rows[1:], [line + bool(separator) for line in lines[1:]])


def _cells(text: str, separator: str) -> tuple[list[list[str]], list[int]]:
    """The cells of every row that is not empty, and the line that it ends on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, lines = [], []
    for row in reader:
        cells = [cell.strip() for cell in row]
        if any(cells):
            rows.append(cells)
            lines.append(reader.line_num)
    return rows, lines


def _separator(text: str, needed: Collection[str]) -> str:
    head = next((line for line in text.splitlines() if line.strip()), "")
    found = {}
    for separator in SEPARATORS:
        cells = {cell.strip() for cell in next(csv.reader([head], delimiter=separator), [])}
        found[separator] = (len(cells & set(needed)), len(cells))
    return max(SEPARATORS, key=lambda separator: found[separator])


def _table(columns: Sequence[str], rows: Sequence[list[str]], lines: Sequence[int]) -> Table:
    first = {name: at for at, name in reversed(list(enumerate(columns)))}
    doubled = [at for at, name in enumerate(columns) if name and first[name] != at]
    least = max(at for at, name in enumerate(columns) if name) + 1
    whole: list[Row] = []
    kept, torn = [], []
    for given, line in zip(rows, lines, strict=True):
        if len(given) < least or any(given[len(columns) :]):
            torn.append(line)
            continue
        cells = given + [""] * (len(columns) - len(given))
        for at in doubled:
            if cells[at] != cells[first[columns[at]]]:
                raise UnreadableError(f"line {line}: column {columns[at]} stands twice, with different cells")
        whole.append({name: cells[at] for name, at in first.items()})
        kept.append(line)
    return Table(tuple(dict.fromkeys(columns)), tuple(whole), tuple(kept), tuple(torn))
