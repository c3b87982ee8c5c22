"""`excluded.csv`: films of a dataset that its readers leave out, with the reason; the shards stay as they are.

`SyntheticDataset` and the exports honour it. Whoever opens the tars with other tools must read it too. A film is
taken in again when its line, or the file, is removed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from xreal_synth.errors import DatasetError
from xreal_synth.escaping import for_csv, from_csv
from xreal_synth.shards.names import EXCLUDED, parse_key
from xreal_synth.storage import Store

COLUMNS = ("key", "reason")


def read_excluded(store: Store) -> dict[str, str]:
    """Key -> reason, nothing where there is no such file; raises DatasetError for a file that is not one."""
    if not store.exists(EXCLUDED):
        return {}
    where = f"{store.uri}/{EXCLUDED}"
    try:
        rows = list(csv.reader(io.StringIO(store.read_bytes(EXCLUDED).decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _faulty(where, str(error)) from error
    if not rows or tuple(rows[0]) != COLUMNS:
        raise _faulty(where, f"first line {rows[0] if rows else 'missing'}")
    found = {}
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(COLUMNS):
            raise _faulty(where, f"line {line}: {len(row)} cells")
        key, reason = row
        parse_key(key, f"{where} line {line}")
        found[key] = from_csv(reason)
    return found


def add_excluded(store: Store, films: Mapping[str, str]) -> int:
    """Adds films with their reasons, those that are named already keep theirs; returns how many are new."""
    former = read_excluded(store)
    new = {key: reason for key, reason in films.items() if key not in former}
    if new:
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows((key, for_csv(reason)) for key, reason in sorted({**former, **new}.items()))
        store.replace(EXCLUDED, text.getvalue().encode())
    return len(new)


def _faulty(where: str, found: str) -> DatasetError:
    return DatasetError(
        where=where,
        found=found,
        wanted=f"a table with the columns {', '.join(COLUMNS)}",
        mend="correct the file, or remove it to take all films in",
    )
