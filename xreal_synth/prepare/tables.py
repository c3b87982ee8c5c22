"""A source's CSV tables: read from any store, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xreal_synth.anatomy.tables import Table, parse_table
from xreal_synth.errors import StorageError, TrainingError
from xreal_synth.opening import unzipped
from xreal_synth.storage import Store, open_store, sha256_bytes
from xreal_synth.uris import is_remote


def first_name(store: Store, names: Sequence[str], what: str) -> str:
    """The first of `names` that the store has, plain or with .gz; raises TrainingError."""
    for name in names:
        for candidate in (name, f"{name}.gz"):
            if store.exists(candidate):
                return candidate
    raise TrainingError(
        found=f"{store.uri}: none of {', '.join(names)} (nor .gz)",
        wanted=what,
        hint="give the folder that holds it; --tables names another place for the tables alone",
    )


def read_table(store: Store, name: str, needed: Sequence[str], encoding: str = "utf-8-sig") -> tuple[Table, str]:
    """A table, gzipped if its name ends in .gz, and its file's sha256.

    Raises TrainingError: unreadable, no rows, columns missing.
    """
    where = f"{store.uri}/{name}"
    try:
        data = store.read_bytes(name)
        plain = unzipped(data) if name.endswith(".gz") else data
        table = parse_table(plain, needed, encoding)
    except (StorageError, ValueError, LookupError) as error:
        raise _unreadable(where, encoding, error) from error
    missing = [column for column in needed if column not in table.columns]
    if missing or not table.rows:
        raise TrainingError(
            found=f"{where}: {'no column ' + ', '.join(missing) if missing else 'no rows'}"
            + (f"; its columns are {', '.join(table.columns)}" if missing and table.columns else ""),
            wanted=f"a table with the columns {', '.join(needed)}",
            hint="give the set's own table, or name your columns (--help)",
        )
    return table, sha256_bytes(data)


def read_beside(store: Store, name: str) -> bytes:
    """A file that the user named: beside the tables, or at any path or URI. Raises TrainingError."""
    try:
        if not (is_remote(name) or ".." in name or Path(name).is_absolute()) and store.exists(name):
            return store.read_bytes(name)
        folder, _, last = name.rpartition("/")
        return open_store(folder or ("/" if name.startswith("/") else ".")).read_bytes(last)
    except StorageError as error:
        raise TrainingError(
            found=error.found, wanted=f"a file in {store.uri}, or at the path or URI given", hint="correct the path"
        ) from error


def _unreadable(where: str, encoding: str, error: Exception) -> TrainingError:
    found = error.found if isinstance(error, StorageError) else f"{where}: {error}"
    wanted, hint = "a readable CSV table", "correct the path or the file"
    if isinstance(error, UnicodeDecodeError):
        found = f"{where}: byte {error.start} is not {encoding}"
        wanted = "a table in UTF-8, or in the encoding named"
        hint = "save it as UTF-8 or give its encoding, e.g. --encoding latin-1"
    elif isinstance(error, LookupError):
        found, wanted, hint = (f"encoding {encoding!r}", "an encoding that Python knows", "e.g. latin-1, cp1252")
    return TrainingError(found=found, wanted=wanted, hint=hint)
