"""Results of measurements as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """The table's lines."""
    written = [f"| {' | '.join(map(str, cells))} |" for cells in (columns, *rows)]
    return [written[0], "|" + "---|" * len(columns), *written[1:]]
